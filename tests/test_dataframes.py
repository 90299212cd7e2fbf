"""A run as data frames: one row each, stable columns, whatever state the run is in."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import vital_eval
from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.errors import RunLogError
from vital_eval.generation import FinishReason
from vital_eval.manifest import Entry, Manifest
from vital_eval.outcome import Outcome
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.record import Record
from vital_eval.run_log import RunLog
from vital_eval.span import Span
from vital_eval.task import Answer
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

_TOOL = preset("nano", Mode.TOOL, "moments")
_TEXT = preset("nano", Mode.COT, "choices")

_FIXED = [
    "task", "mode", "protocol", "sample_id", "attempt", "cluster", "outcome", "reason", "answer_text", "letter",
    "number", "start", "end", "spans", "seconds", "frames", "visual_tokens", "new_tokens", "n_turns", "n_calls", "stop",
    "error", "duration", "file_duration", "began", "open_seconds", "decode_seconds", "unfinished_turn_began",
]  # fmt: skip
_SCORES = ["score.iou", "score.right"]


def _turn(call: ToolCall | None = None, visual: int = 24) -> Turn:
    return Turn("words \ud800", FinishReason.STOP_STRING, 40, 8, visual, 12, 0.2, call, ("odd",), 0.5, 0.1, 0.05)


def _grounded(index: int) -> Record:
    good = ToolCall('{"a": 1}', "clip", "", "shown", (2.0, 4.0), ("clamped",), (2.5, 3.5), 0.3)
    bad = ToolCall("{", "", "bad-json", "no")
    return Record(
        task="moments",
        mode=Mode.TOOL,
        protocol=_TOOL.hash,
        sample_id=f"s{index}",
        attempt=0,
        cluster="v",
        outcome=Outcome.ANSWERED,
        reason="several-spans",
        answer=Answer("1 to 2 and 3 to 4", (Span(1.0, 2.0), Span(3.0, 4.0))),
        scores={"iou": 0.25},
        attributes={"source": "anet"},
        trajectory=Trajectory(
            (_turn(bad), _turn(good), _turn(None, 48)),
            StopReason.ANSWERED,
            "1 to 2 and 3 to 4",
            (0.0, 5.0),
            9.0,
            "",
            1.5,
            1.7e9,
            0.1,
            0.4,
        ),
    )


def _chosen(index: int, outcome: Outcome = Outcome.ANSWERED) -> Record:
    answered = outcome is Outcome.ANSWERED
    return Record(
        task="choices",
        mode=Mode.COT,
        protocol=_TEXT.hash,
        sample_id=f"s{index}",
        attempt=0,
        cluster="v",
        outcome=outcome,
        reason="" if answered else "timeout",
        answer=Answer("B", letter="B", number=2.5) if answered else None,
        scores={"right": 1.0 if answered else None},
        attributes={"kind": "why"},
        trajectory=Trajectory(
            (_turn(),) if answered else (),
            StopReason.ANSWERED if answered else StopReason.TIMEOUT,
            "B" if answered else None,
            (0.0,),
            70.0,
            "" if answered else "too slow",
        ),
    )


def _write(folder: Path, *records: Record) -> Path:
    samples = tuple((f"s{index}", "v") for index in range(4))
    entries = (
        Entry("moments", 1, "mIoU", {"mIoU": "iou"}, _TOOL, "d1", samples),
        Entry("choices", 1, "Accuracy", {"Accuracy": "right"}, _TEXT, "d1", samples),
    )
    manifest = Manifest("nano", EngineInfo("hf", "nano-1", "f1", FrameGeometry(32, 2)), entries, "2026", "0.1.0")
    with RunLog.open(folder, manifest) as log:
        for record in records:
            log.append(record)
    return folder


def _plain(row: pd.Series[Any]) -> dict[str, Any]:
    return {str(name): None if value is pd.NA or value != value else value for name, value in row.items()}


def test_one_row_per_record_turn_and_call(tmp_path: Path) -> None:
    run = vital_eval.load_run(_write(tmp_path, _grounded(0), _chosen(1), _chosen(2, Outcome.INFRA_FAILED)))
    assert run.manifest.label == "nano"
    assert list(run.records.columns) == [*_FIXED, *_SCORES, "attribute.kind", "attribute.source"]
    grounded, chosen, failed = (_plain(row) for _, row in run.records.iterrows())
    assert grounded == {
        "task": "moments", "mode": "tool", "protocol": _TOOL.hash, "sample_id": "s0", "attempt": 0, "cluster": "v",
        "outcome": "answered", "reason": "several-spans", "answer_text": "1 to 2 and 3 to 4", "letter": None,
        "number": None, "start": 1.0, "end": 2.0, "spans": ((1.0, 2.0), (3.0, 4.0)), "seconds": 1.5, "frames": 4,
        "visual_tokens": 48, "new_tokens": 36, "n_turns": 3, "n_calls": 2, "stop": "answered", "error": "",
        "duration": 9.0, "file_duration": None, "began": 1.7e9,
        "open_seconds": 0.1, "decode_seconds": 0.4, "unfinished_turn_began": None,
        "score.iou": 0.25, "score.right": None, "attribute.kind": None, "attribute.source": "anet",
    }  # fmt: skip
    assert (chosen["letter"], chosen["number"], chosen["start"], chosen["spans"]) == ("B", 2.5, None, ())
    assert (chosen["score.right"], chosen["score.iou"], chosen["duration"]) == (1.0, None, 70.0)
    assert (failed["outcome"], failed["answer_text"], failed["score.right"], failed["error"]) == (
        "infra-failed", None, None, "too slow",
    )  # fmt: skip
    assert run.turns[["sample_id", "turn", "called", "visual_tokens"]].to_numpy().tolist() == [
        ["s0", 0, True, 24], ["s0", 1, True, 24], ["s0", 2, False, 48], ["s1", 0, False, 24],
    ]  # fmt: skip
    assert run.turns[["began", "queue_seconds", "prefill_seconds"]].to_numpy().tolist() == [[0.5, 0.1, 0.05]] * 4
    assert run.turns["text"][0] == "words \ud800"
    assert run.turns["anomalies"][0] == ("odd",)
    bad, good = (_plain(row) for _, row in run.calls.iterrows())
    assert (bad["turn"], bad["succeeded"], bad["error"], bad["start"], bad["frames"]) == (0, False, "bad-json", None, 0)
    assert (good["turn"], good["succeeded"], good["start"], good["end"], good["frames"]) == (1, True, 2.0, 4.0, 2)
    assert (bad["seconds"], good["seconds"]) == (None, 0.3)
    assert (good["name"], good["notes"], good["raw"], good["message"]) == ("clip", ("clamped",), '{"a": 1}', "shown")


def test_columns_and_dtypes_do_not_depend_on_progress(tmp_path: Path) -> None:
    empty = vital_eval.load_run(_write(tmp_path / "empty"))
    full = vital_eval.load_run(_write(tmp_path / "full", _grounded(0), _chosen(1)))
    one_kind = vital_eval.load_run(_write(tmp_path / "one", _chosen(2, Outcome.INFRA_FAILED)))
    assert (len(empty.records), len(empty.turns), len(empty.calls)) == (0, 0, 0)
    assert list(empty.records.columns) == [*_FIXED, *_SCORES]
    for other in (empty, one_kind):
        assert other.records[[*_FIXED, *_SCORES]].dtypes.equals(full.records[[*_FIXED, *_SCORES]].dtypes)
        assert other.turns.dtypes.equals(full.turns.dtypes)
        assert other.calls.dtypes.equals(full.calls.dtypes)


def test_the_order_of_records_does_not_change_the_columns(tmp_path: Path) -> None:
    one = vital_eval.load_run(_write(tmp_path / "one", _grounded(0), _chosen(1)))
    other = vital_eval.load_run(_write(tmp_path / "other", _chosen(1), _grounded(0)))
    assert list(one.records.columns) == list(other.records.columns)


def test_a_torn_tail_is_left_out_and_the_run_is_not_touched(tmp_path: Path) -> None:
    _write(tmp_path, _grounded(0), _chosen(1))
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    before = path.read_bytes()
    assert vital_eval.load_run(str(tmp_path)).records["sample_id"].tolist() == ["s0"]
    assert path.read_bytes() == before


def test_a_running_run_can_be_loaded(tmp_path: Path) -> None:
    _write(tmp_path, _grounded(0))
    manifest = vital_eval.load_run(tmp_path).manifest
    with RunLog.open(tmp_path, manifest) as log:
        log.append(_chosen(1))
        assert len(vital_eval.load_run(tmp_path).records) == 2


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunLogError):
        vital_eval.load_run(tmp_path / "nothing")


def test_the_example_of_the_docstring_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "runs" / "mine", _grounded(0), _chosen(1))
    monkeypatch.chdir(tmp_path)
    (test,) = (
        test for test in doctest.DocTestFinder(recurse=False).find(vital_eval.load_run, "load_run") if test.examples
    )
    assert len(test.examples) >= 4
    # What an example binds is looked at, so that one which finds nothing fails.
    names: dict[str, Any] = {}
    runner = doctest.DocTestRunner()
    test.globs = names
    assert runner.run(test, clear_globs=False).failed == 0
    assert len(names["answered"]) == 2
    assert names["by_mode"]["moments", "tool"] == 0.25
    assert names["failing"]["error"].tolist() == ["bad-json"]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, json, vital_eval; vital_eval.load_run; "
        "print(json.dumps(sorted({'pandas', 'torch', 'numpy', 'transformers', 'matplotlib'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == []
