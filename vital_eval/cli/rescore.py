"""``vital-eval rescore``: today's parsers and scorers over yesterday's answers."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from vital_eval.cli.output import say
from vital_eval.errors import VitalError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run folder, or all shards of one run; they are only read"
    )
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="the run's annotation files")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="new run folder (default: RUN-rescored; needed for shards)"
    )
    parser.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE.py", help="load more tasks")


def execute(args: argparse.Namespace) -> int:
    """Read, grade again, write a new run folder, say what changed."""
    from vital_eval.baseline_estimates import baseline_tasks, estimate_baselines
    from vital_eval.cli.carry_out import summary_table
    from vital_eval.data_root import read_task
    from vital_eval.registry import Registries
    from vital_eval.rescore import rescore, write_rescored
    from vital_eval.run_log import read_run
    from vital_eval.shards import merge_shards

    registries = Registries(tuple(args.plugin))
    runs = {str(run): read_run(run) for run in args.runs}
    if len(runs) > 1 and args.out is None:
        raise VitalError("several shards become one new run", "name its folder with --out")
    manifest, records = next(iter(runs.values())) if len(runs) == 1 else merge_shards(runs)
    names = dict.fromkeys(entry.task for entry in manifest.entries)
    tasks = {name: read_task(registries.tasks.load(name)(), args.data_root) for name in names}
    result = rescore(manifest, records, tasks)
    run = args.runs[0].resolve()  # "." and ".." have no name of their own
    out = args.out or run.with_name(f"{run.name}-rescored")
    asked = {entry.task: {identity for identity, _ in entry.samples} for entry in manifest.entries}
    scored = (
        dataclasses.replace(data, samples=tuple(sample for sample in data.samples if sample.id in asked[name]))
        for name, data in tasks.items()
    )
    baselines = estimate_baselines(baseline_tasks(scored))
    summary = write_rescored(out, result, baselines)
    say(summary_table(summary))
    say(f"\n{len(result.changed)} of {len(result.records)} records changed")
    for task, protocol, sample, _ in result.changed[:20]:
        say(f"  {task} {sample} under {protocol}")
    say(f"run folder: {out}")
    return 0
