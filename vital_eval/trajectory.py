"""One attempt at one sample: what was said, what the tools did, why it stopped, what it cost."""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    raw: str
    name: str
    error: str
    message: str
    span: Window | None = None
    notes: tuple[str, ...] = ()
    frame_times: tuple[float, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether frames came back."""
        return not self.error


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn the model wrote, with its tool call if it made one."""

    text: str
    finish: FinishReason
    prompt_tokens: int
    cached_tokens: int
    visual_tokens: int
    new_tokens: int
    seconds: float
    tool_call: ToolCall | None = None
    anomalies: tuple[str, ...] = ()


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
    """

    turns: tuple[Turn, ...]
    stop: StopReason
    answer_text: str | None
    frame_times: tuple[float, ...]
    duration: float
    error: str = ""
    seconds: float = 0.0

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Every tool call in order."""
        return tuple(turn.tool_call for turn in self.turns if turn.tool_call is not None)
