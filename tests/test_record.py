"""Records survive the trip through a line of JSON, whatever a model wrote."""

from __future__ import annotations

import dataclasses
import json
import math
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.timeless import timeless
from vital_eval.errors import RunLogError
from vital_eval.generation import FinishReason
from vital_eval.outcome import Outcome
from vital_eval.protocol import Mode
from vital_eval.record import Record, loads_strictly, record_from_json, record_to_json, record_to_line
from vital_eval.span import Span
from vital_eval.task import Answer
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

_numbers = st.floats(allow_nan=False, allow_infinity=False)
_counts = st.integers(0, 10**9)
# Any text a model can produce, controls, line separators and lone high surrogates included. Low ones are left out:
# after a high one they make a pair, which JSON reads as the character it encodes.
_texts = st.text(st.characters(exclude_categories=()), max_size=20).map(
    lambda text: "".join(character for character in text if not "\udc00" <= character <= "\udfff")
)
_times = st.none() | st.floats(0, 1e10)
_windows = st.tuples(_numbers, _numbers)
_spans = st.tuples(st.floats(0, 1e5), st.floats(1e-3, 1e5)).map(lambda pair: Span(pair[0], pair[0] + pair[1]))
_notes = st.lists(_texts, max_size=2).map(tuple)
_calls = st.builds(
    ToolCall,
    raw=_texts,
    name=_texts,
    error=_texts,
    message=_texts,
    span=st.none() | _windows,
    notes=_notes,
    frame_times=st.lists(_numbers, max_size=3).map(tuple),
    seconds=_times,
)
_turns = st.builds(
    Turn,
    text=_texts,
    finish=st.sampled_from(FinishReason),
    prompt_tokens=_counts,
    cached_tokens=_counts,
    visual_tokens=_counts,
    new_tokens=_counts,
    seconds=_numbers,
    tool_call=st.none() | _calls,
    anomalies=_notes,
    began=_times,
    queue_seconds=_times,
    prefill_seconds=_times,
)
_trajectories = st.builds(
    Trajectory,
    turns=st.lists(_turns, max_size=2).map(tuple),
    stop=st.sampled_from(StopReason),
    answer_text=st.none() | _texts,
    frame_times=st.lists(_numbers, max_size=3).map(tuple),
    duration=_numbers,
    error=_texts,
    seconds=_numbers,
    began=_times,
    open_seconds=_times,
    decode_seconds=_times,
    unfinished_turn_began=_times,
    file_duration=_times,
)
_records = st.builds(
    Record,
    task=_texts,
    mode=st.sampled_from(Mode),
    protocol=st.text(string.hexdigits, max_size=12),
    sample_id=_texts,
    attempt=st.integers(0, 9),
    cluster=_texts,
    outcome=st.sampled_from(Outcome),
    reason=_texts,
    answer=st.none()
    | st.builds(
        Answer,
        text=_texts,
        spans=st.lists(_spans, max_size=2).map(tuple),
        letter=st.none() | st.sampled_from("ABCD"),
        number=st.none() | _numbers,
        notes=_notes,
    ),
    scores=st.dictionaries(_texts, st.none() | st.floats(0, 1), max_size=3),
    strata=st.dictionaries(_texts, st.lists(_texts, min_size=1, max_size=3).map(tuple), max_size=2),
    attributes=st.dictionaries(_texts, _texts, max_size=2),
    trajectory=_trajectories,
)


@settings(max_examples=60, deadline=None)
@given(_records)
def test_round_trip_is_exact(record: Record) -> None:
    data = record_to_json(record)
    line = record_to_line(record)
    # Records are equal whatever they took, so their data is compared as well.
    for back in (record_from_json(data), record_from_json(loads_strictly(line))):
        assert back == record
        assert record_to_json(back) == data
    assert line.endswith("\n")
    assert line.isascii()
    assert line[:-1].isprintable()


def _example(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "task": "moments",
        "mode": Mode.TOOL,
        "protocol": "0123456789ab",
        "sample_id": "v1-0",
        "attempt": 0,
        "cluster": "v1",
        "outcome": Outcome.ANSWERED,
        "reason": "",
        "answer": Answer("1 to 2", spans=(Span(1, 2),)),
        "scores": {"iou": 0.5, "precision": None},
        "trajectory": Trajectory((), StopReason.ANSWERED, "1 to 2", (0.0, 0.5), 10.0),
    }
    return Record(**{**fields, **changes})


def _timed() -> Record:
    call = ToolCall("{}", "clip", "", "seen", (1.0, 2.0), (), (1.0,), 0.25)
    turn = Turn("t", FinishReason.STOP_STRING, 4, 0, 2, 1, 1.5, call, (), 0.5, 0.125, 0.25)
    trajectory = Trajectory(
        (turn,), StopReason.ENGINE_FAILED, None, (), 9.0, "lost", 3.0, 1.7e9, 0.125, 0.25, unfinished_turn_began=2.5
    )
    return _example(trajectory=trajectory)


