"""What was handed over is on disk, whatever happens; nothing is written by the thread of the event loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from tests.test_schedule import make
from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.grading import make_record
from vital_eval.outcome import Outcome
from vital_eval.plan import RunPlan, make_manifest
from vital_eval.player import Job, jobs_of
from vital_eval.progress import Silent, Tally
from vital_eval.record import Record
from vital_eval.record_keeper import RecordKeeper, StoppedError
from vital_eval.run_log import RunLog, read_run
from vital_eval.trajectory import StopReason, Trajectory

PLAN = make({"a": 4, "b": 2, "c": 1})
INFO = EngineInfo("script", "script", "script", FrameGeometry(32, 2))


def record_of(job: Job, stop: StopReason = StopReason.NO_ANSWER) -> Record:
    trajectory = Trajectory((), stop, None, (), 1.0, "broken: it is" if stop is not StopReason.NO_ANSWER else "")
    attempt = job.attempt
    return make_record(job.task_plan.data.task, attempt.sample, attempt.protocol, attempt.number, trajectory)


def opened(folder: Path, plan: RunPlan = PLAN) -> RunLog:
    return RunLog.open(folder, make_manifest(plan, INFO, "script"))


def test_records_are_counted_shown_and_on_disk(tmp_path: Path) -> None:
    shown: list[int] = []

    class Shows:
        def update(self, tally: Tally) -> None:
            shown.append(tally.done)

    async def go(log: RunLog) -> Tally:
        async with RecordKeeper(PLAN, log, Shows(), 3) as keeper:
            assert keeper.done == frozenset()
            for job in jobs_of(PLAN):
                await keeper.keep(record_of(job), job.attempt.sample.video)
            return keeper.tally

    with opened(tmp_path) as log:
        tally = asyncio.run(go(log))
    assert (tally.done, tally.owed) == (7, 0)
    assert shown == list(range(8))
    assert len(read_run(tmp_path)[1]) == 7
    with opened(tmp_path) as log:
        keeper = RecordKeeper(PLAN, log, Silent(), 3)
        assert keeper.done == {job.key for job in jobs_of(PLAN)}
        assert keeper.tally.resumed == 7


def test_the_disk_is_not_waited_for_by_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    append = RunLog.append

    def slow(self: RunLog, record: Record) -> None:
        threads.append(threading.current_thread())
        append(self, record)

    monkeypatch.setattr(RunLog, "append", slow)

    async def go(log: RunLog) -> None:
        async with RecordKeeper(PLAN, log, Silent(), 3) as keeper:
            await asyncio.gather(*(keeper.keep(record_of(job), "a") for job in jobs_of(PLAN)))

    with opened(tmp_path) as log:
        asyncio.run(go(log))
    assert len(threads) == 7
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()


def test_what_was_handed_over_is_written_even_if_the_run_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    append = RunLog.append

    def stuck(self: RunLog, record: Record) -> None:
        let_go.wait(10)
        append(self, record)

    monkeypatch.setattr(RunLog, "append", stuck)

    async def go(log: RunLog) -> None:
        async with RecordKeeper(PLAN, log, Silent(), 3) as keeper:
            asyncio.get_running_loop().call_later(0.05, let_go.set)
            this = asyncio.current_task()
            assert this is not None
            asyncio.get_running_loop().call_later(0.01, this.cancel)
            await asyncio.gather(*(keeper.keep(record_of(job), "a") for job in jobs_of(PLAN)))

    with opened(tmp_path) as log, pytest.raises(asyncio.CancelledError):
        asyncio.run(go(log))
    assert len(read_run(tmp_path)[1]) == 7


async def keep_all(log: RunLog, stops: list[tuple[str, StopReason]], limit: int) -> int:
    """Keep a record for each (video, stop) and return how many there were before it was given up."""
    jobs = list(jobs_of(PLAN))
    async with RecordKeeper(PLAN, log, Silent(), limit) as keeper:
        for count, (video, stop) in enumerate(stops):
            job = next(job for job in jobs if job.attempt.sample.video == video)
            jobs.remove(job)
            try:
                await keeper.keep(record_of(job, stop), video)
            except StoppedError:
                return count + 1
    return 0


GOOD, MEDIA, ENGINE = StopReason.NO_ANSWER, StopReason.MEDIA_FAILED, StopReason.ENGINE_FAILED


@pytest.mark.parametrize(
    ("stops", "given_up"),
    [
        ([("a", ENGINE), ("a", ENGINE), ("b", ENGINE)], 3),
        ([("a", ENGINE), ("a", GOOD), ("b", ENGINE), ("b", ENGINE)], 0),
        ([("a", MEDIA), ("a", MEDIA), ("a", MEDIA), ("a", MEDIA)], 0),
        ([("a", MEDIA), ("b", MEDIA), ("a", MEDIA), ("c", MEDIA)], 4),
        ([("a", MEDIA), ("b", MEDIA), ("a", GOOD), ("c", MEDIA)], 0),
    ],
)
def test_a_run_in_which_nothing_works_is_given_up(
    tmp_path: Path, stops: list[tuple[str, StopReason]], given_up: int
) -> None:
    with opened(tmp_path) as log:
        assert asyncio.run(keep_all(log, stops, 3)) == given_up
    records = read_run(tmp_path)[1]
    assert len(records) == (given_up or len(stops))
    failed = [record for record in records if record.outcome is Outcome.INFRA_FAILED]
    assert len(failed) == sum(stop is not GOOD for _, stop in stops[: len(records)])
