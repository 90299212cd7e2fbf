"""In which order the episodes of a run are played, and how far ahead their videos are decoded.

Samples that look at one video are played together, so that its frames are decoded once for every question and every
mode, and forgotten right after. While episodes run, the opening clips of the next videos are decoded, as many as fit
into a bound of bytes; an episode begins when its clip is there, so nobody holds one of the engine's places while it
waits for a decoder. No record depends on any of this.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vital_eval.data_root import TaskData
from vital_eval.plan import RunPlan, TaskPlan
from vital_eval.player import Job
from vital_eval.protocol import View
from vital_eval.record import Key, Record
from vital_eval.sample import Sample
from vital_eval.settings import Settings

#: Jobs let in for each that is under way. More of them take memory, and changed nothing in benchmarks/scheduling.py.
_LET_IN_EACH = 4
#: Jobs made before other coroutines get a turn.
_JOBS_AT_ONCE = 16


class Stage(Protocol):
    """Where episodes are played; see :class:`vital_eval.player.Player`."""

    def hold(self, job: Job) -> None:
        """Keep every clip of the job's video from now on."""
        ...

    def drop(self, job: Job) -> None:
        """Take one :meth:`hold` back."""
        ...

    async def weigh(self, job: Job) -> int:
        """Return the bytes of the clip that the job opens with; 0 if there is none or it cannot be read."""
        ...

    async def prefetch(self, job: Job) -> None:
        """Decode that clip ahead. A video that cannot be read is no error here: the episode will meet it."""
        ...

    async def play(self, job: Job) -> Record:
        """Play one episode and grade it."""
        ...


def groups_of(plan: RunPlan) -> tuple[TaskPlan, ...]:
    """Split a plan into groups, each the samples of one task that look at one video, in the order of work.

    Tasks keep their order. Within a task short videos come first: the engine has work at once, and long videos are
    decoded while it does it. Videos of the same annotated length, or of none, keep the order of the task's file.
    Samples keep theirs; of a sample's protocols those with the most turns come first, because they take longest.
    """
    groups: list[TaskPlan] = []
    for task_plan in plan.tasks:
        by_video: dict[str, list[Sample]] = {}
        for sample in task_plan.data.samples:
            by_video.setdefault(sample.video, []).append(sample)
        protocols = tuple(sorted(task_plan.protocols, key=lambda protocol: -protocol.max_turns))
        groups += [
            TaskPlan(_only(task_plan.data, samples), protocols) for samples in sorted(by_video.values(), key=_seconds)
        ]
    return tuple(groups)


def _seconds(samples: Sequence[Sample]) -> float:
    return max(sample.duration or 0.0 for sample in samples)


def _only(data: TaskData, samples: Sequence[Sample]) -> TaskData:
    return dataclasses.replace(data, samples=tuple(samples))


async def owed_groups(plan: RunPlan, done: Collection[Key]) -> AsyncIterator[tuple[Job, ...]]:
    """Yield the jobs of every group that are not done; groups of which nothing is owed are left out.

    Args:
        plan: what the run consists of.
        done: keys that are not owed. Give a set: every job is looked up in it.
    """
    for group in groups_of(plan):
        owed = []
        for number, (key, attempt) in enumerate(plan.jobs(group)):
            if number % _JOBS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if key not in done:
                owed.append(Job(key, group, attempt))
        if owed:
            yield tuple(owed)


async def play_groups(
    groups: AsyncIterator[tuple[Job, ...]],
    stage: Stage,
    keep: Callable[[Job, Record], Awaitable[None]],
    settings: Settings,
) -> None:
    """Play groups of jobs, in their order as far as their videos allow; the first error stops everything and is raised.

    Args:
        groups: each the jobs of one video. What has come is played, even while the next group is long in coming.
        stage: plays them.
        keep: takes every record.
        settings: episodes under way at a time, opening clips decoded at a time, and the bound on those in memory.
    """
    schedule = _Schedule(stage, keep, settings)
    tasks = [asyncio.create_task(schedule.look_ahead(groups))]
    tasks += [asyncio.create_task(schedule.play_ready()) for _ in range(settings.concurrency)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True, eq=False)
