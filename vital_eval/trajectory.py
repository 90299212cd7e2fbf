"""One attempt at one sample: what was said, what the tools did, why it stopped, what it cost.

Nothing is compared by the time it took: two episodes are equal if the same was said and seen. Times that are ``None``
were not measured: older records have fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from vital_eval.generation import FinishReason
from vital_eval.span import Window


class StopReason(StrEnum):
    """Why an episode ended. Every episode has exactly one."""

    ANSWERED = "answered"
    NO_ANSWER = "no-answer"
    MAX_TURNS = "max-turns"
    MAX_TOKENS = "max-tokens"
    CONTEXT_OVERFLOW = "context-overflow"
    TIMEOUT = "timeout"
    MEDIA_FAILED = "media-failed"
    ENGINE_FAILED = "engine-failed"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call as the model wrote it and what came of it.

    Attributes:
        raw: text between the tool_call tags.
        name: tool that was called, ``""`` if it could not be read.
        error: short stable code (``bad-json``, ``reversed`` ...), ``""`` if the call succeeded.
        message: text the model got back.
        span: seconds shown, after clamping; ``None`` if the call failed.
        notes: what was clamped or odd.
        frame_times: true times of the frames returned.
        seconds: from reading the call to its frames or its error; waiting for a decoder is part of it.
    """

    raw: str
    name: str
    error: str
    message: str
    span: Window | None = None
    notes: tuple[str, ...] = ()
    frame_times: tuple[float, ...] = ()
    seconds: float | None = field(default=None, compare=False)

    @property
    def succeeded(self) -> bool:
        """Whether frames came back."""
        return not self.error


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn the model wrote, with its tool call if it made one.

    Attributes:
        text: what it wrote.
        finish: why it ended.
        prompt_tokens: see :class:`~vital_eval.generation.Generation`, like the next three.
        cached_tokens: of the prompt, from a cache.
        visual_tokens: of the prompt, video.
        new_tokens: number of tokens written.
        seconds: how long the turn was with the engine.
        tool_call: the call it made.
        anomalies: what was odd about it.
        began: when it went to the engine, in seconds since the episode began.
        queue_seconds: part of ``seconds`` before a batch took it up; ``None`` also where the engine cannot know.
        prefill_seconds: the part from then to the first token; likewise.
    """

    text: str
    finish: FinishReason
    prompt_tokens: int
    cached_tokens: int
    visual_tokens: int
    new_tokens: int
    seconds: float = field(compare=False)
    tool_call: ToolCall | None = None
    anomalies: tuple[str, ...] = ()
    began: float | None = field(default=None, compare=False)
    queue_seconds: float | None = field(default=None, compare=False)
    prefill_seconds: float | None = field(default=None, compare=False)

    @property
    def writing_seconds(self) -> float | None:
        """The part of ``seconds`` after the first token; ``None`` where the parts before it are not known."""
        if self.queue_seconds is None or self.prefill_seconds is None:
            return None
        # The engine and the episode read their clocks at different places; a negative rest is that.
        return max(0.0, self.seconds - self.queue_seconds - self.prefill_seconds)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A finished episode.

    Attributes:
        turns: the model's turns in order.
        stop: why it ended.
        answer_text: answer field of the final turn, ``None`` if it has none. Nothing else is ever scored.
        frame_times: true times of the frames shown with the question.
        duration: length of the video in seconds that the model was told.
        error: one line for failed episodes, ``""`` otherwise.
        seconds: wall-clock time of the whole episode, decoding included.
        began: when it began, in seconds of UNIX time.
        open_seconds: until the video was found and probed.
        decode_seconds: from then until the frames shown with the question were there, waiting for a decoder included.
        unfinished_turn_began: when the turn went to the engine that was never written, in seconds since the episode
            began; it was under way to the end. ``None`` if every turn was written.
        file_duration: length of the video file in seconds, as probed; ``None`` if it was not opened, and in records of
            older versions.
    """

    turns: tuple[Turn, ...]
    stop: StopReason
    answer_text: str | None
    frame_times: tuple[float, ...]
    duration: float
    error: str = ""
    seconds: float = field(default=0.0, compare=False)
    began: float | None = field(default=None, compare=False)
    open_seconds: float | None = field(default=None, compare=False)
    decode_seconds: float | None = field(default=None, compare=False)
    unfinished_turn_began: float | None = field(default=None, compare=False)
    file_duration: float | None = field(default=None, compare=False)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Every tool call in order."""
        return tuple(turn.tool_call for turn in self.turns if turn.tool_call is not None)
