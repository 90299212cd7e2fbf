"""Plays every owed episode of a run and keeps each one as it finishes.

Episodes progress independently: one decodes while another generates. What is finished is on disk before the next
line is written, so a crash, a kill or Ctrl-C costs only the episodes that were under way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from vital_eval.engine import Engine
from vital_eval.episode import Attempt, run_episode
from vital_eval.errors import VitalError
from vital_eval.footage import Videos
from vital_eval.outcome import Outcome, grade
from vital_eval.plan import RunPlan, TaskPlan
from vital_eval.progress import Reporter, Silent, Tally
from vital_eval.protocol import Protocol
from vital_eval.record import Record
from vital_eval.run_log import RunLog
from vital_eval.sample import Sample
from vital_eval.task import Task
from vital_eval.trajectory import StopReason, Trajectory

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is carried out; nothing here may move a score.

    Attributes:
        concurrency: episodes under way at a time.
        decode_workers: decoding processes.
        decode_seconds: longest time one probe or read of a video may take.
        failures_in_a_row: stop after so many episodes in a row failed for a reason that is not the model's.
        plugins: plugin files that decoders may come from.
    """

    concurrency: int = 32
    decode_workers: int = 2
    decode_seconds: float = 120.0
    failures_in_a_row: int = 20
    plugins: tuple[Path, ...] = ()


class StoppedError(VitalError):
    """The run was given up because nothing works any more; what was finished is kept."""


async def run(
    plan: RunPlan, engine: Engine, log: RunLog, settings: Settings | None = None, reporter: Reporter | None = None
) -> Tally:
    """Play what is owed.

    Args:
        plan: what the run consists of.
        engine: runs the model; it is not closed.
        log: the open run folder; finished episodes in it are not played again.
        settings: see :class:`Settings`.
        reporter: shows progress.

    Returns:
        The counts at the end; ``owed`` is 0 if the run is complete.

    Raises:
        StoppedError: if episode after episode fails for a reason that is not the model's.
        VitalError: if a task's parser or scorer raises (a bug; the sample is named), or the log cannot be written.
    """
    settings, reporter = settings or Settings(), reporter or Silent()
    done = log.done_keys()
    tally = Tally(plan.episodes, resumed=len(done))
    watch = _Watch(settings.failures_in_a_row)
    reporter.update(tally)
    async with contextlib.AsyncExitStack() as stack:
        jobs: list[_Job] = []
        for task_plan in plan.tasks:
            attempts = plan.jobs(task_plan)
            owed = [attempt for key, attempt in attempts if key not in done]
            videos = await _open_videos(task_plan, owed, engine, settings, stack)
            jobs += [_Job(task_plan.data.task, attempt, videos[attempt.protocol.decoder]) for attempt in owed]
        left = Counter(job.videos for job in jobs)

        async def play(job: _Job) -> None:
            attempt, videos = job.attempt, job.videos
            trajectory = await run_episode(attempt, engine, lambda: videos.open(attempt.sample.video))
            record = make_record(job.task, attempt.sample, attempt.protocol, attempt.number, trajectory)
            log.append(record)
            tally.add(record)
            reporter.update(tally)
            watch.see(record, attempt.sample)
            left[videos] -= 1
            if not left[videos]:
                await videos.close()

        # One queue over all tasks: the engine's batches stay full while one task ends and the next begins.
        await _each(iter(jobs), settings.concurrency, play)
    return tally


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    task: Task
    attempt: Attempt
    videos: Videos


def make_record(task: Task, sample: Sample, protocol: Protocol, attempt: int, trajectory: Trajectory) -> Record:
    """Grade a trajectory and make the record of it; runs and ``rescore`` both do it here.

    Raises:
        VitalError: if the task's parser or scorer raises: that is a bug, and the sample is named.
    """
    with _BugIn(task, sample):
        graded = grade(task, sample, trajectory)
        strata = {metric.name: task.strata(metric, sample) for metric in task.metrics}
        return Record(
            task=task.name,
            mode=protocol.mode,
            protocol=protocol.hash,
            sample_id=sample.id,
            attempt=attempt,
            cluster=sample.cluster,
            outcome=graded.outcome,
            reason=graded.reason,
            answer=graded.answer,
            scores=graded.scores,
            trajectory=trajectory,
            strata={name: path for name, path in strata.items() if path},
            attributes=sample.attributes,
        )


async def _open_videos(
    task_plan: TaskPlan, owed: list[Attempt], engine: Engine, settings: Settings, stack: contextlib.AsyncExitStack
) -> dict[str, Videos]:
    videos = {}
    for decoder in sorted({attempt.protocol.decoder for attempt in owed}):
        opened = Videos(
            task_plan.data.videos,
            decoder,
            settings.decode_workers,
            settings.decode_seconds,
            engine.info.geometry.spatial_factor,
            settings.plugins,
        )
        videos[decoder] = await stack.enter_async_context(opened)
    return videos


async def _each(jobs: Iterator[_T], concurrency: int, do: Callable[[_T], Awaitable[None]]) -> None:
    """Do every job, at most ``concurrency`` at a time; the first error stops the rest and is raised."""

    async def worker() -> None:
        for job in jobs:
            await do(job)

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


class _Watch:
    """Notices that nothing works any more.

    A dead engine fails every episode. Videos are different: one missing file may be asked about a hundred times in
    a row, so only failures of different videos count.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._engine = 0
        self._videos: set[tuple[str, str]] = set()

    def see(self, record: Record, sample: Sample) -> None:
        if record.outcome is not Outcome.INFRA_FAILED:
            self._engine = 0
            self._videos.clear()
            return
        if record.trajectory.stop is StopReason.MEDIA_FAILED:
            self._videos.add((sample.task, sample.video))
        else:
            self._engine += 1
        if self._engine >= self._limit:
            raise StoppedError(
                f"the engine failed {self._engine} times in a row, last on {sample.task} {sample.id!r}: "
                f"{record.trajectory.error}",
                "mend the engine and run the same command again to resume",
            )
        if len(self._videos) >= self._limit:
            raise StoppedError(
                f"{len(self._videos)} videos in a row cannot be read, last {sample.video!r} of {sample.task}: "
                f"{record.trajectory.error}",
                "check the videos with `vital-eval prepare` and run the same command again to resume",
            )


class _BugIn:
    """Turns any exception of a task's own code into one that names the sample; the cause stays attached."""

    def __init__(self, task: Task, sample: Sample) -> None:
        self._task, self._sample = task, sample

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            raise VitalError(
                f"task {self._task.name} cannot grade sample {self._sample.id!r}: {type(error).__name__}: {error}",
                "this is a bug in the task, see it with --debug; finished samples are kept",
            ) from error
