"""One finished episode with its grade: one line of the run log."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vital_eval.errors import RunLogError
from vital_eval.generation import FinishReason
from vital_eval.outcome import Outcome
from vital_eval.protocol import Mode
from vital_eval.span import Span, Window
from vital_eval.task import Answer, Scores
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

#: Task name, protocol hash, sample id, attempt: what makes a record the one answer that is owed.
Key = tuple[str, str, str, int]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Record:
    """One attempt at one sample, graded. Times are kept, but two records are equal whatever they took.

    Attributes:
        task: registry name of the task.
        mode: how the model reasoned; part of the protocol, repeated for readers of the log.
        protocol: hash of the protocol.
        sample_id: see :class:`vital_eval.sample.Sample`.
        attempt: 0 for the first answer to a sample, 1 for the second ...
        cluster: unit that shares context, for clustered statistics.
        outcome: see :class:`~vital_eval.outcome.Outcome`.
        reason: finer word for the outcome.
        answer: the parsed answer where there is one.
        scores: per-sample scores in [0, 1], or ``None`` (out of that metric's denominator).
        strata: metric name to its path of strata, for metrics that average over strata; others are left out.
        attributes: the sample's facts for break-downs.
        trajectory: what was said and done.

    Raises:
        ValueError: if a score is not ``None`` and not in [0, 1]: a scorer that does so is a bug, not a sample.
    """

    task: str
    mode: Mode
    protocol: str
    sample_id: str
    attempt: int
    cluster: str
    outcome: Outcome
    reason: str
    answer: Answer | None
    scores: Scores
    trajectory: Trajectory
    strata: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NOTHING)
    attributes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

    def __post_init__(self) -> None:
        """Refuse what no scorer may give."""
        if self.attempt < 0:
            raise ValueError(f"{self.task} {self.sample_id}: attempt {self.attempt} is negative")
        for name, score in self.scores.items():
            if score is not None and not 0 <= score <= 1:
                raise ValueError(f"{self.task} {self.sample_id}: score {name} is {score}, not in [0, 1]")

    @property
    def key(self) -> Key:
        """What makes this record unique in its run."""
        return (self.task, self.protocol, self.sample_id, self.attempt)


def record_to_json(record: Record) -> dict[str, Any]:
    """Return plain JSON data from which :func:`record_from_json` builds an equal record with the same times."""
    answer = record.answer
    return {
        "task": record.task,
        "mode": record.mode.value,
        "protocol": record.protocol,
        "sample_id": record.sample_id,
        "attempt": record.attempt,
        "cluster": record.cluster,
        "outcome": record.outcome.value,
        "reason": record.reason,
        "answer": None
        if answer is None
        else {
            "text": answer.text,
            "spans": [list(span.as_window()) for span in answer.spans],
            "letter": answer.letter,
            "number": answer.number,
            "notes": list(answer.notes),
        },
        "scores": dict(record.scores),
        "strata": {metric: list(path) for metric, path in record.strata.items() if path},
        "attributes": dict(record.attributes),
        "trajectory": dataclasses.asdict(record.trajectory),
    }


def record_from_json(data: Mapping[str, Any]) -> Record:
    """Build a record from the data :func:`record_to_json` gave, before or after a trip through JSON.

    Older records lack some of the times (:mod:`vital_eval.trajectory`); these are ``None`` then.

    Raises:
        RunLogError: if a field is missing, unknown, or not of its type.
    """
    try:
        return Record(
            task=_text(data["task"]),
            mode=Mode(data["mode"]),
            protocol=_text(data["protocol"]),
            sample_id=_text(data["sample_id"]),
            attempt=_whole(data["attempt"]),
            cluster=_text(data["cluster"]),
            outcome=Outcome(data["outcome"]),
            reason=_text(data["reason"]),
            answer=None if data["answer"] is None else _answer(data["answer"]),
            scores={name: None if score is None else _number(score) for name, score in data["scores"].items()},
            strata={name: _texts(path) for name, path in data["strata"].items()},
            attributes={name: _text(value) for name, value in data["attributes"].items()},
            trajectory=_trajectory(data["trajectory"]),
        )
    except KeyError as error:
        raise RunLogError(f"not a record: no field {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise RunLogError(f"not a record: {error}") from error


def record_to_line(record: Record) -> str:
    r"""Write a record as one line of strict JSON, ``\n`` included.

    Only ASCII is written, so control characters, line separators and lone surrogates that a model produced
    arrive as escapes and can neither end a line nor break a reader. The one text that does not come back as it
    was is a high surrogate directly followed by a low one as two characters: JSON cannot tell it from the
    character that the pair encodes, which is what comes back.

    Raises:
        ValueError: if a number is not finite.
    """
    return json.dumps(record_to_json(record), ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"


def loads_strictly(text: str | bytes) -> Any:
    """Parse JSON without the extensions NaN, Infinity and -Infinity.

    Raises:
        ValueError: if ``text`` is not strict JSON (also for bytes that are not UTF-8), or nested too deeply to be ours.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not text")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple):
        raise TypeError(f"{values!r:.80} is not a list of texts")
    return tuple(_text(value) for value in values)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.80} is not a finite number")
    return value


