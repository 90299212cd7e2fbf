"""Plays a supervised record by the harness's own episode loop, once to judge it and again whenever it is to be seen.

A lesson is not kept with its frames: 128 of 224 x 224 are 19 MB. An episode in which the record speaks the model's
turns draws nothing, so playing it again decodes the same frames. What is small enough is kept all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import Future

from vital_eval.conversation import Conversation, clips_of
from vital_eval.engine import EngineInfo
from vital_eval.engines.background_loop import BackgroundLoop
from vital_eval.episode import Attempt
from vital_eval.errors import DataError
from vital_eval.parsing.numbers import parse_number
from vital_eval.protocol import Mode, Protocol
from vital_eval.sample import Sample, Target
from vital_eval.task import AnswerKind, Unparsed
from vital_eval.toolbox import Tool
from vital_eval.trajectory import StopReason

from .mtvr.checks import thought_and
from .mtvr.records import CotRecord, ToolCotRecord
from .problems import Problem, answer_kind
from .rewards import Scored, require_source
from .rollouts import OpenVideo, Rollout, Speak, Teacher, roll_out

#: A record with a written-out solution.
TaughtRecord = CotRecord | ToolCotRecord

#: Frames that stay in memory, in bytes: all of vital-nano's lessons, about 50 of 128 frames of 224 x 224.
KEPT_BYTES = 2**30

_LETTER = re.compile(r"\(?[A-Z][.)]?")


class LessonPlayer:
    """Plays records as episodes in which they speak the model's turns.

    Args:
        protocol: how evaluation asks.
        tools: the protocol's tools by name.
        engine_info: identity of the model that is trained.
        speak: its tokenizer; the end of a turn included.
        open_video: opens a record's video.
        background: where videos are opened and decoded; it must outlive what is shown.
        kept_bytes: frames that may stay in memory; 0 decodes every lesson whenever it is shown.
    """

    def __init__(
        self,
        protocol: Protocol,
        tools: Mapping[str, Tool],
        engine_info: EngineInfo,
        speak: Speak,
        open_video: OpenVideo,
        background: BackgroundLoop,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.protocol = protocol
        self.background = background
        self._tools = tools
        self._engine_info = engine_info
        self._speak = speak
        self._open_video = open_video
        self._room = kept_bytes
        self._kept: dict[str, Conversation] = {}

    async def play(self, record: TaughtRecord) -> Rollout:
        """Play a record once, in the background's loop. That it fails is part of what is returned."""
        attempt = _attempt(record, self.protocol, self._tools)
        # A model stops at the closing tag; white space behind it would be said in training only.
        turns = tuple(turn.strip() for turn in turns_of(record))
        if self.protocol.mode in {Mode.DIRECT, Mode.BLIND}:
            turns = tuple(_answer_alone(turn) for turn in turns)
        teacher = Teacher(self._engine_info, self._speak, {attempt.episode: turns})
        (rollout,) = await roll_out([attempt], teacher, self._open_video)
        return rollout

    def keep(self, record: TaughtRecord, conversation: Conversation) -> None:
        """Keep what was played if there is room for it: it is then not decoded again."""
        size = frame_bytes(conversation)
        if record.id not in self._kept and size <= self._room:
            self._room -= size
            self._kept[record.id] = conversation

    def show(self, record: TaughtRecord) -> Future[Conversation]:
        """Start to decode a lesson again; its frames are those that were played.

        The future raises:
            DataError: if the record cannot be played any more, naming it and its video.
        """
        kept = self._kept.get(record.id)
        if kept is None:
            return self.background.submit(self._show(record))
        shown: Future[Conversation] = Future()
        shown.set_result(kept)
        return shown

    async def _show(self, record: TaughtRecord) -> Conversation:
        rollout = await self.play(record)
        trajectory = rollout.trajectory
        if rollout.conversation is None or trajectory.stop is not StopReason.ANSWERED:
            raise DataError(
                f"record {record.id} cannot be shown again, because its video {record.media.path} changed: "
                f"{trajectory.error or trajectory.stop}",
                "bring the video back; the same command goes on from the last saved state",
            )
        self.keep(record, rollout.conversation)
        return rollout.conversation


def frame_bytes(conversation: Conversation) -> int:
    """Return how much memory the frames of a conversation take."""
    return sum(clip.frames.nbytes for clip in clips_of(conversation))


def turns_of(record: TaughtRecord) -> tuple[str, ...]:
    """Return what the model is to say, turn by turn."""
    return record.turns if isinstance(record, ToolCotRecord) else (record.solution,)


def _attempt(record: TaughtRecord, protocol: Protocol, tools: Mapping[str, Tool]) -> Attempt:
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


def _answer_alone(turn: str) -> str:
    """Return a turn without its thought: what modes that ask for the answer alone teach of a CoT record."""
    parts = thought_and("answer", turn)
    return turn if parts is None else f"<answer>{parts[1]}</answer>"


def _unscored(answer: str | None) -> Scored:
    raise NotImplementedError(f"lessons are not scored: {answer}")


def _kind(record: TaughtRecord) -> AnswerKind:
    if record.data_source is not None:
        return answer_kind(require_source(record.data_source))
    # Video-R1's CoT file mixes problems and names none: what the answer is tells what is asked for.
    parts = thought_and("answer", turns_of(record)[-1])
    answer = parts[1].strip() if parts else ""
    if _LETTER.fullmatch(answer):
        return AnswerKind.OPTION
    return AnswerKind.OPEN if isinstance(parse_number(answer), Unparsed) else AnswerKind.NUMBER
