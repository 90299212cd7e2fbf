"""``vital-eval tasks``: what can be evaluated."""

from __future__ import annotations

import argparse
from pathlib import Path

from vital_eval.cli.output import say, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE.py", help="load more tasks")


def execute(args: argparse.Namespace) -> int:
    """List every registered task."""
    from vital_eval.registry import Registries

    registries = Registries(tuple(args.plugin))
    rows = []
    for name in registries.tasks.names():
        task = registries.tasks.load(name)()
        rows.append((name, task.title, task.primary, ", ".join(task.annotation_files())))
    say(table(("task", "title", "headline metric", "files below <data root>/<task>/"), rows))
    return 0
