"""A worker plays what a run in one process would play, to the same records."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from tests.cluster.pretence import plan_of
from tests.toy_world import write_data_root, write_toy
from vital_eval.cluster.worker import EngineChoice, EpisodeWorker, Trouble
from vital_eval.engine import EngineInfo
from vital_eval.plan import RunPlan, TaskPlan, make_manifest
from vital_eval.player import jobs_of
from vital_eval.protocol import Mode
from vital_eval.record import Key, Record
from vital_eval.registry import Registries
from vital_eval.run_log import RunLog, read_run
from vital_eval.runner import run
from vital_eval.sample import Sample
from vital_eval.settings import Settings
from vital_eval.task import Answer, Scores


@dataclasses.dataclass(frozen=True)
class World:
    """A toy world of two videos, and who plays it."""

    plan: RunPlan
    choice: EngineChoice
    settings: Settings


@pytest.fixture
def world(tmp_path: Path) -> World:
    plan = plan_of(write_data_root(tmp_path, videos=2), Mode.TOOL, Mode.COT)
    plugin, checkpoint = write_toy(tmp_path)
    return World(plan, EngineChoice("toy", checkpoint), Settings(concurrency=3, decode_workers=1, plugins=(plugin,)))


async def play_all(world: World, *groups: tuple[Key, ...]) -> tuple[EngineInfo | Trouble, list[Record | Trouble]]:
    worker = EpisodeWorker()
    try:
        info = await worker.start(world.choice, world.settings, world.plan)
        keys = [key for group in groups for key in group]
        # Calls may arrive in any order.
        first = asyncio.ensure_future(worker.record(keys[0])) if keys else None
        await asyncio.sleep(0)
        for group in groups:
            await worker.give(group)
        rest = await asyncio.gather(*(worker.record(key) for key in keys[1:]))
        return info, ([] if first is None else [await first]) + rest
    finally:
        await worker.end()
        await worker.end()


def test_its_records_are_those_of_a_run_in_one_process(world: World, tmp_path: Path) -> None:
    keys = [job.key for job in jobs_of(world.plan)]
    info, records = asyncio.run(play_all(world, tuple(keys[:5]), tuple(keys[5:])))
    engine = Registries(world.settings.plugins).engines.load("toy")(world.choice.checkpoint, "cpu", "auto", 8)
    assert info == engine.info
    with RunLog.open(tmp_path / "run", make_manifest(world.plan, engine.info, "toy")) as log:
        asyncio.run(run(world.plan, engine, log, world.settings))
    alone = {record.key: record for record in read_run(tmp_path / "run")[1]}
    assert {record.key: record for record in records if isinstance(record, Record)} == alone
    assert any(record.trajectory.tool_calls for record in alone.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "toi"}, "unknown engine 'toi'"),
        ({"options": ("speed=9",)}, "has no options of its own"),
    ],
)
def test_an_engine_that_cannot_be_built_is_an_answer(world: World, change: dict[str, object], words: str) -> None:
    choice = dataclasses.replace(world.choice, **change)  # type: ignore[arg-type]
    info, _ = asyncio.run(play_all(dataclasses.replace(world, choice=choice)))
    assert isinstance(info, Trouble)
    assert words in info.problem


def test_a_data_root_that_is_not_there_is_an_answer(world: World, tmp_path: Path) -> None:
    (part,) = world.plan.tasks
    data = dataclasses.replace(part.data, folder=tmp_path / "elsewhere")
    plan = dataclasses.replace(world.plan, tasks=(TaskPlan(data, part.protocols),))
    info, _ = asyncio.run(play_all(dataclasses.replace(world, plan=plan)))
    assert isinstance(info, Trouble)
    assert "elsewhere does not exist there" in info.problem


def test_a_bug_in_a_task_is_the_answer_to_everything_that_waits(world: World) -> None:
    (part,) = world.plan.tasks

    class Broken(type(part.data.task)):  # type: ignore[misc]
        def score(self, sample: Sample, answer: Answer | None) -> Scores:
            raise ZeroDivisionError("oops")

    data = dataclasses.replace(part.data, task=Broken())
    plan = dataclasses.replace(world.plan, tasks=(TaskPlan(data, part.protocols),))
    keys = tuple(job.key for job in jobs_of(plan))
    _, answers = asyncio.run(play_all(dataclasses.replace(world, plan=plan), keys))
    assert all(isinstance(answer, Trouble) and "cannot grade sample" in answer.problem for answer in answers)
