"""Figures of a run: the counts add up, missing is wrong, and neither order nor resumption shows."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.errors import RunLogError
from vital_eval.generation import FinishReason
from vital_eval.manifest import Entry, Manifest
from vital_eval.outcome import Outcome
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.record import Record
from vital_eval.record_table import ToolCounts
from vital_eval.run_log import RunLog
from vital_eval.statistics.means import Estimate, estimate, nested_weights
from vital_eval.summary import (
    CellSummary,
    _tool_health,
    read_baselines,
    summarise,
    write_summary,
)
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

_SAMPLES = tuple((f"s{index}", f"v{index // 2}") for index in range(6))


def _manifest(mode: Mode = Mode.COT, attempts: int = 1) -> Manifest:
    entry = Entry(
        "moments",
        1,
        "mIoU",
        {"mIoU": "iou", "precision": "precision"},
        preset("nano", mode, "moments"),
        "d1",
        _SAMPLES,
    )
    engine = EngineInfo("hf", "nano-1", "f1", FrameGeometry(32, 2))
    return Manifest("nano", engine, (entry,), "2026", "0.1.0", attempts=attempts)


def _record(index: int, score: float | None = 1.0, **changes: Any) -> Record:
    mode = changes.pop("mode", Mode.COT)
    calls: tuple[str, ...] = changes.pop("calls", ())
    seconds = changes.pop("seconds", 1.0)
    turns = tuple(
        Turn("", FinishReason.STOP_STRING, 1, 0, 0, 1, seconds, ToolCall("", "t", error, "")) for error in calls
    )
    fields: dict[str, Any] = {
        "task": "moments",
        "mode": mode,
        "protocol": preset("nano", mode, "moments").hash,
        "sample_id": f"s{index}",
        "attempt": 0,
        "cluster": f"v{index // 2}",
        "outcome": Outcome.ANSWERED,
        "reason": "",
        "answer": None,
        "scores": {"iou": score, "precision": score},
        "trajectory": Trajectory(turns, StopReason.ANSWERED, "", (), 10.0, seconds=seconds),
    }
    return Record(**{**fields, **changes})


def _cell(records: list[Record], mode: Mode = Mode.COT, attempts: int = 1) -> CellSummary:
    return summarise(_manifest(mode, attempts), records).cells[0]


def test_an_empty_run_owes_everything() -> None:
    cell = _cell([])
    assert cell.outcomes["owed"] == cell.n == 6
    assert cell.headline.value == 0
    assert not cell.complete
    assert cell.missing == 6


def test_missing_predictions_are_wrong_in_the_headline() -> None:
    cell = _cell([_record(0), _record(1), _record(2, 0.0, outcome=Outcome.UNPARSED, reason="no-span")])
    assert cell.headline.value == pytest.approx(2 / 6)
    assert cell.headline.n == 6
    assert cell.completed.value == 1
    assert cell.completed.n == 2
    assert cell.reasons == {"unparsed: no-span": 1}
    assert cell.outcomes == {
        "answered": 2,
        "unparsed": 1,
        "truncated": 0,
        "tool-failed": 0,
        "infra-failed": 0,
        "owed": 3,
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(Outcome)), unique_by=lambda pair: pair[0]))
def test_outcomes_always_add_up(rows: list[tuple[int, Outcome]]) -> None:
    cell = _cell([_record(index, 0.0, outcome=outcome) for index, outcome in rows])
    assert sum(cell.outcomes.values()) == cell.n
    assert cell.complete == (len(rows) == 6 and all(outcome is not Outcome.INFRA_FAILED for _, outcome in rows))


def test_infrastructure_failures_hold_the_headline_back() -> None:
    records = [_record(index) for index in range(5)]
    cell = _cell([*records, _record(5, 0.0, outcome=Outcome.INFRA_FAILED, reason="engine-failed")])
    assert not cell.complete
    assert cell.missing == 1


def test_none_leaves_one_metrics_denominator() -> None:
    records = [_record(index, scores={"iou": 0.5, "precision": None if index else 1.0}) for index in range(6)]
    cell = _cell(records)
    assert (cell.headline.n, cell.headline.value) == (6, 0.5)
    assert (cell.metrics["precision"].n, cell.metrics["precision"].value) == (1, 1.0)
    nothing = _cell([_record(index, scores={"iou": 0.5, "precision": None}) for index in range(6)])
    assert nothing.metrics["precision"] == Estimate(None, None, None, None, 0, 0)


def test_attempts_are_averaged_per_sample() -> None:
    records = [_record(index, float(attempt == 0), attempt=attempt) for index in range(6) for attempt in range(2)]
    cell = _cell(records, attempts=2)
    assert (cell.headline.value, cell.headline.n, cell.headline.clusters) == (0.5, 6, 3)
    assert sum(cell.outcomes.values()) == 12
    assert cell.complete
    half = _cell(records[:6], attempts=2)
    assert half.headline.value == pytest.approx(3 / 12)
    assert half.missing == 6


def test_strata_weigh_equally() -> None:
    strata = [("hard",)] + [("easy",)] * 5
    cell = _cell([_record(index, float(index > 0), strata={"mIoU": strata[index]}) for index in range(6)])
    assert cell.headline.value == pytest.approx(0.5)
    assert cell.metrics["precision"].value == pytest.approx(5 / 6)
    part = _cell([_record(index, float(index > 0), strata={"mIoU": strata[index]}) for index in range(3)])
    assert (part.headline.n, part.complete) == (3, False)


def test_tool_health() -> None:
    calls: list[tuple[str, ...]] = [("",), ("reversed", ""), (), ("",), ("",), ("",)]
    tools = _cell([_record(index, mode=Mode.TOOL, calls=calls[index]) for index in range(6)], Mode.TOOL).tools
    assert tools is not None
    assert (tools.calls, tools.calls_per_attempt) == (6, 1.0)
    assert tools.success_share == pytest.approx(5 / 6)
    assert tools.using_share == pytest.approx(5 / 6)
    assert (dict(tools.errors), tools.verdict) == ({"reversed": 1}, "ok")
    assert _cell([]).tools is None


def test_dead_tools_make_a_run_invalid() -> None:
    records = [_record(index, mode=Mode.TOOL, calls=("media-unreadable",)) for index in range(6)]
    tools = _cell(records, Mode.TOOL).tools
    assert tools is not None
    assert tools.invalid
    assert tools.verdict == "INVALID: 6 of 6 tool calls failed, most often by media-unreadable"


def test_tools_that_are_never_called_are_said_aloud() -> None:
    tools = _cell([_record(0, mode=Mode.TOOL)], Mode.TOOL).tools
    assert tools is not None
    assert tools.verdict.startswith("WARNING")
    assert tools.success_share is None
    empty = _cell([], Mode.TOOL).tools
    assert empty is not None
    assert empty.verdict == "no attempts yet"


def test_tools_that_are_hardly_called_are_said_aloud() -> None:
    records = [_record(index, mode=Mode.TOOL, calls=("",) if index == 0 else ()) for index in range(40)]
    counts = ToolCounts()
    for record in records[:20]:
        counts.add(record)
    assert _tool_health(counts).verdict == "ok"
    for record in records[20:]:
        counts.add(record)
    assert _tool_health(counts).verdict == "WARNING: only 1 of 40 attempts used the tools"


def test_equal_runs_have_equal_bytes_whatever_order_and_clock(tmp_path: Path) -> None:
    baselines = {
        "moments": {"whole video": Estimate(0.3, 0.1, 0.1, 0.5, 6, 3), "random": Estimate(0.2, None, None, None, 6, 1)}
    }
    records = [_record(index, 0.1 * index) for index in range(6)]
    first = write_summary(tmp_path, summarise(_manifest(), records, baselines)).read_bytes()
    records = [_record(index, 0.1 * index, seconds=9.0) for index in range(6)]
    random.Random(1).shuffle(records)  # noqa: S311
    turned = {"moments": dict(reversed(baselines["moments"].items()))}
    assert write_summary(tmp_path, summarise(_manifest(), records, turned)).read_bytes() == first
    assert read_baselines(tmp_path) == baselines


def test_baselines_of_an_unsummarised_or_damaged_run(tmp_path: Path) -> None:
    assert read_baselines(tmp_path) == {}
    (tmp_path / "summary.json").write_text('{"baselines": {"moments": {"x": 1}}}')
    with pytest.raises(RunLogError, match="cannot read"):
        read_baselines(tmp_path)


@pytest.mark.parametrize("changes", [{"task": "x"}, {"protocol": "x"}, {"sample_id": "s99"}, {"attempt": 1}])
def test_records_of_another_run_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RunLogError, match=r"not part of the run|but the run has"):
        summarise(_manifest(), [_record(0, **changes)])


def test_a_record_that_occurs_twice_is_refused() -> None:
    with pytest.raises(RunLogError, match="second record"):
        summarise(_manifest(), [_record(0), _record(0)])


_ATTEMPTS = 3
_ENTRIES = tuple(
    Entry(
        "moments",
        1,
        "mIoU",
        {"mIoU": "iou", "precision": "precision"},
        preset("nano", mode, "moments"),
        "d1",
        tuple((f"s{index}", f"v{index // 3}") for index in range(30)),
    )
    for mode in (Mode.COT, Mode.TOOL)
)
_LARGE = Manifest("n", EngineInfo("hf", "n", "f", FrameGeometry(32, 2)), _ENTRIES, "2026", "0", attempts=_ATTEMPTS)


def _random_record(draw: random.Random, entry: Entry, number: int, attempt: int, outcome: Outcome) -> Record:
    answered = outcome is Outcome.ANSWERED
    mode = entry.protocol.mode
    return _record(
        number,
        mode=mode,
        cluster=f"v{number // 3}",
        attempt=attempt,
        outcome=outcome,
        reason="" if answered else draw.choice(("why", "what")),
        scores={
            "iou": draw.choice((0, 1, draw.random())) if answered else 0.0,
            "precision": None if number % 4 == 0 or draw.random() < 0.2 else draw.random(),
        },
        strata={"mIoU": ("even", f"third {number % 3}")} if number % 2 == 0 else {"mIoU": ("odd",)},
        calls=tuple(draw.choice(("", "", "reversed")) for _ in range(draw.randrange(3))) if mode is Mode.TOOL else (),
    )


def _random_log(seed: int) -> list[Record]:
    """Attempts in any order: some owed, some failed, some made again once or twice after they failed."""
    draw = random.Random(seed)  # noqa: S311
    final = [outcome for outcome in Outcome if outcome is not Outcome.INFRA_FAILED]
    by_key = {}
    for entry in _ENTRIES:
        for number in range(30):
            for attempt in range(_ATTEMPTS):
                outcomes = [Outcome.INFRA_FAILED] * draw.choice((0, 0, 0, 1, 2))
                outcomes += [draw.choice((Outcome.ANSWERED, *final))] * (draw.random() < 0.85)
                records = [_random_record(draw, entry, number, attempt, outcome) for outcome in outcomes]
                by_key[entry.key, number, attempt] = records
    order = [key for key, records in by_key.items() for _ in records]
    draw.shuffle(order)
    return [by_key[key].pop(0) for key in order]


def _whole_records_cell(entry: Entry, last: list[Record]) -> dict[str, Any]:
    """Work the figures of a cell out from whole records, as plainly as they are defined."""
    inside = sorted(
        (record for record in last if record.protocol == entry.protocol.hash),
        key=lambda record: (int(record.sample_id[1:]), record.attempt),
    )
    answered = [record for record in inside if record.outcome is Outcome.ANSWERED]

    def figure(metric: str, records: list[Record], attempts: int | None) -> Estimate:
        stratified = any(record.strata.get(metric) for record in records)
        values, clusters, paths = [], [], []
        for sample, cluster in entry.samples:
            mine = [record for record in records if record.sample_id == sample]
            scores = [record.scores[entry.metrics[metric]] for record in mine]
            kept = sorted(score for score in scores if score is not None)
            missing = 0 if attempts is None else attempts - len(scores)
            if (stratified and not mine) or (not kept and not missing):
                continue
            values.append(sum(kept) / (len(kept) + missing))
            clusters.append(cluster)
            paths.append(mine[0].strata.get(metric, ()) if mine else ())
        return estimate(values, nested_weights(paths), clusters, paths)

    finished = [record.trajectory.tool_calls for record in inside if record.outcome is not Outcome.INFRA_FAILED]
    calls = [call for each in finished for call in each]
    return {
        "outcomes": {
            **{outcome.value: sum(record.outcome is outcome for record in inside) for outcome in Outcome},
            "owed": len(entry.samples) * _ATTEMPTS - len(inside),
        },
        "reasons": dict(
            Counter(f"{record.outcome.value}: {record.reason}" for record in inside if record not in answered)
        ),
        "metrics": {name: figure(name, inside, _ATTEMPTS) for name in entry.metrics},
        "completed": figure("mIoU", answered, None),
        "calls": (len(calls), sum(map(bool, finished)), dict(Counter(call.error for call in calls if call.error))),
        "attempts": len(finished),
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_streamed_log_has_the_figures_of_its_whole_records(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = _random_log(seed)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with RunLog.open(tmp_path / "run", _LARGE) as log:
        for record in records:
            log.append(record)
        streamed = summarise(log.manifest, log.stream())
        last = log.records
    assert len(last) < len(records), "some attempts were made again"
    assert len(list(log.stream())) == len(records)
    assert streamed == summarise(_LARGE, last)
    for entry, cell in zip(_ENTRIES, streamed.cells, strict=True):
        wanted = _whole_records_cell(entry, list(last))
        assert all(wanted["outcomes"].values()), "every outcome occurs"
        for name in ("outcomes", "reasons", "metrics", "completed"):
            assert getattr(cell, name) == wanted[name], name
        if cell.tools is not None:
            using = round(cell.tools.using_share * wanted["attempts"])
            assert (cell.tools.calls, using, dict(cell.tools.errors)) == wanted["calls"]
    finished = next(record for record in records if record.outcome is not Outcome.INFRA_FAILED)
    with pytest.raises(RunLogError, match="second record"):
        summarise(_LARGE, [*records, finished])


def test_a_summary_keeps_no_record() -> None:
    size, count = 100_000, 60

    def records() -> Iterator[Record]:
        for index in range(count):
            turn = Turn(chr(97 + index % 26) * size, FinishReason.STOP_STRING, 1, 0, 0, 1, 1.0)
            trajectory = Trajectory((turn,), StopReason.ANSWERED, "", (), 10.0)
            yield _record(index // 2, attempt=index % 2, trajectory=trajectory)

    def peak(read: Callable[[], Iterable[Record]]) -> int:
        summarise(_LARGE, ())  # What the first call imports and caches is not the records'.
        tracemalloc.start()
        try:
            summarise(_LARGE, read())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(records) < 5 * size
    # The control: records that are kept do show.
    assert peak(lambda: list(records())) > count * size
