"""Keeps the records of a run as they come in: one writer, whoever played the episodes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from vital_eval.errors import VitalError
from vital_eval.outcome import Outcome
from vital_eval.plan import RunPlan
from vital_eval.progress import Reporter, Tally
from vital_eval.record import Key, Record
from vital_eval.run_log import RunLog
from vital_eval.trajectory import StopReason


class StoppedError(VitalError):
    """The run was given up because nothing works any more; what was finished is kept."""


class RecordKeeper:
    """Writes every record to the run log, counts it, shows the counts, and notices when nothing works any more.

    An async context manager: at its end every record that was given to it is on disk.

    Args:
        plan: what the run consists of.
        log: the open run folder.
        reporter: shows progress; it is shown the counts at once.
        failures_in_a_row: give up after so many episodes in a row failed for a reason that is not the model's.
    """

    def __init__(self, plan: RunPlan, log: RunLog, reporter: Reporter, failures_in_a_row: int) -> None:
        self._log, self._reporter = log, reporter
        # A disk may take its time; the event loop has none.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="keep")
        self._watch = _Watch(failures_in_a_row)
        self._done = log.done_keys()
        self._tally = Tally(plan.episodes, resumed=len(self._done))
        reporter.update(self._tally)

    @property
    def done(self) -> frozenset[Key]:
        """Keys that were finished before this process began and are not owed."""
        return self._done

    @property
    def tally(self) -> Tally:
        """The counts so far."""
        return self._tally

    async def keep(self, record: Record, video: str) -> None:
        """Put one record on disk, then count it. If this is cancelled the record is written all the same.

        Args:
            record: a finished episode.
            video: the video it was about, to tell one bad file from many.

        Raises:
            StoppedError: if episode after episode failed for a reason that is not the model's. The record is kept.
            RunLogError: if it is not owed or cannot be written.
        """
        writing = asyncio.get_running_loop().run_in_executor(self._writer, self._log.append, record)
        await asyncio.shield(writing)
        self._tally.add(record)
        self._reporter.update(self._tally)
        self._watch.see(record, video)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written."""
        await asyncio.to_thread(self._writer.shutdown)


class _Watch:
    """Notices that nothing works any more.

    A dead engine fails every episode. Videos are different: one missing file may be asked about a hundred times in
    a row, so only failures of different videos count.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._engine = 0
        self._videos: set[tuple[str, str]] = set()

    def see(self, record: Record, video: str) -> None:
        if record.outcome is not Outcome.INFRA_FAILED:
            self._engine = 0
            self._videos.clear()
            return
        if record.trajectory.stop is StopReason.MEDIA_FAILED:
            self._videos.add((record.task, video))
        else:
            self._engine += 1
        if self._engine >= self._limit:
            raise StoppedError(
                f"the engine failed {self._engine} times in a row, last on {record.task} {record.sample_id!r}: "
                f"{record.trajectory.error}",
                "mend the engine and run the same command again to resume",
            )
        if len(self._videos) >= self._limit:
            raise StoppedError(
                f"{len(self._videos)} videos in a row cannot be read, last {video!r} of {record.task}: "
                f"{record.trajectory.error}",
                "check the videos with `vital-eval prepare` and run the same command again to resume",
            )