def _time(data: Mapping[str, Any], name: str) -> float | None:
    value = data.get(name)
    return None if value is None else _number(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r:.80} is not a whole number")
    return value


def _window(value: Any) -> Window:
    start, end = value
    return (_number(start), _number(end))


def _answer(data: Mapping[str, Any]) -> Answer:
    return Answer(
        text=_text(data["text"]),
        spans=tuple(Span(*_window(span)) for span in data["spans"]),
        letter=None if data["letter"] is None else _text(data["letter"]),
        number=None if data["number"] is None else _number(data["number"]),
        notes=_texts(data["notes"]),
    )


def _trajectory(data: Mapping[str, Any]) -> Trajectory:
    answer_text = data["answer_text"]
    return Trajectory(
        turns=tuple(_turn(turn) for turn in data["turns"]),
        stop=StopReason(data["stop"]),
        answer_text=None if answer_text is None else _text(answer_text),
        frame_times=tuple(_number(time) for time in data["frame_times"]),
        duration=_number(data["duration"]),
        error=_text(data["error"]),
        seconds=_number(data["seconds"]),
        began=_time(data, "began"),
        open_seconds=_time(data, "open_seconds"),
        decode_seconds=_time(data, "decode_seconds"),
        unfinished_turn_began=_time(data, "unfinished_turn_began"),
        file_duration=_time(data, "file_duration"),
    )


def _turn(data: Mapping[str, Any]) -> Turn:
    return Turn(
        text=_text(data["text"]),
        finish=FinishReason(data["finish"]),
        prompt_tokens=_whole(data["prompt_tokens"]),
        cached_tokens=_whole(data["cached_tokens"]),
        visual_tokens=_whole(data["visual_tokens"]),
        new_tokens=_whole(data["new_tokens"]),
        seconds=_number(data["seconds"]),
        tool_call=None if data["tool_call"] is None else _tool_call(data["tool_call"]),
        anomalies=_texts(data["anomalies"]),
        began=_time(data, "began"),
        queue_seconds=_time(data, "queue_seconds"),
        prefill_seconds=_time(data, "prefill_seconds"),
    )


def _tool_call(data: Mapping[str, Any]) -> ToolCall:
    return ToolCall(
        raw=_text(data["raw"]),
        name=_text(data["name"]),
        error=_text(data["error"]),
        message=_text(data["message"]),
        span=None if data["span"] is None else _window(data["span"]),
        notes=_texts(data["notes"]),
        frame_times=tuple(_number(time) for time in data["frame_times"]),
        seconds=_time(data, "seconds"),
    )