def test_records_are_equal_whatever_they_took() -> None:
    record = _timed()
    bare = timeless(record)
    assert bare == record
    assert record_to_json(bare) != record_to_json(record)
    assert _times_in(record_to_json(bare)) == {0.0, None}
    # The control: a time of the video's is no time that was spent.
    turn = dataclasses.replace(record.trajectory.turns[0], tool_call=None)
    assert dataclasses.replace(record.trajectory, turns=(turn,)) != record.trajectory


def test_records_without_the_newer_times_are_read() -> None:
    data = record_to_json(_timed())
    for part in _parts(data):
        for name in ("began", "open_seconds", "decode_seconds", "unfinished_turn_began", "file_duration"):
            part.pop(name, None)
        for name in ("queue_seconds", "prefill_seconds"):
            part.pop(name, None)
    del data["trajectory"]["turns"][0]["tool_call"]["seconds"]
    old = record_from_json(data)
    assert old == _timed()
    assert (old.trajectory.seconds, old.trajectory.turns[0].seconds) == (3.0, 1.5)
    assert (old.trajectory.began, old.trajectory.turns[0].began, old.trajectory.tool_calls[0].seconds) == (None,) * 3
    assert old.trajectory.turns[0].writing_seconds is None


def test_what_is_left_of_a_turn_is_writing() -> None:
    turn = _timed().trajectory.turns[0]
    assert turn.writing_seconds == 1.125
    assert dataclasses.replace(turn, seconds=0.3749).writing_seconds == 0.0
    assert dataclasses.replace(turn, queue_seconds=None).writing_seconds is None


@pytest.mark.parametrize("value", ["1", True, [1.0], math.nan])
@pytest.mark.parametrize("name", ["began", "open_seconds", "decode_seconds", "unfinished_turn_began", "file_duration"])
def test_a_time_that_is_no_number_is_refused(name: str, value: object) -> None:
    data = record_to_json(_timed())
    data["trajectory"][name] = value
    with pytest.raises(RunLogError, match="not a finite number"):
        record_from_json(data)


def _parts(data: dict[str, Any]) -> list[dict[str, Any]]:
    turns = data["trajectory"]["turns"]
    return [data["trajectory"], *turns, *(turn["tool_call"] for turn in turns)]


def _times_in(data: dict[str, Any]) -> set[float | None]:
    return {
        value
        for part in _parts(data)
        for name, value in part.items()
        if name == "seconds" or name.endswith(("_seconds", "began"))
    }


def test_key_is_what_resume_goes_by() -> None:
    assert _example(attempt=3).key == ("moments", "0123456789ab", "v1-0", 3)


def test_empty_strata_are_not_written() -> None:
    assert record_to_json(_example(strata={"mIoU": ()}))["strata"] == {}


@pytest.mark.parametrize("text", ["\x00\x1b[31m", "\ud800", "\u2028", "</script>", "a" * 1_000_000])
def test_hostile_text_survives_on_one_line(text: str) -> None:
    record = _example(trajectory=Trajectory((), StopReason.NO_ANSWER, text, (), 1.0))
    line = record_to_line(record)
    assert line.count("\n") == 1
    assert record_from_json(loads_strictly(line)) == record


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan, math.inf])
def test_impossible_scores_are_a_bug_not_a_sample(score: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        _example(scores={"iou": score})


def test_infinite_numbers_are_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        record_to_line(_example(trajectory=Trajectory((), StopReason.ANSWERED, "", (), math.inf)))


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "", "\xff", "[" * 100_000])
def test_loads_strictly_refuses_what_is_not_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting|decode|deep"):
        loads_strictly(text.encode("latin-1"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempt", True),
        ("attempt", "0"),
        ("task", 5),
        ("mode", "dream"),
        ("scores", {"iou": "0.5"}),
        ("scores", []),
        ("scores", {"iou": 1e400}),
        ("strata", {"m": "abc"}),
        ("answer", {"text": "x"}),
        ("trajectory", None),
    ],
)
def test_wrong_fields_are_refused(field: str, value: object) -> None:
    data = json.loads(record_to_line(_example()))
    with pytest.raises(RunLogError, match="not a record"):
        record_from_json({**data, field: value})
    del data[field]
    with pytest.raises(RunLogError, match=f"no field '{field}'"):
        record_from_json(data)


def test_a_list_is_not_a_record() -> None:
    with pytest.raises(RunLogError, match="not a record"):
        record_from_json([])  # type: ignore[arg-type]
