"""``vital-eval data``: check, filter and build training data."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vital_eval.cli import data_roll
from vital_eval.cli.output import EXIT_ERROR, EXIT_OWED, complain, say, table
from vital_eval.errors import DataError

if TYPE_CHECKING:
    from vital_eval.training.data_run import FileReport

_FORMS = {"cot": "MTVR_CoT", "rl": "MTVR_RL", "tool-cot": "MTVR_Tool_CoT", "tool-rl": "MTVR_Tool_RL"}
_SHOWN_IDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    check = _action(actions, "check", "read files of records and say what is wrong with them")
    check.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a JSON list of records")
    media = check.add_mutually_exclusive_group(required=True)
    media.add_argument("--media-root", type=Path, metavar="DIR", help="folder of the videos and images")
    media.add_argument("--no-media", action="store_true", help="do not look for videos and images")
    check.add_argument("--form", choices=tuple(_FORMS), help="form of the records (default: the name of the folder)")
    check.add_argument("--write-kept", type=Path, metavar="DIR", help="write the sound records to DIR/<form>/<name>")
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_data_source(check)

    nano = _action(actions, "nano", "write all four forms, with videos, for the nano world")
    nano.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    nano.add_argument("--per-source", type=data_roll.positive, required=True, metavar="N", help="records a file")
    nano.add_argument("--seed", type=_seed, required=True, metavar="S", help="of the train world")

    roll = _action(actions, "roll", "have a checkpoint try RL records; the same command again goes on")
    _add_records(roll)
    data_roll.add_arguments(roll)

    chosen = _action(actions, "filter", "keep the RL records that a checkpoint solves sometimes")
    _add_records(chosen)
    chosen.add_argument("--rolls", type=Path, required=True, metavar="FILE.jsonl", help="what `data roll` wrote")
    chosen.add_argument("--out", type=Path, required=True, metavar="FILE", help="file for the records that are kept")
    chosen.add_argument("--allow-missing", action="store_true", help="leave out records without rolls")
    chosen.add_argument(
        "--threshold", type=data_roll.threshold, metavar="T", help="least score that passes (default: as rolled)"
    )

    tool = _action(actions, "tool-cot", "build tool dialogues from grounding RL records")
    _add_records(tool)
    tool.add_argument("--out", type=Path, required=True, metavar="FILE", help="file for the dialogues")
    tool.add_argument("--thoughts", type=Path, metavar="FILE.jsonl", help="lines with id, look and answer")
    tool.add_argument(
        "--noise",
        type=_noise,
        default=0.2,
        metavar="X",
        help="of the clip's ends, in lengths of the span (default: 0.2)",
    )
    tool.add_argument("--seed", type=_seed, default=0, metavar="S", help="of the noise (default: 0)")


def execute(args: argparse.Namespace) -> int:
    """Run the sub-command."""
    return _ACTIONS[args.action](args)


def _check(args: argparse.Namespace) -> int:
    from vital_eval.training.data_run import check_file
    from vital_eval.training.mtvr.files import write_records
    from vital_eval.training.mtvr.records import Form

    if args.media_root is not None and not args.media_root.is_dir():
        raise DataError(f"{args.media_root} is no folder", "give the folder of the videos with --media-root")
    form = Form(_FORMS[args.form]) if args.form else None
    reports = [check_file(path, args.media_root, form, args.data_source) for path in args.files]
    if args.write_kept is not None:
        targets = {
            report.path: args.write_kept / report.form / report.path.name
            for report in reports
            if report.form is not None and report.kept
        }
        if len(set(targets.values())) != len(targets):
            raise DataError("two files would be written to the same place", "check them one after the other")
        for target in targets.values():
            _refuse_own_input(target, *args.files)
        for report in reports:
            if report.path in targets:
                write_records(targets[report.path], report.kept)
    if args.json:
        say(json.dumps({"files": [_report_to_json(report) for report in reports]}, indent=1))
    else:
        say(table(("file", "form", "records", "kept", "faults"), [_row(report) for report in reports]))
    for report in reports:
        for record in report.malformed:
            named = f" (id {record.id!r:.80})" if record.id else ""
            place = f"{report.path}, record {record.number}{named}"
            complain(f"{place}: {record.kind}: {record.problem}; {record.mend}")
        if report.error:
            # It names the file where it is about reading; a check of records does not know the file.
            complain(report.error if str(report.path) in report.error else f"{report.path}: {report.error}")
        for fault, cases in report.examples.items():
            for case in cases:
                complain(f"{report.path}: {fault}: {case}")
    if any(report.error for report in reports):
        return EXIT_ERROR
    return EXIT_OWED if any(report.all_counts() for report in reports) else 0


def _row(report: FileReport) -> tuple[str, ...]:
    faults = ", ".join(f"{fault} {count}" for fault, count in report.all_counts().items())
    return (
        str(report.path),
        report.form or "-",
        str(report.total or "-"),
        str(len(report.kept)),
        faults or ("see below" if report.error else "none"),
    )


def _report_to_json(report: FileReport) -> Mapping[str, Any]:
    return {
        "file": str(report.path),
        "form": report.form,
        "records": report.total,
        "kept": len(report.kept),
        "malformed": [
            {
                "record": record.number,
                "id": record.id,
                "kind": record.kind,
                "problem": record.problem,
                "mend": record.mend,
            }
            for record in report.malformed
        ],
        "counts": dict(report.all_counts()),
        "faults": {
            fault: {"records": count, "examples": list(report.examples[fault])}
            for fault, count in report.counts.items()
        },
        "error": report.error,
    }


def _nano(args: argparse.Namespace) -> int:
    from vital_eval.training.data_run import write_new_nano

    counts = write_new_nano(args.out, args.seed, args.per_source)
    say(table(("file", "records"), [(name, str(count)) for name, count in counts.records.items()]))
    say(f"\n{counts.videos} videos; media folder: {args.out}")
    return 0


def _filter(args: argparse.Namespace) -> int:
    from vital_eval.training.data_run import filter_records, read_sound_rl
    from vital_eval.training.mtvr.files import write_records
    from vital_eval.training.rolls import read_rolls

    _refuse_own_input(args.out, args.file, args.rolls)
    records = read_sound_rl(args.file, args.data_source)
    rolls = read_rolls(args.rolls)
    if rolls is None:
        raise DataError(f"{args.rolls} holds no rolls", "write it with `data roll`")
    result = filter_records(records, rolls, allow_missing=args.allow_missing, threshold=args.threshold)
    write_records(args.out, result.kept)
    rows = [
        ("kept: some rollouts pass", str(len(result.kept))),
        ("dropped: all pass", str(len(result.filtered.all_passed))),
        ("dropped: none passes", str(len(result.filtered.none_passed))),
        ("left out: no rolls", str(len(result.missing))),
    ]
    say(table((f"of {len(records)} records", "records"), rows))
    say(f"\n{rolls.identity.rollouts} rollouts a record, passed from {result.threshold:g} on; written: {args.out}")
    if result.missing:
        complain(f"left out without rolls: {_some(result.missing)}")
    return 0


def _tool_cot(args: argparse.Namespace) -> int:
    from vital_eval.training.data_run import build_tool_cot, grounding_records, read_sound_rl
    from vital_eval.training.mtvr.files import write_records
    from vital_eval.training.thoughts import NanoThoughts, are_nano, read_thoughts

    _refuse_own_input(args.out, args.file, *([] if args.thoughts is None else [args.thoughts]))
    thoughts = None if args.thoughts is None else read_thoughts(args.thoughts)
    records = read_sound_rl(args.file, args.data_source)
    grounding = grounding_records(records)
    if thoughts is None:
        if not are_nano(grounding):
            raise DataError(
                "no template can write the thoughts of real videos",
                "give a file of lines with id, look and answer with --thoughts",
            )
        built = build_tool_cot(records, NanoThoughts(), args.seed, args.noise, decimals=0)
    else:
        known = {record.id for record in grounding}
        if missing := tuple(record.id for record in grounding if record.id not in thoughts.by_id):
            raise DataError(
                f"{args.thoughts} lacks {len(missing)} of {len(grounding)} grounding records: {_some(missing)}",
                "add a line for each",
            )
        if unused := tuple(name for name in thoughts.by_id if name not in known):
            complain(f"thoughts on no grounding record of the file: {_some(unused)}")
        built = build_tool_cot(records, thoughts, args.seed, args.noise)
    write_records(args.out, built.records)
    say(f"{len(built.records)} dialogues of {len(records)} records: {args.out}")
    if built.no_moment:
        complain(f"{len(built.no_moment)} records ask for no moment and were left out: {_some(built.no_moment)}")
    if built.not_visible:
        complain(f"{len(built.not_visible)} moments are not visible and were left out: {_some(built.not_visible)}")
    return 0


def _refuse_own_input(out: Path, *inputs: Path) -> None:
    if any(out.resolve() == path.resolve() for path in inputs):
        raise DataError(f"{out} would be written over its own input", "give another file or folder")


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - _SHOWN_IDS
    return ", ".join(names[:_SHOWN_IDS]) + (f" and {more} more" if more > 0 else "")


_ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "check": _check,
    "nano": _nano,
    "roll": data_roll.execute,
    "filter": _filter,
    "tool-cot": _tool_cot,
}


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    # Without a default of its own, so that the flag may stand before the action as well.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show where an error comes from"
    )
    return parser


def _add_records(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a JSON list of RL records")
    _add_data_source(parser)


def _add_data_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-source", metavar="NAME", help="of records that name none")


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number from 0 to 999999999")
    return int(text)


def _noise(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 0.5:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number from 0 to below 0.5")
    return value
