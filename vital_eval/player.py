"""Plays single episodes of a plan with one engine. It knows nothing of run folders: a cluster's workers use it too."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from vital_eval import footage
from vital_eval.engine import Engine
from vital_eval.episode import Attempt, Footage, run_episode
from vital_eval.errors import MediaError
from vital_eval.grading import make_record
from vital_eval.plan import RunPlan, TaskPlan
from vital_eval.protocol import Mode, View
from vital_eval.record import Key, Record
from vital_eval.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One episode to be played.

    Attributes:
        key: what its record is known by.
        task_plan: the task it belongs to; of its samples there may be only some.
        attempt: what is to be attempted.
    """

    key: Key
    task_plan: TaskPlan
    attempt: Attempt

    @property
    def opening_view(self) -> View | None:
        """The view under which the whole video is shown with the question; ``None`` if it is not shown."""
        protocol = self.attempt.protocol
        return None if protocol.mode is Mode.BLIND else protocol.view


def jobs_of(plan: RunPlan, keys: Collection[Key] | None = None) -> Iterator[Job]:
    """Yield the jobs of a plan in the plan's order.

    Args:
        plan: what a run consists of.
        keys: yield these only, ``None`` for all. Give a set: every job is looked up in it.
    """
    for task_plan in plan.tasks:
        for key, attempt in plan.jobs(task_plan):
            if keys is None or key in keys:
                yield Job(key, task_plan, attempt)


class Shelf(Protocol):
    """The videos of one folder, read through one decoder; see :class:`vital_eval.footage.Shelf`."""

    async def open(self, video: str) -> Footage:
        """Probe a video. Raises MediaError."""
        ...

    async def weigh(self, video: str, view: View) -> int:
        """Return the bytes of the clip of the whole video. Raises MediaError."""
        ...

    async def prefetch(self, video: str, view: View) -> int:
        """Decode that clip ahead and return its bytes; 0 if it cannot be read."""
        ...

    def hold(self, video: str) -> None:
        """Keep the video's clips from now on."""
        ...

    def drop(self, video: str) -> None:
        """Take one hold back."""
        ...


class Library(Protocol):
    """Where clips come from; see :class:`vital_eval.footage.Library`."""

    def shelf(self, folder: Path, decoder: str) -> Shelf:
        """Return the videos of one folder, read through one decoder."""
        ...

    async def close(self) -> None:
        """End the decoding processes and forget the clips."""
        ...


class Player:
    """Plays jobs with one engine; an async context manager. Any number may be played at a time.

    Args:
        engine: runs the model; it is not closed.
        settings: how decoding is carried out.
        library: where clips come from; it is closed at the end. ``None`` makes one by the settings.
    """

    def __init__(self, engine: Engine, settings: Settings, library: Library | None = None) -> None:
        self._engine = engine
        self._library: Library = library or footage.Library(
            settings.make_workers(), engine.info.geometry.spatial_factor, cache_bytes=settings.cache_bytes
        )
        # Grading is anyone's code, so it stays off the event loop; one thread, because no task promises to stand two.
        self._grader = ThreadPoolExecutor(1, thread_name_prefix="grade")

    def hold(self, job: Job) -> None:
        """Keep every clip of the job's video from now on."""
        self._shelf(job).hold(job.attempt.sample.video)

    def drop(self, job: Job) -> None:
        """Take one :meth:`hold` back; the last one frees the clips."""
        self._shelf(job).drop(job.attempt.sample.video)

    async def weigh(self, job: Job) -> int:
        """Return the bytes of the clip that the job opens with; 0 if there is none or it cannot be read."""
        view = job.opening_view
        if view is None:
            return 0
        try:
            return await self._shelf(job).weigh(job.attempt.sample.video, view)
        except MediaError:
            return 0  # The episode will meet it and say so.

    async def prefetch(self, job: Job) -> None:
        """Decode that clip ahead. A video that cannot be read is no error here: the episode will meet it."""
        view = job.opening_view
        if view is not None:
            await self._shelf(job).prefetch(job.attempt.sample.video, view)

    async def play(self, job: Job) -> Record:
        """Play one episode and grade it.

        Raises:
            VitalError: if the task's parser or scorer raises (a bug; the sample is named). Failures of media and engine
                are outcomes of the record.
        """
        attempt, shelf = job.attempt, self._shelf(job)
        trajectory = await run_episode(attempt, self._engine, lambda: shelf.open(attempt.sample.video))
        grading = (job.task_plan.data.task, attempt.sample, attempt.protocol, attempt.number, trajectory)
        return await asyncio.get_running_loop().run_in_executor(self._grader, make_record, *grading)

    def _shelf(self, job: Job) -> Shelf:
        return self._library.shelf(job.task_plan.data.videos, job.attempt.protocol.decoder)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self._grader.shutdown(wait=False, cancel_futures=True)
        await self._library.close()
