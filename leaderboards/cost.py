"""What an answer costs, and what a right one does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vital_eval.outcome import Outcome
from vital_eval.record import Record
from vital_eval.trajectory import Trajectory

CORRECT = "correct answer"
POINT = "unit of score"


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


@dataclass(frozen=True, slots=True)
class Price:
    """Cost of all attempts at one benchmark, wrong ones included, divided by what they scored together.

    Attributes:
        unit: :data:`CORRECT` where every score is 0 or 1, :data:`POINT` where scores are graded (an IoU, say).
        seconds: as in :class:`Cost`.
        frames: likewise.
        visual_tokens: likewise.
    """

    unit: str
    seconds: float
    frames: float
    visual_tokens: float


def cost_of(records: Iterable[Record]) -> Cost | None:
    """Return the mean cost of one attempt, ``None`` if no attempt came to an end."""
    ended = [record.trajectory for record in records if record.outcome is not Outcome.INFRA_FAILED]
    if not ended:
        return None
    count = len(ended)
    return Cost(
        attempts=count,
        seconds=math.fsum(trajectory.seconds for trajectory in ended) / count,
        frames=sum(map(_frames, ended)) / count,
        visual_tokens=sum(map(_visual_tokens, ended)) / count,
        new_tokens=sum(turn.new_tokens for each in ended for turn in each.turns) / count,
        turns=sum(len(trajectory.turns) for trajectory in ended) / count,
    )


def price_of(records: Sequence[Record], score: str, graded: bool) -> Price | None:
    """Return what one unit of a score costs.

    Args:
        records: attempts at one benchmark.
        score: key of the headline metric's score.
        graded: whether scores between 0 and 1 occur on this benchmark.

    Returns:
        ``None`` if nothing scored.
    """
    # Answers that the headline leaves out can neither earn a point nor be charged for one.
    counted = [record for record in records if record.scores[score] is not None]
    points = math.fsum(record.scores[score] or 0.0 for record in counted)
    if not points:
        return None
    ended = [record.trajectory for record in counted if record.outcome is not Outcome.INFRA_FAILED]
    return Price(
        unit=POINT if graded else CORRECT,
        seconds=math.fsum(trajectory.seconds for trajectory in ended) / points,
        frames=sum(map(_frames, ended)) / points,
        visual_tokens=sum(map(_visual_tokens, ended)) / points,
    )


def _frames(trajectory: Trajectory) -> int:
    return len(trajectory.frame_times) + sum(len(call.frame_times) for call in trajectory.tool_calls)


def _visual_tokens(trajectory: Trajectory) -> int:
    # A later turn's prompt holds the earlier turns' video; adding turns up would count it again.
    return max((turn.visual_tokens for turn in trajectory.turns), default=0)
