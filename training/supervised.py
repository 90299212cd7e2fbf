"""Lessons: supervised conversations, played by the harness's own episode loop with the record's turns as the model's.

So a lesson has evaluation's prompts, frames, clips and tool replies. What cannot be played is dropped, counted by
reason and named; no other sample takes its place.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from vital_eval.conversation import Conversation
from vital_eval.errors import DataError, ProtocolError
from vital_eval.protocol import Mode
from vital_eval.span import Window
from vital_eval.toolbox import GetVideoClipFrame, ToolError, parse_call
from vital_eval.trajectory import StopReason, ToolCall

from .lesson_player import LessonPlayer, TaughtRecord, frame_bytes, turns_of
from .mtvr.checks import thought_and
from .mtvr.records import ToolCotRecord
from .processes import Processes
from .rewards import require_source
from .rollouts import Rollout

if TYPE_CHECKING:
    from vital_eval.engines.encode import Encoder

#: Records that are played at a time while lessons are prepared; no more of them are in memory.
PLAYED_TOGETHER = 8

_EXAMPLES = 3
#: How far a call's times may be from ``tool_params``: calls are written with two decimals.
_ROUNDING = 0.01
#: Marks such as <|video_pad|>: in a record's text they would become tokens that only the harness may place.
_CONTROL = re.compile(r"<\|\w+\|>")


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
    """A conversation that ends with the model's last turn; light, because its frames are decoded when it is shown.

    Attributes:
        id: of its record.
        video: as the record gives it.
        trained_tokens: number of tokens that the model is to say.
        length: number of all its tokens, pads of the videos included.
        nbytes: size of its frames.
        show: starts to decode it; the conversation is the one that was played when it was prepared.
    """

    id: str
    video: str
    trained_tokens: int
    length: int
    nbytes: int
    show: Callable[[], Future[Conversation]]

    @property
    def conversation(self) -> Conversation:
        """What it shows, waited for.

        Raises:
            DataError: if it cannot be shown any more.
        """
        return self.show().result()


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


def lessons_of_records(
    records: Sequence[TaughtRecord],
    player: LessonPlayer,
    encoder: Encoder,
    max_tokens: int | None = None,
    processes: Processes | None = None,
) -> Lessons:
    """Play records as episodes and keep those that come out as they are written.

    Args:
        records: their texts are whole questions, which get no second wording. A record's own frame settings
            (``video_kwargs``) are not followed: the protocol's views are.
        player: plays them; tool records need the mode ``tool``.
        encoder: the one that evaluation uses.
        max_tokens: longest lesson, pads of the videos included; ``None`` sets no limit.
        processes: who plays them together; every process gets all lessons.

    Raises:
        DataError: if two records have the same id, a data source is not known, or nothing is kept.
        ProtocolError: if a tool record is asked without tools.
    """
    together = processes or Processes()
    _require_playable(records, player)
    mine = player.background.run(_judge_all(together.share(records), player, encoder, max_tokens))
    verdicts = dict(together.gather(tuple(mine.items())))
    kept: list[Lesson] = []
    faults: list[tuple[str, Drop, str]] = []
    # In the order of the records, whatever was played first.
    for record in records:
        verdict = verdicts[record.id]
        if isinstance(verdict, _Fault):
            faults.append((record.id, verdict.drop, verdict.detail))
        else:
            show = partial(player.show, record)
            kept.append(
                Lesson(record.id, record.media.path, verdict.trained_tokens, verdict.length, verdict.nbytes, show)
            )
    return _lessons(kept, faults)


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why a record is no lesson."""

    drop: Drop
    detail: str


@dataclass(frozen=True, slots=True)
class _Size:
    """A record that is a lesson; see :class:`Lesson`."""

    trained_tokens: int
    length: int
    nbytes: int


def _require_playable(records: Iterable[TaughtRecord], player: LessonPlayer) -> None:
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise DataError(f"record {record.id} occurs twice", "ids must be unique in a training set")
        seen.add(record.id)
        if isinstance(record, ToolCotRecord) and player.protocol.mode is not Mode.TOOL:
            raise ProtocolError(f"record {record.id} calls a tool in mode {player.protocol.mode}", "use the mode tool")
        if record.data_source is not None and _unplayable(record) is None:
            # Now, and not when hours of videos have been decoded.
            require_source(record.data_source)


async def _judge_all(
    records: Iterable[TaughtRecord], player: LessonPlayer, encoder: Encoder, max_tokens: int | None
) -> dict[str, _Fault | _Size]:
    verdicts: dict[str, _Fault | _Size] = {}
    waiting = iter(records)

    async def work() -> None:
        for record in waiting:
            verdicts[record.id] = await _judge(record, player, encoder, max_tokens)

    await asyncio.gather(*(work() for _ in range(PLAYED_TOGETHER)))
    return verdicts


async def _judge(
    record: TaughtRecord, player: LessonPlayer, encoder: Encoder, max_tokens: int | None
) -> _Fault | _Size:
    fault = _unplayable(record)
    if fault is not None:
        return fault
    rollout = await player.play(record)
    fault = _failure(record, rollout)
    if fault is not None:
        return fault
    if rollout.conversation is None:
        raise ValueError(f"record {record.id} was answered without a word")
    encoded = encoder.encode(rollout.conversation, open_turn=False)
    length = len(encoded.ids)
    if max_tokens is not None and length > max_tokens:
        return _Fault(Drop.TOO_LONG, f"{length} tokens")
    player.keep(record, rollout.conversation)
    return _Size(int(encoded.is_sampled.sum()), length, frame_bytes(rollout.conversation))


def _lessons(kept: Iterable[Lesson], faults: Iterable[tuple[str, Drop, str]]) -> Lessons:
    counts: dict[Drop, int] = {}
    examples: dict[Drop, tuple[str, ...]] = {}
    for name, drop, detail in faults:
        counts[drop] = counts.get(drop, 0) + 1
        examples[drop] = (*examples.get(drop, ()), f"{name}: {detail}")[:_EXAMPLES]
    return Lessons(tuple(kept), counts, examples)


def _unplayable(record: TaughtRecord) -> _Fault | None:
    if record.media.kind != "video":
        return _Fault(Drop.SHOWS_IMAGE, "training on images is not supported")
    turns = turns_of(record)
    for text in (record.text, *turns):
        mark = _CONTROL.search(text)
        if mark is not None:
            return _Fault(Drop.CONTROL_TOKEN, f"a text holds {mark[0]}")
    for turn, tag in zip(turns, ("tool_call", "answer")[-len(turns) :], strict=True):
        if thought_and(tag, turn) is None:
            return _Fault(Drop.WRONG_FORM, f"a turn is not a thought and then one {tag}")
    return None


def _failure(record: TaughtRecord, rollout: Rollout) -> _Fault | None:
    trajectory = rollout.trajectory
    if trajectory.stop is StopReason.MEDIA_FAILED:
        return _Fault(Drop.BAD_VIDEO, trajectory.error)
    for call in trajectory.tool_calls:
        if not call.succeeded:
            return _Fault(Drop.FAILED_CALL, f"{call.error}: {call.message}")
    if isinstance(record, ToolCotRecord):
        other = _other_call(trajectory.tool_calls, record.tool_params)
        if other is not None:
            return _Fault(Drop.OTHER_CALL, other)
    if trajectory.stop is not StopReason.ANSWERED:
        return _Fault(Drop.NO_ANSWER, trajectory.error or str(trajectory.stop))
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
