"""Scores a trained checkpoint by an ordinary run of the harness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vital_eval.baseline_estimates import baseline_tasks, estimate_baselines
from vital_eval.data_root import TaskData, read_task, select
from vital_eval.engine import Engine
from vital_eval.plan import RunPlan, TaskPlan, make_manifest, make_plan
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.registry import Registries
from vital_eval.run_log import RunLog
from vital_eval.runner import Settings, run
from vital_eval.summary import Summary, summarise, write_summary


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


def plan_scoring(benchmarks: Benchmarks, modes: Sequence[Mode], registries: Registries) -> RunPlan:
    """Read the tasks and plan the run.

    Raises:
        DataError: if a task's files are missing or not in the official form.
    """
    plans = []
    for name in benchmarks.tasks:
        data = read_task(registries.tasks.load(name)(), benchmarks.data_root)
        chosen = select(data.samples, benchmarks.limit, None)
        protocols = tuple(preset(benchmarks.preset, mode, name) for mode in modes)
        plans.append(TaskPlan(TaskData(data.task, data.folder, data.data_hash, chosen), protocols))
    return make_plan(tuple(plans), registries, limit=benchmarks.limit)


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
        summary = summarise(log.manifest, log.records, estimate_baselines(baselines))
        write_summary(folder, summary)
    return summary
