"""What a model wrote in one turn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why the engine stopped writing."""

    STOP_STRING = "stop-string"
    END_OF_TURN = "end-of-turn"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote in one turn.

    Attributes:
        token_ids: the sampled ids, an end-of-turn token included if one was sampled.
        text: the decoded turn without the end-of-turn token. Where the chat template opened ``<think>`` before the
            turn, the text starts with that tag all the same, so that it reads whole.
        finish: why it ended.
        prompt_tokens: length of the prompt, visual tokens included.
        cached_tokens: how many of them came from a cache of earlier turns.
        visual_tokens: how many of the prompt's tokens are video.
        seconds: wall-clock time from request to result.
    """

    token_ids: tuple[int, ...]
    text: str
    finish: FinishReason
    prompt_tokens: int
    cached_tokens: int = 0
    visual_tokens: int = 0
    seconds: float = 0.0
