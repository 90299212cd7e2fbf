"""The contract between the episode loop and whatever runs the model.

An engine receives frames with their true times, never a path or an address from an annotation or from the
model, and returns the token ids it sampled. It batches inside itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from vital_eval.conversation import Conversation
from vital_eval.generation import Generation
from vital_eval.protocol import Sampling


@dataclass(frozen=True, slots=True)
class FrameGeometry:
    """What the model family wants of frames.

    Attributes:
        spatial_factor: height and width must be multiples of this many pixels (patch size times merge size).
        temporal_patch: frames are merged in groups of this many; an odd tail is padded by repetition.
    """

    spatial_factor: int
    temporal_patch: int


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Identity of an engine, part of every manifest.

    Attributes:
        name: registry name.
        model: checkpoint name as shown in tables.
        fingerprint: hash of weights, configuration, tokenizer and chat template.
        geometry: see :class:`FrameGeometry`.
        details: versions, dtype, device and flags that can move a score.
    """

    name: str
    model: str
    fingerprint: str
    geometry: FrameGeometry
    details: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, eq=False)
class GenerationRequest:
    """One turn to write.

    Attributes:
        conversation: everything said so far; ends with a message of the harness.
        sampling: decoding settings, all of them explicit.
        stop: strings that end the turn; the matched one stays in the text.
        seed: seed of this turn's own random generator, so that a draw does not depend on the batch.
        episode: identifies the episode, for caches that live across its turns.
        expect_more: another turn of the episode may follow, so caches are worth keeping.
    """

    conversation: Conversation
    sampling: Sampling
    stop: tuple[str, ...]
    seed: int
    episode: str
    expect_more: bool = False


class Engine(Protocol):
    """Runs a model. Implementations must give the same tokens whatever shares their batch."""

    @property
    def info(self) -> EngineInfo:
        """Return who answers."""
        ...

    async def generate(self, request: GenerationRequest) -> Generation:
        """Write one turn.

        Raises:
            EngineError: if the request failed for a reason that is not the model's.
            ContextOverflowError: if the prompt is longer than the model's context.
        """
        ...

    def release(self, episode: str) -> None:
        """Forget whatever is cached for a finished episode."""
        ...

    async def close(self) -> None:
        """Free the model."""
        ...


class ContextOverflowError(Exception):
    """The conversation no longer fits the model's context; an outcome of the sample, not a fault."""
