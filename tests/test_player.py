"""A player plays single episodes: of its library it asks what the schedule wants, and grades off the event loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.test_schedule import make
from tests.toy_world import ANSWER, CALL
from vital_eval.clip import Clip
from vital_eval.engines.scripted import ScriptedEngine, turns
from vital_eval.episode import Footage
from vital_eval.errors import MediaError, VitalError
from vital_eval.outcome import Outcome
from vital_eval.player import Job, Player, jobs_of
from vital_eval.protocol import Mode, View
from vital_eval.settings import Settings
from vital_eval.span import Span
from vital_eval.task import Task


class Library:
    """Stands in for the real one; notes what was asked of it."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.notes: list[object] = []

    def shelf(self, folder: Path, decoder: str) -> Library:
        """Note the folder."""
        assert (folder, decoder) == (Path("/nowhere/videos"), "pyav")
        return self

    async def open(self, video: str) -> Footage:
        """Return a footage of ten seconds."""
        if self.broken:
            raise MediaError("missing", f"{video} is not there")

        async def read(span: Span | None, view: View) -> Clip:
            self.notes.append(("read", video, span))
            span = span or Span(0, 10)
            return Clip(np.zeros((2, 4, 4, 3), np.uint8), (span.start, span.end), span)

        return Footage(10.0, 9.5, read)

    async def weigh(self, video: str, view: View) -> int:
        """Return 7."""
        if self.broken:
            raise MediaError("missing", f"{video} is not there")
        return 7

    async def prefetch(self, video: str, view: View) -> int:
        """Note it."""
        self.notes.append(("prefetch", video, view.max_frames))
        return 7

    def hold(self, video: str) -> None:
        """Note it."""
        self.notes.append(("hold", video))

    def drop(self, video: str) -> None:
        """Note it."""
        self.notes.append(("drop", video))

    async def close(self) -> None:
        """Note it."""
        self.notes.append("closed")


def one_job(mode: Mode) -> Job:
    (job,) = jobs_of(make({"a": 1}, (mode,)))
    return job


def test_an_episode_is_played_and_graded() -> None:
    library, engine = Library(), ScriptedEngine(turns(CALL, ANSWER))
    job = one_job(Mode.TOOL)

    async def go() -> None:
        async with Player(engine, Settings(), library) as player:
            record = await player.play(job)
            assert record.key == job.key
            assert record.outcome is Outcome.ANSWERED

    asyncio.run(go())
    assert library.notes == [("read", "a", None), ("read", "a", Span(1.0, 3.0)), "closed"]
    assert not engine.closed


def test_the_schedule_reaches_the_library_and_the_blind_mode_needs_no_clip() -> None:
    library = Library()
    job, blind = one_job(Mode.COT), one_job(Mode.BLIND)

    async def go() -> None:
        async with Player(ScriptedEngine(turns(ANSWER)), Settings(), library) as player:
            player.hold(job)
            assert await player.weigh(job) == 7
            await player.prefetch(job)
            player.drop(job)
            assert await player.weigh(blind) == 0
            await player.prefetch(blind)

    asyncio.run(go())
    frames = job.attempt.protocol.view.max_frames
    assert library.notes == [("hold", "a"), ("prefetch", "a", frames), ("drop", "a"), "closed"]


def test_a_video_that_cannot_be_read_weighs_nothing_and_fails_its_episode_only() -> None:
    async def go() -> None:
        async with Player(ScriptedEngine(turns(ANSWER)), Settings(), Library(broken=True)) as player:
            assert await player.weigh(one_job(Mode.COT)) == 0
            record = await player.play(one_job(Mode.COT))
            assert record.outcome is Outcome.INFRA_FAILED

    asyncio.run(go())


def test_grading_is_done_by_one_thread_that_is_not_the_event_loop_s(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = list(jobs_of(make({"a": 6})))
    task: Task = jobs[0].task_plan.data.task
    parse, threads = task.parse, []

    def watched(text: str, sample: object) -> object:
        threads.append(threading.current_thread())
        return parse(text, sample)  # type: ignore[arg-type]

    monkeypatch.setattr(task, "parse", watched)

    async def go() -> None:
        async with Player(ScriptedEngine(turns(ANSWER)), Settings(), Library()) as player:
            await asyncio.gather(*(player.play(job) for job in jobs))

    asyncio.run(go())
    assert len(threads) == 6
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()


def test_a_bug_in_a_task_names_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    job = one_job(Mode.COT)

    def broken(*_: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(job.task_plan.data.task, "score", broken)

    async def go() -> None:
        async with Player(ScriptedEngine(turns(ANSWER)), Settings(), Library()) as player:
            await player.play(job)

    with pytest.raises(VitalError, match=r"cannot grade sample 'a/0': KeyError"):
        asyncio.run(go())


def test_jobs_of_a_plan_can_be_picked_by_key() -> None:
    plan = make({"a": 2, "b": 1}, Mode)
    every = list(jobs_of(plan))
    assert len(every) == plan.episodes
    keys = {every[0].key, every[5].key}
    assert {job.key for job in jobs_of(plan, keys)} == keys
    assert not list(jobs_of(plan, set()))
