"""Every video is decoded once and forgotten at once, memory is bounded, and nobody waits for what is not theirs."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest

from tests.toy_world import TASK
from vital_eval.data_root import TaskData
from vital_eval.errors import VitalError
from vital_eval.grading import make_record
from vital_eval.plan import RunPlan, TaskPlan, make_plan
from vital_eval.player import Job, jobs_of
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.record import Record
from vital_eval.registry import Registries
from vital_eval.sample import Sample, Target
from vital_eval.schedule import groups_of, owed_groups, play_groups
from vital_eval.settings import Settings
from vital_eval.trajectory import StopReason, Trajectory

SETTINGS = Settings(concurrency=4, decode_workers=2, cache_bytes=100)


def make(
    videos: dict[str, int], modes: Iterable[Mode] = (Mode.COT,), seconds: dict[str, float] | None = None
) -> RunPlan:
    """Plan so many questions about each video, in turn: the first about every video, the second ..."""
    samples = tuple(
        Sample(f"{video}/{number}", TASK, video, (seconds or {}).get(video), "q", Target(windows=((0, 1),)), video)
        for number in range(max(videos.values()))
        for video, count in videos.items()
        if number < count
    )
    registries = Registries()
    data = TaskData(registries.tasks.load(TASK)(), Path("/nowhere"), "0", samples)
    return make_plan((TaskPlan(data, tuple(preset("vital", mode, TASK) for mode in modes)),), registries)


class Stage:
    """Plays nothing; notes what was asked of it, in order.

    Args:
        sizes: bytes of the clip of a video, 10 where it is not named.
        waits: what a prefetch or an episode waits for before it ends, by its note.
    """

    def __init__(self, sizes: dict[str, int] | None = None, waits: dict[str, asyncio.Event] | None = None) -> None:
        self.sizes, self.waits = sizes or {}, waits or {}
        self.notes: list[str] = []
        self.held: Counter[str] = Counter()
        self.decoded: set[str] = set()
        self.most = self.playing = self.most_playing = self.prefetching = self.most_prefetching = 0
        self.breaks_on = ""
        self.turns = 3

    def hold(self, job: Job) -> None:
        """Count."""
        self.held[job.attempt.sample.video] += 1

    def drop(self, job: Job) -> None:
        """Count back and note it."""
        video = job.attempt.sample.video
        self.held[video] -= 1
        self.decoded.discard(video)
        self.notes.append(f"drop {video}")

    async def weigh(self, job: Job) -> int:
        """Return the size of the video's clip."""
        await asyncio.sleep(0)
        return self.sizes.get(job.attempt.sample.video, 10)

    async def prefetch(self, job: Job) -> None:
        """Note it, and how much is in memory."""
        video = job.attempt.sample.video
        assert self.held[video] == 1
        self.prefetching += 1
        self.most_prefetching = max(self.most_prefetching, self.prefetching)
        self.decoded.add(video)
        self.most = max(self.most, sum(self.sizes.get(name, 10) for name in self.decoded))
        await self._pass(f"prefetch {video}")
        self.prefetching -= 1

    async def play(self, job: Job) -> Record:
        """Note it."""
        sample = job.attempt.sample
        assert job.opening_view is None or sample.video in self.decoded
        self.playing += 1
        self.most_playing = max(self.most_playing, self.playing)
        await self._pass(f"play {sample.id}")
        self.playing -= 1
        trajectory = Trajectory((), StopReason.NO_ANSWER, None, (), 1.0)
        return make_record(job.task_plan.data.task, sample, job.attempt.protocol, job.attempt.number, trajectory)

    async def _pass(self, note: str) -> None:
        self.notes.append(note)
        if self.breaks_on == note:
            raise ZeroDivisionError(note)
        if note in self.waits:
            await self.waits[note].wait()
        for _ in range(self.turns if note.startswith("play") else 10):
            await asyncio.sleep(0)


