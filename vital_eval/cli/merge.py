"""``vital-eval merge``: the shards of one run become one ordinary run folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from vital_eval.cli.output import EXIT_OWED, complain, say
from vital_eval.errors import VitalError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="new run folder")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the shards of one run; they are only read")
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="the run's annotation files: for baselines, the tasks' own order, and the samples of missing shards",
    )
    parser.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE.py", help="load more tasks")


def execute(args: argparse.Namespace) -> int:
    """Read the shards, write the whole, say what is owed."""
    from vital_eval.baseline_estimates import baseline_tasks, estimate_baselines
    from vital_eval.cli.carry_out import summary_table
    from vital_eval.data_root import TaskData, read_task, select
    from vital_eval.judge.verdicts import VERDICTS_NAME
    from vital_eval.manifest import read_manifest
    from vital_eval.merge import whole_manifest, write_merged
    from vital_eval.registry import Registries

    runs = {}
    for run in args.runs:
        folder = run.resolve()
        if folder in runs:
            raise VitalError(f"{run} is given twice", "give each shard once")
        runs[folder] = read_manifest(run)
    tasks = None
    if args.data_root is not None:
        registries = Registries(tuple(args.plugin))
        names = dict.fromkeys(entry.task for manifest in runs.values() for entry in manifest.entries)
        tasks = {name: read_task(registries.tasks.load(name)(), args.data_root) for name in names}
    whole = whole_manifest({str(folder): manifest for folder, manifest in runs.items()}, tasks)
    limited = (
        TaskData(data.task, data.folder, data.data_hash, select(data.samples, whole.manifest.limit, None))
        for data in (tasks or {}).values()
    )
    baselines = estimate_baselines(baseline_tasks(limited))
    merged = write_merged(args.out, runs, whole.manifest, baselines)
    say(summary_table(merged.summary))
    say(f"\n{merged.records} records of {len(runs)} shards" + _repeated(merged.repeated))
    say(f"run folder: {args.out}")
    if tasks is None:
        complain("no baselines, and samples stand shard by shard: give --data-root for a run that can be resumed")
    if whole.unlike:
        complain(f"the shards differ in {', '.join(whole.unlike)}; the manifest says what the first of them says")
    if any((folder / VERDICTS_NAME).exists() for folder in runs):
        complain("verdicts of a judge are not merged: judge the merged run")
    if whole.missing:
        complain(f"missing shards: {', '.join(whole.missing)}")
    if not merged.owed:
        return 0
    for line in merged.named:
        complain(f"owed: {line}")
    kinds = ", ".join(f"{count} {kind}" for kind, count in merged.owed.items())
    complain(
        f"{sum(merged.owed.values())} of {merged.total} episodes are owed: {kinds}; "
        "finish the shards and merge again into a new folder"
    )
    return EXIT_OWED


def _repeated(count: int) -> str:
    return f"; {count} are in two of them with equal content and count once" if count else ""
