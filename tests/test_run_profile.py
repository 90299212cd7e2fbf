"""Where the time went: sums that agree with the board's costs, stages that add up, rates only where they are sound."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.test_merge import make_manifest, make_record, write_shard
from vital_eval.errors import RunLogError
from vital_eval.generation import FinishReason
from vital_eval.leaderboards.cost import cost_of
from vital_eval.manifest import write_manifest
from vital_eval.outcome import Outcome
from vital_eval.protocol import Mode
from vital_eval.record import Record, record_to_line
from vital_eval.run_log import read_run
from vital_eval.run_profile import FROM_EPISODES, FROM_FILES, Stages, profile_run
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

STARTED = "2026-01-01T00:00:00+00:00"
STARTED_AT = 1767225600.0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of 40 samples in two modes that took 30 seconds."""
    folder = tmp_path / "run"
    write_shard(folder, dataclasses.replace(make_manifest(range(40)), created=STARTED))
    os.utime(folder / "records.jsonl", (STARTED_AT + 30, STARTED_AT + 30))
    return folder


def test_means_are_the_boards(run: Path) -> None:
    _, records = read_run(run)
    profile = profile_run(run)
    assert [(cell.task, cell.mode) for cell in profile.cells] == [("moments", "cot"), ("moments", "tool")]
    for cell in profile.cells:
        cost = cost_of(record for record in records if record.mode == cell.mode)
        assert cost is not None
        assert cell.episodes == cost.attempts
        for name in ("seconds", "frames", "visual_tokens", "new_tokens", "turns"):
            assert cell.per_episode(getattr(cell, name)) == pytest.approx(getattr(cost, name)), name
    assert profile.cells[0].tool_calls == 0
    assert profile.cells[1].tool_calls == 2 * profile.cells[1].episodes


def test_engine_and_outside_add_up(run: Path) -> None:
    whole = profile_run(run).whole
    assert whole.failed == 2 * sum(index % 7 == 5 for index in range(40)) == 10
    assert (whole.episodes, whole.failed_seconds) == (70, 15.0)
    assert whole.seconds == pytest.approx(70 * 1.5)
    assert whole.engine_seconds == pytest.approx(70 * 0.4)
    assert whole.first_turn_seconds == pytest.approx(70 * 0.2)
    assert whole.engine_seconds + whole.outside_seconds == pytest.approx(whole.seconds)


def test_a_failed_attempt_that_was_answered_later_is_time_spent(run: Path) -> None:
    again = dataclasses.replace(make_record(5, Mode.COT), outcome=Outcome.ANSWERED)
    with (run / "records.jsonl").open("a") as file:
        file.write(record_to_line(again))
    whole = profile_run(run).whole
    assert (whole.episodes, whole.failed) == (71, 10)


def test_percentiles_are_nearest_ranks(run: Path) -> None:
    lines = []
    for index in range(20):
        record = dataclasses.replace(make_record(index, Mode.COT), outcome=Outcome.ANSWERED)
        trajectory = dataclasses.replace(record.trajectory, seconds=float(20 - index))
        lines.append(record_to_line(dataclasses.replace(record, trajectory=trajectory)))
    (run / "records.jsonl").write_text("".join(lines))
    cot, tool = profile_run(run).cells
    assert (cot.median_seconds, cot.p95_seconds) == (10.0, 19.0)
    assert (tool.episodes, tool.median_seconds, tool.per_episode(tool.seconds)) == (0, None, None)


def test_rates_are_over_the_wall_clock(run: Path) -> None:
    rates = profile_run(run).rates
    assert rates is not None
    assert (rates.wall_seconds, rates.wall_clock, rates.engine_busy) == (30, FROM_FILES, None)
    assert rates.episodes_per_second == pytest.approx(70 / 30)
    assert rates.new_tokens_per_second == pytest.approx(70 * 24 / 30)
    assert rates.episodes_under_way == pytest.approx(80 * 1.5 / 30)
    assert rates.requests_under_way == pytest.approx(80 * 0.4 / 30)


@pytest.mark.parametrize("seconds", [-5, 0, 1])
def test_no_rates_where_the_times_contradict_each_other(run: Path, seconds: int) -> None:
    # An episode took 1.5 seconds, so a run of 1 second is none.
    os.utime(run / "records.jsonl", (STARTED_AT + seconds, STARTED_AT + seconds))
    assert profile_run(run).rates is None


def test_an_empty_run_is_refused(run: Path) -> None:
    (run / "records.jsonl").write_text("")
    with pytest.raises(RunLogError, match="holds no records yet"):
        profile_run(run)


def turn(began: float, seconds: float, call: float | None = None, queue: float | None = None) -> Turn:
    """Return a turn; where its queue is told, prefill took twice as long."""
    told = None if call is None else ToolCall("{}", "clip", "", "seen", (0, 1), (), (0.0,), call)
    prefill = None if queue is None else 2 * queue
    return Turn("t", FinishReason.STOP_STRING, 40, 0, 24, 12, seconds, told, (), began, queue, prefill)