class _Group:
    """A group under way.

    Attributes:
        jobs: what is owed of it.
        looks: one job for every clip that its jobs open with.
        shelves: one job for every decoder.
        size: bytes of these clips.
        left: jobs that have not ended.
    """

    jobs: tuple[Job, ...]
    looks: tuple[Job, ...]
    shelves: tuple[Job, ...]
    size: int = 0
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = len(self.jobs)


class _Schedule:
    """The state of :func:`play_groups`."""

    def __init__(self, stage: Stage, keep: Callable[[Job, Record], Awaitable[None]], settings: Settings) -> None:
        self._stage, self._keep = stage, keep
        decoders = max(1, settings.decode_workers)
        self._players = settings.concurrency
        self._decoding = asyncio.Semaphore(decoders)
        self._bytes = _Room(settings.cache_bytes)
        self._waiting = _Room(_LET_IN_EACH * settings.concurrency)
        # Weighed a little ahead: a video must be found and probed for it, which a decoder does.
        self._weighed: asyncio.Queue[tuple[_Group, asyncio.Task[None]] | None] = asyncio.Queue(decoders)
        self._ready: asyncio.Queue[tuple[_Group, Job] | None] = asyncio.Queue()

    async def look_ahead(self, groups: AsyncIterator[tuple[Job, ...]]) -> None:
        """Let in one group after the other, then send the players home."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._let_in(tasks))
                async for jobs in groups:
                    group = _group(jobs)
                    for job in group.shelves:
                        self._stage.hold(job)
                    await self._weighed.put((group, tasks.create_task(self._weigh(group))))
                await self._weighed.put(None)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        for _ in range(self._players):
            self._ready.put_nowait(None)

    async def _weigh(self, group: _Group) -> None:
        group.size = sum([await self._stage.weigh(job) for job in group.looks])

    async def _let_in(self, tasks: asyncio.TaskGroup) -> None:
        while (item := await self._weighed.get()) is not None:
            group, weighing = item
            await weighing
            await self._waiting.take(len(group.jobs))
            await self._bytes.take(group.size)
            self._make_ready(group, None)
            for look in group.looks:
                await self._decoding.acquire()
                tasks.create_task(self._prefetch(group, look))

    async def _prefetch(self, group: _Group, look: Job) -> None:
        try:
            await self._stage.prefetch(look)
        finally:
            self._decoding.release()
        self._make_ready(group, look)

    def _make_ready(self, group: _Group, look: Job | None) -> None:
        clip = None if look is None else _opening(look)
        for job in group.jobs:
            if _opening(job) == clip:
                self._ready.put_nowait((group, job))

    async def play_ready(self) -> None:
        """Play what is ready until there is nothing left."""
        while (item := await self._ready.get()) is not None:
            group, job = item
            self._waiting.give(1)
            record = await self._stage.play(job)
            group.left -= 1
            if not group.left:
                for each in group.shelves:
                    self._stage.drop(each)
                self._bytes.give(group.size)
            await self._keep(job, record)


def _group(jobs: tuple[Job, ...]) -> _Group:
    looks = {_opening(job): job for job in jobs if job.opening_view is not None}
    shelves = {job.attempt.protocol.decoder: job for job in jobs}
    return _Group(jobs, tuple(looks.values()), tuple(shelves.values()))


def _opening(job: Job) -> tuple[str, View] | None:
    return None if job.opening_view is None else (job.attempt.protocol.decoder, job.opening_view)


class _Room:
    """Counts what is taken of a limit, for one taker. More than the limit is let in when nothing else is."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._freed = asyncio.Event()

    async def take(self, size: int) -> None:
        """Wait until there is room."""
        while self._used and self._used + size > self._limit:
            self._freed.clear()
            await self._freed.wait()
        self._used += size

    def give(self, size: int) -> None:
        """Give some back."""
        self._used -= size
        self._freed.set()
