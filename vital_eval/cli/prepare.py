"""``vital-eval prepare``: is a benchmark complete on this machine?"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

from vital_eval.cli.output import EXIT_ERROR, complain, say, table

#: Problems listed on the terminal; ``prepared.json`` lists all.
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("task", metavar="TASK", help="task by name")
    parser.add_argument("--source", type=Path, required=True, metavar="DIR", help="data root, or the task's own folder")
    parser.add_argument("--fast", action="store_true", help="hash names and sizes of the videos, not their contents")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="probing processes (default: 2)")
    parser.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE.py", help="load more tasks")


def execute(args: argparse.Namespace) -> int:
    """Check, write ``prepared.json``, print a short table."""
    from vital_eval.atomic import write_atomically
    from vital_eval.data_root import read_task
    from vital_eval.prepare import check_task, samples_lost
    from vital_eval.registry import Registries

    task = Registries(tuple(args.plugin)).tasks.load(args.task)()
    source = args.source.resolve()
    own_folder = source.name == args.task and not (source / args.task).is_dir()
    data = read_task(task, source.parent if own_folder else source)
    result = asyncio.run(check_task(data, workers=max(1, args.workers), fast=args.fast, seen=_seen()))
    path = data.folder / "prepared.json"
    write_atomically(path, json.dumps(result.to_json(), indent=1, ensure_ascii=True) + "\n")
    counts = result.counts()
    say(f"{task.title}: {result.samples} samples about {result.videos} videos")
    rows = [(kind, str(count)) for kind, count in counts.items()] + [("unused file", str(len(result.unused)))]
    say(table(("finding", "videos"), rows))
    for problem in result.problems[:SHOWN]:
        say(f"  {problem.video}: {problem.kind}: {problem.detail} ({problem.samples} samples)")
    if len(result.problems) > SHOWN:
        say(f"  ... and {len(result.problems) - SHOWN} more")
    if result.degenerate:
        shown = ", ".join(result.degenerate[:SHOWN]) + (" ..." if len(result.degenerate) > SHOWN else "")
        say(f"annotated spans of no length (they stay in n): {shown}")
    say(f"annotation hash {result.data_hash}, media hash {result.media_hash}; written to {path}")
    if not result.problems:
        return 0
    lost = len(samples_lost(data, result))
    complain(f"{len(result.problems)} videos have problems; {lost} of {result.samples} samples cannot be answered")
    return EXIT_ERROR


def _seen() -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            sys.stderr.write(f"{done}/{total} videos checked\n")

    return report
