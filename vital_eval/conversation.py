"""The dialogue between harness and model.

Turns that the model wrote are kept as the :class:`~vital_eval.generation.Generation` that came out, token ids
included: the next turn is built from those ids, because decoding and tokenising again changes the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vital_eval.clip import Clip
from vital_eval.generation import Generation


@dataclass(frozen=True, slots=True)
class TextPart:
    """A run of text inside a message."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class VideoPart:
    """A clip inside a message."""

    clip: Clip


Part = TextPart | VideoPart


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """Something the harness says: instructions, the question with its video, or a tool's reply."""

    role: Literal["system", "user", "tool"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AssistantTurn:
    """Something the model said."""

    generation: Generation


#: Append-only: a later conversation of the same episode starts with the earlier one.
Conversation = tuple[Message | AssistantTurn, ...]


def clips_of(conversation: Conversation) -> tuple[Clip, ...]:
    """Return every clip in the order the model meets them."""
    return tuple(
        part.clip
        for entry in conversation
        if isinstance(entry, Message)
        for part in entry.parts
        if isinstance(part, VideoPart)
    )
