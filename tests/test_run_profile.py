"""Where the time went: sums that agree with the board's costs, and rates only where they are sound."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from tests.test_merge import make_manifest, make_record, write_shard
from vital_eval.errors import RunLogError
from vital_eval.leaderboards.cost import cost_of
from vital_eval.outcome import Outcome
from vital_eval.protocol import Mode
from vital_eval.record import record_to_line
from vital_eval.run_log import read_run
from vital_eval.run_profile import profile_run

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
    assert rates.wall_seconds == 30
    assert rates.episodes_per_second == pytest.approx(70 / 30)
    assert rates.new_tokens_per_second == pytest.approx(70 * 24 / 30)
    assert rates.episodes_under_way == pytest.approx(80 * 1.5 / 30)
    assert rates.requests_under_way == pytest.approx(70 * 0.4 / 30)


@pytest.mark.parametrize("seconds", [-5, 0, 1])
def test_no_rates_where_the_times_contradict_each_other(run: Path, seconds: int) -> None:
    # An episode took 1.5 seconds, so a run of 1 second is none.
    os.utime(run / "records.jsonl", (STARTED_AT + seconds, STARTED_AT + seconds))
    assert profile_run(run).rates is None


def test_an_empty_run_is_refused(run: Path) -> None:
    (run / "records.jsonl").write_text("")
    with pytest.raises(RunLogError, match="holds no records yet"):
        profile_run(run)