def timed(
    index: int,
    began: float,
    seconds: float,
    *turns: Turn,
    opened: float = 0.0,
    decoded: float = 0.0,
    lost: float | None = None,
    mode: Mode = Mode.TOOL,
) -> Record:
    """Return a record that began so many seconds after the run; it failed if a turn of it was lost."""
    stop = StopReason.ANSWERED if lost is None else StopReason.ENGINE_FAILED
    trajectory = Trajectory(
        turns, stop, None, (0.0, 1.0), 9.0, "", seconds, STARTED_AT + began, opened, decoded, unfinished_turn_began=lost
    )
    outcome = Outcome.ANSWERED if lost is None else Outcome.INFRA_FAILED
    return dataclasses.replace(make_record(index, mode), outcome=outcome, trajectory=trajectory)


def write_run(folder: Path, records: Iterable[Record]) -> Path:
    folder.mkdir()
    # Nobody may look at when the files were made.
    write_manifest(folder, make_manifest(range(40)))
    (folder / "records.jsonl").write_text("".join(record_to_line(record) for record in records))
    return folder


# As it went: 0 to 10 two episodes, from 25 to 30 a third, which failed. The engine had turns from 1 to 4, from 2 to 6,
# from 7 to 9, and from 26 to 30 the one that was lost: 11 of 15 seconds.
EPISODES = (
    timed(0, 0.0, 9.0, turn(1.0, 3.0, 1.5, 0.5), turn(7.0, 2.0, None, 0.25), opened=0.25, decoded=0.5),
    timed(1, 1.0, 9.0, turn(1.0, 4.0), opened=0.5, mode=Mode.COT),
    timed(2, 25.0, 5.0, lost=1.0, decoded=1.0),
)


def test_stages_are_what_the_records_tell(tmp_path: Path) -> None:
    profile = profile_run(write_run(tmp_path / "run", EPISODES))
    cot, tool = profile.cells
    assert tool.stages == Stages(open=0.25, decode=0.5, queue=0.75, prefill=1.5, writing=2.75, tool=1.5, other=1.75)
    assert cot.stages == Stages(open=0.5, engine=4.0, other=4.5)
    assert profile.whole.stages == tool.stages + cot.stages
    assert (profile.whole.failed, profile.whole.failed_seconds, profile.whole.failed_engine_seconds) == (1, 5.0, 4.0)
    assert (profile.untimed, profile.turns_timed) == (0, True)


def test_the_engine_was_busy_while_any_turn_was_with_it(tmp_path: Path) -> None:
    rates = profile_run(write_run(tmp_path / "run", EPISODES)).rates
    assert rates is not None
    # The pause from 10 to 25 belongs to nobody.
    assert (rates.wall_seconds, rates.wall_clock, rates.pause_seconds) == (15.0, FROM_EPISODES, 15.0)
    assert rates.engine_busy == pytest.approx(11 / 15)
    assert rates.episodes_under_way == pytest.approx((9 + 9 + 5) / 15)
    assert rates.requests_under_way == pytest.approx((5 + 4 + 4) / 15)
    assert rates.episodes_per_second == pytest.approx(2 / 15)
    assert rates.frames_per_second == pytest.approx(5 / 15)
    assert rates.visual_tokens_per_second == pytest.approx(48 / 15)


def test_the_order_of_the_log_moves_nothing(tmp_path: Path) -> None:
    one, other = (
        profile_run(write_run(tmp_path / name, records))
        for name, records in (("one", EPISODES), ("other", reversed(EPISODES)))
    )
    assert one == other


def test_a_record_of_an_older_version_makes_the_run_one(tmp_path: Path) -> None:
    old = dataclasses.replace(EPISODES[0].trajectory, began=None)
    folder = write_run(tmp_path / "run", (dataclasses.replace(EPISODES[0], trajectory=old), *EPISODES[1:]))
    profile = profile_run(folder)
    assert (profile.untimed, profile.rates) == (1, None)


_seconds = st.integers(0, 4000).map(lambda steps: steps / 8)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(_seconds, _seconds, _seconds, st.booleans()), max_size=3), _seconds, _seconds, _seconds)
def test_stages_add_up_to_the_time_of_the_episodes(
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[tuple[float, float, float, bool]],
    opened: float,
    decoded: float,
    rest: float,
) -> None:
    now, played = opened + decoded, []
    for queue, writing, call, told in turns:
        played.append(turn(now, 3 * queue + writing, call, queue if told else None))
        now += 3 * queue + writing + call
    record = timed(0, 0.0, now + rest, *played, opened=opened, decoded=decoded)
    whole = profile_run(write_run(tmp_path_factory.mktemp("runs") / "run", (record,))).whole
    assert sum(dataclasses.astuple(whole.stages)) == pytest.approx(whole.seconds) == pytest.approx(now + rest)
    assert whole.stages.other == pytest.approx(rest)
    inside = whole.stages.queue + whole.stages.prefill + whole.stages.writing + whole.stages.engine
    assert inside == pytest.approx(whole.engine_seconds)


def test_clocks_that_differ_a_little_make_no_negative_time(tmp_path: Path) -> None:
    early = turn(0.0, 0.2999, None, 0.1)
    whole = profile_run(write_run(tmp_path / "run", (timed(0, 0.0, 0.2998, early),))).whole
    assert min(dataclasses.astuple(whole.stages)) == 0.0
    assert whole.outside_seconds == 0.0
