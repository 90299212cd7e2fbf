"""What an answer costs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from vital_eval.outcome import Outcome
from vital_eval.record import Record


@dataclass(frozen=True, slots=True)
class Cost:
    """Mean cost of one attempt, over the attempts that are not ``infra-failed``.

    Attributes:
        attempts: how many attempts the means are over.
        seconds: wall-clock seconds of the episode, decoding included. Episodes share a batch, so this is how long
            an answer takes to come, not how long the machine works for it.
        frames: frames shown, those of tool calls included.
        visual_tokens: video tokens in the context when the last turn was written.
        new_tokens: tokens the model wrote, all turns together.
        turns: turns the model wrote.
    """

    attempts: int
    seconds: float
    frames: float
    visual_tokens: float
    new_tokens: float
    turns: float


def cost_of(records: Iterable[Record]) -> Cost | None:
    """Return the mean cost of one attempt, ``None`` if no attempt came to an end."""
    ended = [record.trajectory for record in records if record.outcome is not Outcome.INFRA_FAILED]
    if not ended:
        return None
    count = len(ended)
    return Cost(
        attempts=count,
        seconds=math.fsum(trajectory.seconds for trajectory in ended) / count,
        frames=sum(
            len(trajectory.frame_times) + sum(len(call.frame_times) for call in trajectory.tool_calls)
            for trajectory in ended
        )
        / count,
        # A later turn's prompt holds the earlier turns' video; adding turns up would count it again.
        visual_tokens=sum(max((turn.visual_tokens for turn in each.turns), default=0) for each in ended) / count,
        new_tokens=sum(turn.new_tokens for each in ended for turn in each.turns) / count,
        turns=sum(len(trajectory.turns) for trajectory in ended) / count,
    )
