"""Scores a trained checkpoint by an ordinary run of the harness; of several processes, each plays its shard."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vital_eval.baseline_estimates import baseline_tasks, estimate_baselines
from vital_eval.data_root import Shard, TaskData, read_task, select
from vital_eval.engine import Engine
from vital_eval.manifest import read_manifest
from vital_eval.merge import whole_manifest, write_merged
from vital_eval.plan import RunPlan, TaskPlan, make_manifest, make_plan
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.registry import Registries
from vital_eval.run_log import RunLog
from vital_eval.runner import Settings, run
from vital_eval.summary import Summary, summarise, write_summary

from .processes import Processes


@dataclass(frozen=True, slots=True)
class Benchmarks:
    """What checkpoints are scored on.

    Attributes:
        data_root: holds one folder per task.
        tasks: registry names.
        preset: name of the protocols' preset.
        limit: samples per task; ``None`` for all.
    """

    data_root: Path
    tasks: tuple[str, ...]
    preset: str
    limit: int | None = None


def plan_scoring(benchmarks: Benchmarks, mode: Mode, registries: Registries, shard: Shard | None = None) -> RunPlan:
    """Read the tasks and plan the run, or a shard of it.

    Raises:
        DataError: if a task's files are missing or not in the official form.
    """
    plans = []
    for name in benchmarks.tasks:
        data = read_task(registries.tasks.load(name)(), benchmarks.data_root)
        chosen = select(data.samples, benchmarks.limit, shard)
        protocol = preset(benchmarks.preset, mode, name)
        plans.append(TaskPlan(TaskData(data.task, data.folder, data.data_hash, chosen), (protocol,)))
    return make_plan(tuple(plans), registries, limit=benchmarks.limit, shard=shard)


async def score_checkpoint(plan: RunPlan, engine: Engine, folder: Path, label: str, concurrency: int = 32) -> Summary:
    """Play what is owed of a run and write its summary; the engine is not closed.

    Args:
        plan: see :func:`plan_scoring`.
        engine: speaks for the checkpoint.
        folder: run folder, new or to be resumed.
        label: the checkpoint's name in tables.
        concurrency: episodes under way at a time.
    """
    # Read before the run: a damaged training file must not spoil its end.
    baselines = baseline_tasks(each.data for each in plan.tasks)
    with RunLog.open(folder, make_manifest(plan, engine.info, label)) as log:
        await run(plan, engine, log, Settings(concurrency=concurrency))
        summary = summarise(log.manifest, log.stream(), estimate_baselines(baselines))
        write_summary(folder, summary)
    return summary


async def score_together(
    benchmarks: Benchmarks,
    mode: Mode,
    registries: Registries,
    load: Callable[[], Engine],
    folder: Path,
    label: str,
    together: Processes,
) -> Summary | None:
    """Score a checkpoint, each process its shard, so that the run folder is the one a single process leaves.

    A run folder that is there already, begun by one process or finished, is gone on with by the first process alone.

    Args:
        benchmarks: what it is scored on.
        mode: how it is asked.
        registries: where tasks are found.
        load: gives an engine that speaks for the checkpoint, in this process.
        folder: run folder, new or to be resumed; while several processes play, their shards lie beside it.
        label: the checkpoint's name in tables.
        together: who plays.

    Returns:
        The summary in the first process, ``None`` in the others.
    """
    alone = together.gather([together.world == 1 or folder.exists()] if together.first else [])[0]
    shards = folder.with_name(f".{folder.name}-shards")
    summary = None
    if together.first or not alone:
        shard = None if alone else Shard(together.rank + 1, together.world)
        plan = plan_scoring(benchmarks, mode, registries, shard)
        engine = load()
        try:
            summary = await score_checkpoint(plan, engine, folder if shard is None else _part(shards, shard), label)
        finally:
            await engine.close()
    together.barrier()
    if together.first:
        if not alone:
            summary = _merge(shards, together.world, plan_scoring(benchmarks, mode, registries), folder)
        shutil.rmtree(shards, ignore_errors=True)
    together.barrier()
    return summary if together.first else None


def _part(shards: Path, shard: Shard) -> Path:
    # Another number of processes deals otherwise, and must not find these.
    return shards / f"{shard.index}-of-{shard.count}"


def _merge(shards: Path, count: int, plan: RunPlan, folder: Path) -> Summary:
    runs = {path: read_manifest(path) for path in (_part(shards, Shard(one + 1, count)) for one in range(count))}
    tasks = {each.data.task.name: each.data for each in plan.tasks}
    whole = whole_manifest({str(path): manifest for path, manifest in runs.items()}, tasks)
    baselines = estimate_baselines(baseline_tasks(tasks.values()))
    return write_merged(folder, runs, whole.manifest, baselines).summary
