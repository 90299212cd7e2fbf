"""Lessons: supervised conversations, played by the harness's own episode loop with the record's turns as the model's.

So a lesson has evaluation's prompts, frames, clips and tool replies. What cannot be played is dropped, counted by
reason and named; no other sample takes its place.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from vital_eval.conversation import AssistantTurn, Conversation
from vital_eval.engine import EngineInfo
from vital_eval.episode import Attempt
from vital_eval.errors import DataError, ProtocolError
from vital_eval.parsing.numbers import parse_number
from vital_eval.protocol import Mode, Protocol
from vital_eval.sample import Sample, Target
from vital_eval.span import Window
from vital_eval.task import AnswerKind, Unparsed
from vital_eval.toolbox import GetVideoClipFrame, Tool, ToolError, parse_call
from vital_eval.trajectory import StopReason, ToolCall

from .mtvr.checks import thought_and
from .mtvr.records import CotRecord, ToolCotRecord
from .problems import Problem, answer_kind
from .rewards import Scored, require_source
from .rollouts import OpenVideo, Rollout, Speak, Teacher, roll_out

if TYPE_CHECKING:
    from vital_eval.engines.encode import Encoder

_EXAMPLES = 3
#: How far a call's times may be from ``tool_params``: calls are written with two decimals.
_ROUNDING = 0.01
#: Marks such as <|video_pad|>: in a record's text they would become tokens that only the harness may place.
_CONTROL = re.compile(r"<\|\w+\|>")
_LETTER = re.compile(r"\(?[A-Z][.)]?")


class Drop(StrEnum):
    """Why a record is no lesson."""

    SHOWS_IMAGE = "shows-image"
    CONTROL_TOKEN = "control-token"  # noqa: S105 - not a password
    WRONG_FORM = "wrong-form"
    BAD_VIDEO = "bad-video"
    FAILED_CALL = "failed-call"
    OTHER_CALL = "other-call"
    NO_ANSWER = "no-answer"
    TOO_LONG = "too-long"


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A conversation that ends with the model's last turn.

    Attributes:
        id: of its record.
        conversation: frames included; they stay in memory (128 frames of 224 x 224 are 19 MB).
    """

    id: str
    conversation: Conversation

    @property
    def trained_tokens(self) -> int:
        """Number of tokens that the model is to say."""
        return sum(len(turn.generation.token_ids) for turn in self.conversation if isinstance(turn, AssistantTurn))


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """What is trained on, and what became of the rest.

    Attributes:
        kept: in the order of the records.
        dropped: reasons to numbers of records; a record has one.
        examples: reasons to the first few cases, each with the record's id.

    Raises:
        DataError: if nothing is kept: training on nothing would pass unseen.
    """

    kept: tuple[Lesson, ...]
    dropped: Mapping[Drop, int]
    examples: Mapping[Drop, tuple[str, ...]]

    def __post_init__(self) -> None:
        """Refuse to train on nothing."""
        if not self.kept:
            raise DataError(f"nothing to train on: {self.summary()}", "mend the records, the videos or the filters")

    @property
    def total(self) -> int:
        """Number of records there were."""
        return len(self.kept) + sum(self.dropped.values())

    def summary(self) -> str:
        """Return one line for people: how many are kept, and why the others are not."""
        line = f"{len(self.kept)} of {self.total} records kept"
        reasons = [f"{drop} {count} (such as {self.examples[drop][0]})" for drop, count in self.dropped.items()]
        return f"{line}; {', '.join(reasons)}" if reasons else line

    def require_share(self, least: float) -> Lessons:
        """Return the lessons if enough of the records are kept.

        Args:
            least: smallest share that is accepted.

        Raises:
            DataError: if less is kept.
        """
        if len(self.kept) < least * self.total:
            raise DataError(f"too little to train on: {self.summary()}", f"at least {least:.0%} must be left")
        return self


async def lessons_of_records(
    records: Sequence[CotRecord | ToolCotRecord],
    protocol: Protocol,
    tools: Mapping[str, Tool],
    engine_info: EngineInfo,
    speak: Speak,
    open_video: OpenVideo,
) -> Lessons:
    """Play records as episodes and keep those that come out as they are written.

    Args:
        records: their texts are whole questions, which get no second wording. A record's own frame settings
            (``video_kwargs``) are not followed: the protocol's views are.
        protocol: how evaluation asks; tool records need the mode ``tool``.
        tools: the protocol's tools by name.
        engine_info: identity of the model that is trained.
        speak: its tokenizer; the end of a turn included.
        open_video: opens a record's video.

    Raises:
        DataError: if two records have the same id, a data source is not known, or nothing is kept.
        ProtocolError: if a tool record is asked without tools.
    """
    asked: dict[str, Attempt] = {}
    turns: dict[str, tuple[str, ...]] = {}
    faults: dict[str, tuple[Drop, str]] = {}
    for record in records:
        if record.id in asked or record.id in faults:
            raise DataError(f"record {record.id} occurs twice", "ids must be unique in a training set")
        if isinstance(record, ToolCotRecord) and protocol.mode is not Mode.TOOL:
            raise ProtocolError(f"record {record.id} calls a tool in mode {protocol.mode}", "use the mode tool")
        fault = _unplayable(record)
        if fault is not None:
            faults[record.id] = fault
            continue
        attempt = _attempt(record, protocol, tools)
        asked[record.id] = attempt
        # A model stops at the closing tag; white space behind it would be said in training only.
        turns[attempt.episode] = tuple(turn.strip() for turn in _turns(record))
    rollouts = await roll_out(list(asked.values()), Teacher(engine_info, speak, turns), open_video)
    played = dict(zip(asked, rollouts, strict=True))
    kept: list[Lesson] = []
    for record in records:
        if record.id in played:
            rollout = played[record.id]
            fault = _failure(record, rollout)
            if fault is None and rollout.conversation is not None:
                kept.append(Lesson(record.id, rollout.conversation))
            elif fault is not None:
                faults[record.id] = fault
    # In the order of the records, whatever failed first.
    return _lessons(kept, [(record.id, *faults[record.id]) for record in records if record.id in faults])


