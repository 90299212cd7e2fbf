"""Whole runs: real videos, real task, real run log; only the model is a script."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.toy_world import ANSWER, CALL, TASK, write_data_root
from vital_eval.data_root import Shard, read_task, select
from vital_eval.engine import GenerationRequest
from vital_eval.engines.scripted import ScriptedEngine, question_of, turns
from vital_eval.errors import EngineError, ProtocolError, VitalError
from vital_eval.generation import Generation
from vital_eval.outcome import Outcome
from vital_eval.plan import RunPlan, TaskPlan, make_manifest, make_plan
from vital_eval.presets import preset
from vital_eval.progress import Bar, Lines, Tally
from vital_eval.protocol import Mode
from vital_eval.record import Record
from vital_eval.registry import Registries
from vital_eval.run_log import RunLog, read_run
from vital_eval.runner import Settings, StoppedError, run
from vital_eval.sample import Sample, Target
from vital_eval.summary import summarise, summary_to_json
from vital_eval.task import Answer, Task

QUICK = Settings(concurrency=4, decode_workers=1)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_root(tmp_path_factory.mktemp("world"), videos=4)


def plan_of(data_root: Path, *modes: Mode, task: Task | None = None, **options: Any) -> RunPlan:
    registries = Registries()
    data = read_task(task or registries.tasks.load(TASK)(), data_root)
    recipes = tuple(preset("vital", mode, TASK) for mode in modes or (Mode.TOOL,))
    return make_plan((TaskPlan(data, recipes),), registries, **options)


def play(
    plan: RunPlan, engine: ScriptedEngine, out: Path, settings: Settings = QUICK
) -> tuple[Tally, tuple[Record, ...]]:
    with RunLog.open(out, make_manifest(plan, engine.info, "toy")) as log:
        tally = asyncio.run(run(plan, engine, log, settings))
    return tally, read_run(out)[1]


def test_a_complete_run(data_root: Path, tmp_path: Path) -> None:
    plan = plan_of(data_root, *Mode)
    engine = ScriptedEngine(turns(CALL, ANSWER))
    tally, records = play(plan, engine, tmp_path / "run")
    assert tally.owed == 0
    assert len(records) == plan.episodes == 32
    tool = [record for record in records if record.mode is Mode.TOOL]
    assert all(record.outcome is Outcome.ANSWERED for record in tool)
    assert all(record.trajectory.tool_calls[0].succeeded for record in tool)
    assert all(record.trajectory.tool_calls[0].frame_times[0] == 1.0 for record in tool)
    assert {record.outcome for record in records if record.mode is Mode.COT} == {Outcome.UNPARSED}
    assert len(engine.released) == 32
    assert "tool calls ok 100%" in tally.describe(1.0)


def test_resume_plays_only_what_is_owed_and_sums_up_the_same(data_root: Path, tmp_path: Path) -> None:
    plan = plan_of(data_root)
    undisturbed = play(plan, ScriptedEngine(turns(CALL, ANSWER)), tmp_path / "a")
    seen = 0

    def dies_later(request: GenerationRequest) -> str:
        nonlocal seen
        seen += 1
        if seen > 5:
            raise RuntimeError("the machine goes down")
        return turns(CALL, ANSWER)(request)

    with pytest.raises(RuntimeError, match="goes down"):
        play(plan, ScriptedEngine(dies_later), tmp_path / "b")
    first = read_run(tmp_path / "b")[1]
    assert 0 < len(first) < 8
    engine = ScriptedEngine(turns(CALL, ANSWER))
    tally, records = play(plan, engine, tmp_path / "b")
    assert tally.resumed == len(first)
    assert len(engine.released) == 8 - len(first)
    assert {record.key for record in records} == {record.key for record in undisturbed[1]}
    summaries = [summary_to_json(summarise(*read_run(tmp_path / name))) for name in "ab"]
    assert summaries[0] == summaries[1]


def test_broken_and_missing_videos_cost_their_samples_only(tmp_path: Path) -> None:
    data_root = write_data_root(tmp_path, videos=4)
    videos = data_root / TASK / "videos"
    whole = (videos / "V1.mp4").read_bytes()
    (videos / "V1.mp4").write_bytes(whole[: len(whole) // 3])
    (videos / "V2.mp4").unlink()
    plan = plan_of(data_root)
    tally, records = play(plan, ScriptedEngine(turns(CALL, ANSWER)), tmp_path / "run")
    failed = [record for record in records if record.outcome is Outcome.INFRA_FAILED]
    assert {record.sample_id for record in failed} == {"V1/0", "V1/1", "V2/0", "V2/1"}
    assert tally.owed == 4
    assert tally.infra["media-failed (missing)"] == 2
    assert all(score == 0 for record in failed for score in record.scores.values())
    (videos / "V1.mp4").write_bytes(whole)
    (videos / "V2.mp4").write_bytes(whole)
    engine = ScriptedEngine(turns(CALL, ANSWER))
    tally, records = play(plan, engine, tmp_path / "run")
    assert tally.owed == 0
    assert len(engine.released) == 4
    assert {record.outcome for record in records} == {Outcome.ANSWERED}


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("again and again " * 4_000, Outcome.TRUNCATED),
        ("<tool_call>{not json}</tool_call>", Outcome.TOOL_FAILED),
        ("x" * 1_000_000, Outcome.TRUNCATED),
        ("\x00\x1b[2J\x07<answer>\x1b]0;title\x07</answer>", Outcome.UNPARSED),
        ("<answer></script><script>alert(1)</script></answer>", Outcome.UNPARSED),
        ("<answer>\ud800</answer>", Outcome.UNPARSED),
        ("", Outcome.UNPARSED),
    ],
    ids=["repeats", "invalid-json", "megabyte", "control", "script", "surrogate", "empty"],
)
def test_hostile_text_is_data(data_root: Path, tmp_path: Path, text: str, outcome: Outcome) -> None:
    engine = ScriptedEngine(turns(text), obeys_limit=text.startswith("again"))
    tally, records = play(plan_of(data_root, limit=None), engine, tmp_path / "run")
    assert {record.outcome for record in records} == {outcome}
    assert tally.owed == 0
    assert (tmp_path / "run" / "records.jsonl").stat().st_size < 3_000_000


def test_a_dead_engine_stops_the_run_early(data_root: Path, tmp_path: Path) -> None:
    def dead(request: GenerationRequest) -> str:
        raise EngineError("device lost")

    settings = dataclasses.replace(QUICK, concurrency=1, failures_in_a_row=3)
    with pytest.raises(StoppedError, match=r"3 times in a row.*device lost"):
        play(plan_of(data_root), ScriptedEngine(dead), tmp_path / "run", settings)
    assert len(read_run(tmp_path / "run")[1]) == 3


def test_several_tasks_share_one_queue(tmp_path: Path) -> None:
    data_root = write_data_root(tmp_path, videos=3)
    base = type(Registries().tasks.load(TASK)())

    class Other(base):  # type: ignore[valid-type,misc]
        name = "other"

    shutil.copytree(data_root / TASK, data_root / "other")
    registries = Registries()
    tasks = tuple(
        TaskPlan(read_task(task, data_root), (preset("vital", Mode.TOOL, TASK), preset("vital", Mode.COT, TASK)))
        for task in (base(), Other())
    )
    engine = ScriptedEngine(turns(CALL, ANSWER), delay=0.01)
    tally, records = play(make_plan(tasks, registries), engine, tmp_path / "run")
    assert tally.owed == 0
    assert {(record.task, record.mode) for record in records} == {
        (name, mode) for name in (TASK, "other") for mode in (Mode.TOOL, Mode.COT)
    }
    assert len(records) == 24


def test_many_unreadable_videos_stop_the_run_one_does_not(tmp_path: Path) -> None:
    data_root = write_data_root(tmp_path, videos=4)
    for path in (data_root / TASK / "videos").iterdir():
        path.unlink()
    settings = dataclasses.replace(QUICK, concurrency=1, failures_in_a_row=3)
    with pytest.raises(StoppedError, match="3 videos in a row"):
        play(plan_of(data_root), ScriptedEngine(turns(ANSWER)), tmp_path / "run", settings)
    assert len(read_run(tmp_path / "run")[1]) == 5


def test_an_engine_failure_is_owed_again(data_root: Path, tmp_path: Path) -> None:
    def sometimes(request: GenerationRequest) -> str:
        if "closes box 2" in question_of(request.conversation):
            raise EngineError("request lost")
        return ANSWER

    tally, _ = play(plan_of(data_root), ScriptedEngine(sometimes), tmp_path / "run")
    assert tally.owed == 1
    assert dict(tally.infra) == {"engine-failed": 1}
    tally, _ = play(plan_of(data_root), ScriptedEngine(turns(ANSWER)), tmp_path / "run")
    assert tally.owed == 0
    assert tally.done == 1


def test_a_bug_in_a_scorer_stops_the_run_and_names_the_sample(data_root: Path, tmp_path: Path) -> None:
    base = type(Registries().tasks.load(TASK)())

    class Buggy(base):  # type: ignore[valid-type,misc]
        def score(self, answer: Answer | None, sample: Sample) -> Mapping[str, float | None]:
            if "closes box 1" in sample.question:
                raise KeyError("oops")
            result: Mapping[str, float | None] = super().score(answer, sample)
            return result

    with pytest.raises(VitalError, match=r"cannot grade sample .*V1.*KeyError.*bug"):
        play(plan_of(data_root, task=Buggy()), ScriptedEngine(turns(ANSWER)), tmp_path / "run")


def test_episodes_progress_independently(data_root: Path, tmp_path: Path) -> None:
    class Counting(ScriptedEngine):
        now = most = 0

        async def generate(self, request: GenerationRequest) -> Generation:
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                return await super().generate(request)
            finally:
                self.now -= 1

    engine = Counting(turns(CALL, ANSWER), delay=0.05)
    play(plan_of(data_root), engine, tmp_path / "run", dataclasses.replace(QUICK, concurrency=3))
    assert 2 <= engine.most <= 3


def test_attempts_move_the_seeds(data_root: Path, tmp_path: Path) -> None:
    registries = Registries()
    data = read_task(registries.tasks.load(TASK)(), data_root)
    greedy = preset("vital", Mode.COT, TASK)
    with pytest.raises(ProtocolError, match="greedy"):
        make_plan((TaskPlan(data, (greedy,)),), registries, attempts=2)
    warm = dataclasses.replace(greedy, sampling=dataclasses.replace(greedy.sampling, temperature=1.0))
    plan = make_plan((TaskPlan(data, (warm,)),), registries, attempts=2)
    engine = ScriptedEngine(turns(ANSWER))
    _, records = play(plan, engine, tmp_path / "run")
    assert len(records) == 16
    assert len({request.seed for request in engine.requests}) == 16


def test_subtitles_are_refused_while_nothing_provides_them(data_root: Path) -> None:
    registries = Registries()
    data = read_task(registries.tasks.load(TASK)(), data_root)
    protocol = dataclasses.replace(preset("vital", Mode.COT, TASK), subtitles=True)
    with pytest.raises(ProtocolError, match="subtitles"):
        make_plan((TaskPlan(data, (protocol,)),), registries)


def _samples(count: int) -> tuple[Sample, ...]:
    return tuple(Sample(f"s{i}", "t", "v", 1.0, "q", Target(), cluster="v") for i in range(count))


def test_limit_is_stable_and_nested() -> None:
    samples = _samples(100)
    ten, twenty = select(samples, 10, None), select(samples, 20, None)
    assert len(ten) == 10
    assert {s.id for s in ten} <= {s.id for s in twenty}
    assert {s.id for s in select(samples[::-1], 10, None)} == {s.id for s in ten}
    assert [s.id for s in ten] == sorted((s.id for s in ten), key=lambda name: int(name[1:]))


def test_shards_partition() -> None:
    samples = _samples(200)
    parts = [select(samples, 150, Shard(index, 4)) for index in range(1, 5)]
    ids = [sample.id for part in parts for sample in part]
    assert len(ids) == len(set(ids)) == 150
    assert all(15 < len(part) < 65 for part in parts)


def test_lines_are_written_now_and_then() -> None:
    now = [0.0]
    lines: list[str] = []
    reporter = Lines(lines.append, lambda: now[0], every=5)
    tally = Tally(total=10)
    for _ in range(10):
        now[0] += 1
        tally.done += 1
        reporter.update(tally)
    assert [line.split()[0] for line in lines] == ["5/10", "10/10"]
    assert "1.00/s" in lines[0]
    assert "5 s left" in lines[0]


def test_the_bar_shows_counts_without_markup(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally(total=4, done=2, calls=2, calls_ok=1)
    with Bar() as bar:
        bar.update(tally)
    assert "tool calls ok 50% of 2" in capsys.readouterr().err
