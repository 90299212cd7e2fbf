"""``vital-eval compare``: two runs, or two modes of one run, tested against each other."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vital_eval.cli.output import say
from vital_eval.errors import RunLogError

if TYPE_CHECKING:
    from vital_eval.leaderboards.run_comparison import RunComparison

#: The question that a run with several modes is made to answer.
MODES = "tool,cot"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "one", metavar="RUN_A", help="run folder, or FOLDER@MODE; alone, two of its modes are compared (see --modes)"
    )
    parser.add_argument("other", metavar="RUN_B", nargs="?", help="what it is held against; A minus B is shown")
    parser.add_argument("--modes", metavar="A,B", help=f"modes to compare of one run (default: {MODES})")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="FIELD",
        help="protocol field that may differ, as view.max_frames; may be given several times",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers into this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table into this file")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write compare.md, .csv, .tex and .json into this folder"
    )


def execute(args: argparse.Namespace) -> int:
    """Compare, write what is asked for, print the table."""
    from vital_eval.leaderboards.compare_tables import (
        comparison_json,
        comparison_markdown,
        write_comparison,
        write_page,
    )

    found = _compare(args)
    command = _command(args)
    files: list[Path] = []
    if args.json is not None:
        files.append(write_page(args.json, comparison_json(found, command)))
    if args.markdown is not None:
        files.append(write_page(args.markdown, comparison_markdown(found, command)))
    if args.out is not None:
        files += write_comparison(found, command, args.out)
    _show(found)
    for path in files:
        say(str(path))
    return 0


def _compare(args: argparse.Namespace) -> RunComparison:
    from vital_eval.leaderboards.run_comparison import compare_modes, compare_runs, parse_choice, parse_mode

    one = parse_choice(args.one)
    if args.other is not None:
        if args.modes is not None:
            raise RunLogError("--modes chooses two modes of one run", "with two runs, write FOLDER@MODE")
        return compare_runs(one, parse_choice(args.other), args.allow)
    if one.mode is not None:
        raise RunLogError(f"{one} alone is compared with nothing", "name a second run, or use --modes A,B")
    modes = (args.modes or MODES).split(",")
    if len(modes) != 2:
        raise RunLogError(f"--modes {args.modes} names {len(modes)}", "name two modes, as tool,cot")
    return compare_modes(one.folder, parse_mode(modes[0]), parse_mode(modes[1]), args.allow)


def _command(args: argparse.Namespace) -> str:
    words = ["vital-eval", "compare", args.one, *([] if args.other is None else [args.other])]
    words += [] if args.modes is None else ["--modes", args.modes]
    return shlex.join([*words, *(word for field in args.allow for word in ("--allow", field))])


def _show(found: RunComparison) -> None:
    from vital_eval.leaderboards.compare_tables import terminal_comparison_tables
    from vital_eval.leaderboards.render_terminal import print_tables, tables_text

    tables = terminal_comparison_tables(found)
    if sys.stdout.isatty():
        print_tables(tables, found.remarks)
    else:
        say(tables_text(tables, found.remarks))
