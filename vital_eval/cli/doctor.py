"""``vital-eval doctor``: what works on this machine and what does not."""

from __future__ import annotations

import argparse
from pathlib import Path

from vital_eval.cli.output import EXIT_ERROR, complain, say, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="check the tasks' files below this folder, too")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="check this checkpoint folder, too")
    parser.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE.py", help="load more tasks")


def execute(args: argparse.Namespace) -> int:
    """Print one line per finding; the status says whether something must be mended."""
    from vital_eval.doctor import examine_checkpoint, examine_data, examine_machine
    from vital_eval.registry import Registries

    findings = examine_machine()
    if args.data_root is not None:
        findings += examine_data(args.data_root, Registries(tuple(args.plugin)))
    if args.checkpoint is not None:
        findings.append(examine_checkpoint(args.checkpoint))
    say(table(("topic", "verdict", "detail"), [(f.topic, f.verdict.value, f.detail) for f in findings]))
    wrong = sum(not finding.fine for finding in findings)
    if wrong:
        complain(f"{wrong} of {len(findings)} findings must be mended")
        return EXIT_ERROR
    return 0