def shorter_than(lessons: Lessons, encoder: Encoder, max_tokens: int) -> Lessons:
    """Drop lessons of more than ``max_tokens`` tokens, pads of the videos included.

    Raises:
        DataError: if nothing is left.
    """
    kept: list[Lesson] = []
    long: list[str] = []
    for lesson, length in zip(lessons.kept, lengths_of(lessons.kept, encoder), strict=True):
        if length > max_tokens:
            long.append(f"{lesson.id}: {length} tokens")
        else:
            kept.append(lesson)
    counts = dict(lessons.dropped)
    examples = dict(lessons.examples)
    if long:
        counts[Drop.TOO_LONG] = counts.get(Drop.TOO_LONG, 0) + len(long)
        examples[Drop.TOO_LONG] = (*examples.get(Drop.TOO_LONG, ()), *long)[:_EXAMPLES]
    return dataclasses.replace(lessons, kept=tuple(kept), dropped=counts, examples=examples)


def lengths_of(lessons: Iterable[Lesson], encoder: Encoder) -> tuple[int, ...]:
    """Return the length of every lesson in tokens, in order; each is encoded once for it."""
    return tuple(len(encoder.encode(lesson.conversation, open_turn=False).ids) for lesson in lessons)


def _lessons(kept: Iterable[Lesson], faults: Iterable[tuple[str, Drop, str]]) -> Lessons:
    counts: dict[Drop, int] = {}
    examples: dict[Drop, tuple[str, ...]] = {}
    for name, drop, detail in faults:
        counts[drop] = counts.get(drop, 0) + 1
        examples[drop] = (*examples.get(drop, ()), f"{name}: {detail}")[:_EXAMPLES]
    return Lessons(tuple(kept), counts, examples)


def _turns(record: CotRecord | ToolCotRecord) -> tuple[str, ...]:
    return record.turns if isinstance(record, ToolCotRecord) else (record.solution,)


def _unplayable(record: CotRecord | ToolCotRecord) -> tuple[Drop, str] | None:
    if record.media.kind != "video":
        return Drop.SHOWS_IMAGE, "training on images is not supported"
    turns = _turns(record)
    for text in (record.text, *turns):
        mark = _CONTROL.search(text)
        if mark is not None:
            return Drop.CONTROL_TOKEN, f"a text holds {mark[0]}"
    for turn, tag in zip(turns, ("tool_call", "answer")[-len(turns) :], strict=True):
        if thought_and(tag, turn) is None:
            return Drop.WRONG_FORM, f"a turn is not a thought and then one {tag}"
    return None


def _attempt(record: CotRecord | ToolCotRecord, protocol: Protocol, tools: Mapping[str, Tool]) -> Attempt:
    kind = _kind(record)
    sample = Sample(
        id=record.id,
        task=record.data_source or "mtvr",
        video=record.media.path,
        duration=record.duration,
        question=record.text,
        target=Target(),
        cluster=record.media.path,
    )
    problem = Problem(sample, kind, _unscored, verbatim=True)
    return Attempt(sample, kind, problem.protocol(protocol), dict(tools) if protocol.mode is Mode.TOOL else {})


def _unscored(answer: str | None) -> Scored:
    raise NotImplementedError(f"lessons are not scored: {answer}")


def _kind(record: CotRecord | ToolCotRecord) -> AnswerKind:
    if record.data_source is not None:
        return answer_kind(require_source(record.data_source))
    # Video-R1's CoT file mixes problems and names none: what the answer is tells what is asked for.
    parts = thought_and("answer", _turns(record)[-1])
    answer = parts[1].strip() if parts else ""
    if _LETTER.fullmatch(answer):
        return AnswerKind.OPTION
    return AnswerKind.OPEN if isinstance(parse_number(answer), Unparsed) else AnswerKind.NUMBER


def _failure(record: CotRecord | ToolCotRecord, rollout: Rollout) -> tuple[Drop, str] | None:
    trajectory = rollout.trajectory
    if trajectory.stop is StopReason.MEDIA_FAILED:
        return Drop.BAD_VIDEO, trajectory.error
    for call in trajectory.tool_calls:
        if not call.succeeded:
            return Drop.FAILED_CALL, f"{call.error}: {call.message}"
    if isinstance(record, ToolCotRecord):
        other = _other_call(trajectory.tool_calls, record.tool_params)
        if other is not None:
            return Drop.OTHER_CALL, other
    if trajectory.stop is not StopReason.ANSWERED:
        return Drop.NO_ANSWER, trajectory.error or str(trajectory.stop)
    return None


def _other_call(calls: Sequence[ToolCall], params: Window) -> str | None:
    if len(calls) != 1:
        return f"{len(calls)} calls instead of one"
    try:
        name, arguments = parse_call(calls[0].raw)
    except ToolError as error:
        return error.message
    if name != GetVideoClipFrame.name:
        return f"the call names {name!r:.60}"
    for key, wanted in zip(("start_time", "end_time"), params, strict=True):
        value = arguments.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # Compared with the tolerance and a hair, because 8.95 - 8.94 is above 0.01 in binary.
        if not number or not abs(float(value or 0) - wanted) <= _ROUNDING + 1e-9:
            return f"{key} {value!r:.60} is not the {wanted} of tool_params"
    return None
