"""Hands the owed episodes of a run to workers as they come and go, and keeps the records."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from vital_eval.cluster.desk import MOST_LOSSES, Desk
from vital_eval.cluster.staff import Worker, WorkerLostError
from vital_eval.cluster.worker import Trouble
from vital_eval.errors import VitalError
from vital_eval.grading import make_record
from vital_eval.player import Job
from vital_eval.record import Record
from vital_eval.record_keeper import RecordKeeper
from vital_eval.trajectory import StopReason, Trajectory


@dataclass(slots=True, eq=False)
class _Stint:
    """One worker's part.

    Attributes:
        under_way: episodes it has.
        records: that came from it.
        lost: what is known of its end.
    """

    under_way: int = 0
    records: int = 0
    lost: WorkerLostError | None = None


class Shift:
    """The work of a run and who does it.

    Args:
        groups: what is owed; a group looks at one video.
        keeper: takes the records.
        concurrency: episodes that one worker has under way.
    """

    def __init__(self, groups: Sequence[Sequence[Job]], keeper: RecordKeeper, concurrency: int) -> None:
        self._desk = Desk(groups)
        self._keeper, self._concurrency = keeper, concurrency
        self._unkept = self._desk.waiting
        self._workers = 0
        self._news = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Episodes that no worker has."""
        return self._desk.waiting

    async def over(self) -> None:
        """Wait until every record is kept."""
        while self._unkept:
            await self._news.wait()

    async def work(self, name: str, worker: Worker) -> None:
        """Keep a worker busy until nothing is left to play by anybody.

        Args:
            name: of the worker, unique among those at work.
            worker: ready to play.

        Raises:
            WorkerLostError: if it is lost. What it had under way is owed again, unless it was given up.
            VitalError: if the run cannot go on: a task's parser or scorer raised, the log cannot be written, or nothing
                works any more.
        """
        stint = _Stint()
        self._workers += 1
        try:
            async with asyncio.TaskGroup() as group:
                while stint.lost is None and not self._desk.finished:
                    room = self._most() - stint.under_way
                    portion = self._desk.take(name, room, self._workers) if room > 0 else ()
                    if not portion:
                        await self._news.wait()
                        continue
                    stint.under_way += len(portion)
                    worker.give(tuple(job.key for job in portion))
                    for job in portion:
                        group.create_task(self._settle(job, worker, stint))
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            self._workers -= 1
            self._desk.dismiss(name)
            self._tell()
        if stint.lost is not None:
            raise WorkerLostError(str(stint.lost), stint.records) from stint.lost

    def _most(self) -> int:
        """Return how many episodes a worker may have: some to decode ahead beside those it plays, not at the end."""
        return self._concurrency + min(self._concurrency, self._desk.waiting // (2 * self._workers))

    async def _settle(self, job: Job, worker: Worker, stint: _Stint) -> None:
        try:
            record = await worker.record(job.key)
        except WorkerLostError as lost:
            stint.lost = stint.lost or lost
            if self._desk.lose(job):
                self._tell()
                return
            record = _given_up(job, lost)
        else:
            self._desk.finish(job)
            if isinstance(record, Trouble):
                raise VitalError(record.problem, record.mend)
            stint.records += 1
            stint.under_way -= 1
        self._tell()
        await self._keeper.keep(record, job.attempt.sample.video)
        self._unkept -= 1
        self._tell()

    def _tell(self) -> None:
        """Wake everyone who waits for something to change."""
        self._news.set()
        self._news = asyncio.Event()


def _given_up(job: Job, lost: WorkerLostError) -> Record:
    attempt = job.attempt
    error = f"the worker was lost each of the {MOST_LOSSES} times it was played: {lost}"
    trajectory = Trajectory((), StopReason.ENGINE_FAILED, None, (), attempt.sample.duration or 0.0, error)
    return make_record(job.task_plan.data.task, attempt.sample, attempt.protocol, attempt.number, trajectory)
