"""Repetition: how much of what a policy writes it has written just before, and when a stage must stop for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vital_eval.conversation import AssistantTurn, Conversation
from vital_eval.errors import VitalError
from vital_eval.generation import FinishReason, Generation

#: Tokens of one n-gram.
SIZE = 4
#: A turn that reached the token limit is a loop if more than this share of the n-grams of its second half repeat.
LOOPING = 0.5


@dataclass(frozen=True, slots=True)
class Repetition:
    """What a rollout repeats.

    Attributes:
        truncated: a turn was ended by the token limit.
        share: share of repeated n-grams in the most repetitive turn, in [0, 1).
        looping: a turn that was ended by the token limit repeats itself at its end.
    """

    truncated: bool
    share: float
    looping: bool


def repeated_share(ids: Sequence[int], size: int = SIZE) -> float:
    """Return the share of n-grams that occurred before, in [0, 1): 1 - distinct n-grams / n-grams.

    A text that never repeats has 0; one that repeats a period of p different tokens has 1 - p / (len(ids) - size + 1).

    Args:
        ids: tokens of one turn; fewer than ``size`` hold no n-gram and repeat nothing.
        size: tokens of an n-gram, at least 1.
    """
    count = len(ids) - size + 1
    if count < 1:
        return 0.0
    return 1.0 - len({tuple(ids[place : place + size]) for place in range(count)}) / count


def is_loop(turn: Generation) -> bool:
    """Tell whether a turn was ended by the token limit while it repeated itself.

    A turn that ended by itself is none, however often it says the same. Only the second half is looked at, because
    loops often begin after something sensible.
    """
    ids = turn.token_ids
    return turn.finish is FinishReason.LENGTH and repeated_share(ids[len(ids) // 2 :]) > LOOPING


def repetition_of(conversation: Conversation) -> Repetition:
    """Return what the model's turns of a conversation repeat."""
    turns = [entry.generation for entry in conversation if isinstance(entry, AssistantTurn)]
    return Repetition(
        truncated=any(turn.finish is FinishReason.LENGTH for turn in turns),
        share=max((repeated_share(turn.token_ids) for turn in turns), default=0.0),
        looping=any(is_loop(turn) for turn in turns),
    )


def require_variety(name: str, step: int, shares: Sequence[float], limit: float, steps: int) -> None:
    """Refuse to go on with a policy that has fallen into repetition.

    Args:
        name: of the stage.
        step: the last step taken, from 0.
        shares: shares of looping rollouts of the steps up to that one, oldest first.
        limit: the share that is too much; 1 or more stops nothing.
        steps: how many steps in a row must exceed it.

    Raises:
        VitalError: if each of the last ``steps`` shares exceeds the limit.
    """
    recent = shares[-steps:]
    if len(recent) == steps and min(recent) > limit:
        raise VitalError(
            f"stage {name} fell into repetition: in each of the steps {step - steps + 2} to {step + 1} more than "
            f"{limit:.0%} of the rollouts repeat themselves to the token limit (the last: {recent[-1]:.0%})",
            "the last saved state is kept; lower the rate, raise the KL term or set a loop penalty and train the stage "
            "again in another folder, or raise loop_limit to go on",
        )