def play(plan: RunPlan, stage: Stage, settings: Settings = SETTINGS) -> list[Record]:
    """Play everything and return the records in the order in which they were finished."""
    kept: list[Record] = []

    async def keep(job: Job, record: Record) -> None:
        assert job.key == record.key
        kept.append(record)

    asyncio.run(asyncio.wait_for(play_groups(owed_groups(plan, set()), stage, keep, settings), 10))
    assert {record.key for record in kept} == {job.key for job in jobs_of(plan)}
    assert len(kept) == plan.episodes
    return kept


def test_a_video_is_decoded_once_for_all_its_questions_and_modes_and_forgotten_at_once() -> None:
    stage = Stage()
    play(make({"a": 5, "b": 3, "c": 1}, Mode), stage)
    assert Counter(note for note in stage.notes if note.startswith("prefetch")) == {
        "prefetch a": 1,
        "prefetch b": 1,
        "prefetch c": 1,
    }
    assert not +stage.held
    for video in "abc":
        last = max(index for index, note in enumerate(stage.notes) if note.startswith(f"play {video}"))
        drop = stage.notes.index(f"drop {video}")
        # Others may have begun in between, but no more than are under way.
        between = stage.notes[last + 1 : drop]
        assert last < drop
        assert sum(note.startswith("play") for note in between) < SETTINGS.concurrency


def test_groups_are_a_partition_in_a_fixed_order_whatever_the_order_of_the_samples() -> None:
    plan = make({"a": 3, "b": 2, "c": 4}, Mode)
    groups = groups_of(plan)
    assert [{sample.video for sample in group.data.samples} for group in groups] == [{"a"}, {"b"}, {"c"}]
    assert sorted(sample.id for group in groups for sample in group.data.samples) == sorted(
        sample.id for sample in plan.tasks[0].data.samples
    )
    assert groups_of(plan) == groups


def test_short_videos_come_first_and_long_episodes_of_a_sample() -> None:
    plan = make(dict.fromkeys("abcd", 2), (Mode.COT, Mode.TOOL), {"a": 30.0, "b": 10.0, "c": 20.0, "d": 10.0})
    groups = groups_of(plan)
    assert [group.data.samples[0].video for group in groups] == ["b", "d", "c", "a"]
    assert [protocol.mode for protocol in groups[0].protocols] == [Mode.TOOL, Mode.COT]


def test_episodes_of_one_sample_follow_each_other() -> None:
    async def order() -> list[str]:
        plan = make({"a": 3, "b": 2}, Mode)
        return [job.attempt.sample.id async for jobs in _each(owed_groups(plan, set())) for job in jobs]

    ids = asyncio.run(order())
    runs = [ids[index] for index in range(len(ids)) if index == 0 or ids[index] != ids[index - 1]]
    assert len(runs) == len(set(runs)) == 5


async def _each(groups: AsyncIterator[tuple[Job, ...]]) -> AsyncIterator[tuple[Job, ...]]:
    async for jobs in groups:
        yield jobs


def test_what_is_done_is_not_played_and_its_videos_are_not_touched() -> None:
    plan = make({"a": 2, "b": 2}, (Mode.COT, Mode.TOOL))
    done = {job.key for job in jobs_of(plan) if job.attempt.sample.video == "a"}
    done |= {job.key for job in jobs_of(plan) if job.attempt.sample.id == "b/0"}
    stage = Stage()

    async def keep(job: Job, record: Record) -> None:
        assert job.key not in done

    asyncio.run(play_groups(owed_groups(plan, done), stage, keep, SETTINGS))
    assert [note for note in stage.notes if note.startswith("play")] == ["play b/1", "play b/1"]
    assert set(stage.held) == {"b"}


@pytest.mark.parametrize("limit", [10, 25, 100])
def test_clips_in_memory_are_bounded(limit: int) -> None:
    stage = Stage()
    stage.turns = 50
    play(make(dict.fromkeys("abcdefghijklmnopqrst", 2)), stage, dataclasses.replace(SETTINGS, cache_bytes=limit))
    assert stage.most == limit // 10 * 10


