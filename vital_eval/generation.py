"""What a model wrote in one turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class FinishReason(StrEnum):
    """Why the engine stopped writing."""

    STOP_STRING = "stop-string"
    END_OF_TURN = "end-of-turn"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote in one turn. Two are equal however long they took.

    Attributes:
        token_ids: the sampled ids, an end-of-turn token included if one was sampled.
        text: the decoded turn without the end-of-turn token. Where the chat template opened ``<think>`` before the
            turn, the text starts with that tag all the same, so that it reads whole.
        finish: why it ended.
        prompt_tokens: length of the prompt, visual tokens included.
        cached_tokens: how many of them came from a cache of earlier turns.
        visual_tokens: how many of the prompt's tokens are video.
        seconds: wall-clock time from request to result.
        queue_seconds: part of it before a batch took the request up; ``None`` if the engine cannot know.
        prefill_seconds: the part from then to the first token; ``None`` likewise. The rest is writing.
    """

    token_ids: tuple[int, ...]
    text: str
    finish: FinishReason
    prompt_tokens: int
    cached_tokens: int = 0
    visual_tokens: int = 0
    seconds: float = field(default=0.0, compare=False)
    queue_seconds: float | None = field(default=None, compare=False)
    prefill_seconds: float | None = field(default=None, compare=False)