def test_a_clip_above_the_bound_is_let_in_alone() -> None:
    stage = Stage(sizes={"c": 500})
    play(make(dict.fromkeys("abcdef", 2)), stage)
    assert stage.most == 500


def test_no_more_is_decoded_ahead_than_there_are_decoders_and_no_more_played_than_allowed() -> None:
    stage = Stage()
    play(make(dict.fromkeys("abcdefghijkl", 3)), stage)
    assert stage.most_prefetching == 2
    assert stage.most_playing == 4


def test_a_slow_video_keeps_no_other_waiting() -> None:
    waits = {"prefetch a": asyncio.Event()}
    stage = Stage(waits=waits)

    async def go() -> None:
        async def keep(job: Job, record: Record) -> None:
            if record.sample_id == "d/1":
                waits["prefetch a"].set()

        await play_groups(owed_groups(make(dict.fromkeys("abcd", 2)), set()), stage, keep, SETTINGS)

    asyncio.run(asyncio.wait_for(go(), 10))
    assert stage.notes.index("play d/1") < stage.notes.index("play a/0")


def test_blind_questions_wait_for_no_video() -> None:
    waits = {"prefetch a": asyncio.Event()}
    stage = Stage(waits=waits)

    async def go() -> None:
        async def keep(job: Job, record: Record) -> None:
            if record.mode is Mode.BLIND:
                waits["prefetch a"].set()

        await play_groups(owed_groups(make({"a": 1}, (Mode.COT, Mode.BLIND)), set()), stage, keep, SETTINGS)

    asyncio.run(asyncio.wait_for(go(), 10))


def test_a_group_is_played_while_the_next_is_long_in_coming() -> None:
    plan = make({"a": 1, "b": 1})
    played = asyncio.Event()
    stage = Stage()

    async def slowly() -> AsyncIterator[tuple[Job, ...]]:
        async for jobs in owed_groups(plan, set()):
            yield jobs
            await played.wait()

    async def keep(job: Job, record: Record) -> None:
        played.set()

    asyncio.run(asyncio.wait_for(play_groups(slowly(), stage, keep, SETTINGS), 10))
    assert stage.notes.count("play b/0") == 1


@pytest.mark.parametrize("note", ["prefetch b", "play b/1"])
def test_an_error_stops_everything_and_is_raised_as_it_is(note: str) -> None:
    stage = Stage()
    stage.breaks_on = note
    with pytest.raises(ZeroDivisionError, match=note):
        play(make(dict.fromkeys("abcdef", 2)), stage)


def test_an_error_while_jobs_are_made_is_raised_as_it_is() -> None:
    async def broken() -> AsyncIterator[tuple[Job, ...]]:
        async for jobs in owed_groups(make({"a": 1}), set()):
            yield jobs
        raise VitalError("no more jobs")

    async def keep(job: Job, record: Record) -> None:
        pass

    with pytest.raises(VitalError, match="no more jobs"):
        asyncio.run(asyncio.wait_for(play_groups(broken(), Stage(), keep, SETTINGS), 10))


def test_a_failing_keeper_stops_everything() -> None:
    async def keep(job: Job, record: Record) -> None:
        raise VitalError("disk full")

    with pytest.raises(VitalError, match="disk full"):
        asyncio.run(asyncio.wait_for(play_groups(owed_groups(make({"a": 9}), set()), Stage(), keep, SETTINGS), 10))


@pytest.mark.parametrize("arrange", [lambda samples: samples, lambda samples: samples[::-1]])
def test_any_order_of_samples_gives_the_same_records(
    arrange: Callable[[tuple[Sample, ...]], tuple[Sample, ...]],
) -> None:
    plan = make({"a": 3, "b": 1, "c": 2}, Mode)
    (task_plan,) = plan.tasks
    data = dataclasses.replace(task_plan.data, samples=arrange(task_plan.data.samples))
    other = dataclasses.replace(plan, tasks=(dataclasses.replace(task_plan, data=data),))
    usual = {record.key: record for record in play(plan, Stage())}
    assert {record.key: record for record in play(other, Stage())} == usual
