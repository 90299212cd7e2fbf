"""Group-relative advantages, and the difficulty weights of DGRPO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

#: Added to a group's standard deviation before dividing by it, as in verl and the VITAL release (TRL has 1e-4).
EPSILON = 1e-6


class Difficulty(StrEnum):
    """How a group's difficulty moves its advantages. Every weight lies in [0.5, 1] and is one number a group.

    With m the group's mean total reward (format + task + tool) and p its mean task reward:

    * ``released``: the advantage times (clamp(2 - m, 0, 1) + 1) / 2, as VITAL's code does. It moves only while m is
      between 1 and 2, and it takes format and tool use for ease: with one tool bonus of 0.5 and perfect format, every
      group with p >= 0.5 has weight 0.5.
    * ``paper``: the same weight on the reward, as VITAL's Algorithm 1 is reported. Dividing by the group's standard
      deviation cancels it, so with ``normalise`` this is plain GRPO up to epsilon; without it the two agree.
    * ``accuracy``: the advantage times (clamp(1 - p, 0, 1) + 1) / 2, for task rewards in [0, 1]. Where the format is
      always right and no tool is used, m = 1 + p and this is the released weight; elsewhere it is what that weight
      would be if only the answers counted.
    * ``none``: no weight, which is GRPO.
    """

    RELEASED = "released"
    PAPER = "paper"
    ACCURACY = "accuracy"
    NONE = "none"


@dataclass(frozen=True, slots=True, eq=False)
class Advantages:
    """Advantages of a batch of rollouts; every tensor has shape (rollouts,) and the type of the rewards.

    Attributes:
        values: the advantage, weighted.
        weights: the difficulty weight of the rollout's group.
        mean: the group's mean total reward before any weight; 0 for a group of one.
        std: the group's unbiased standard deviation, likewise; 1 for a group of one.
    """

    values: torch.Tensor
    weights: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor


def group_advantages(
    total: torch.Tensor,
    task: torch.Tensor,
    groups: Sequence[Hashable],
    difficulty: Difficulty = Difficulty.RELEASED,
    normalise: bool = True,
) -> Advantages:
    """Return each rollout's advantage over the other rollouts of its group.

    A group of one has mean 0 and standard deviation 1, as in verl: its advantage is its reward, and its weight is 1.
    A group of equal rewards has advantages of exactly 0: the mean of equal numbers may miss them by a rounding error,
    which the small epsilon would blow up. Computed in float64.

    Args:
        total: total rewards, shape (rollouts,).
        task: the task's part of them, shape (rollouts,); only ``accuracy`` looks at it.
        groups: what the rollout is an attempt at, one id a rollout, in any order. Rollouts of one group must all be
            here: a group that is split over processes has to be gathered first.
        difficulty: see :class:`Difficulty`.
        normalise: divide by the group's standard deviation (GRPO); if not, only the mean is taken off (Dr. GRPO).

    Raises:
        ValueError: if the lengths differ or a reward is not finite.

    Source:
        ``compute_dgrpo_outcome_advantage`` of the VITAL release for ``released``.
    """
    _check(total, groups)
    _check(task, groups)
    rewards = total.double()
    index, counts = _group_index(groups, total.device)
    alone = counts == 1
    mean = _group_mean(rewards, index, counts).masked_fill(alone, 0.0)
    equal = ~_differs(rewards, index, len(counts), 0.0)
    deviations = torch.where((equal & ~alone)[index], 0.0, rewards - mean[index])
    squares = torch.zeros_like(mean).index_add(0, index, deviations.square())
    std = (squares / (counts - 1).clamp(min=1)).sqrt().masked_fill(alone, 1.0)
    weights = _weights(difficulty, mean, _group_mean(task.double(), index, counts).masked_fill(alone, 0.0))
    if difficulty is Difficulty.PAPER:
        # Rewards times w have w times the deviations and, but for the fixed 1 of a group of one, w times the spread.
        spread = torch.where(alone, std, std * weights)
        values = deviations * weights[index] / (spread[index] + EPSILON if normalise else 1.0)
    else:
        values = deviations / (std[index] + EPSILON if normalise else 1.0) * weights[index]
    kind = total.dtype
    return Advantages(*(tensor.to(kind) for tensor in (values, weights[index], mean[index], std[index])))


def informative(rewards: torch.Tensor, groups: Sequence[Hashable], tolerance: float = 0.0) -> torch.Tensor:
    """Tell which rollouts are in a group whose rewards differ, for dynamic filtering (DAPO).

    A group of equal rewards teaches nothing: all its advantages are 0, yet it counts in the loss's denominator. A
    group of one is kept, because its advantage is its reward.

    Args:
        rewards: shape (rollouts,); the total reward, or the task's part to filter by the answers alone.
        groups: see :func:`group_advantages`.
        tolerance: largest difference within a group that still counts as equal.

    Returns:
        bool, shape (rollouts,).
    """
    _check(rewards, groups)
    index, counts = _group_index(groups, rewards.device)
    return (_differs(rewards.double(), index, len(counts), tolerance) | (counts == 1))[index]


def lone(groups: Sequence[Hashable]) -> torch.Tensor:
    """Tell which rollouts are the only ones of their group; bool, shape (rollouts,)."""
    sizes = Counter(groups)
    return torch.tensor([sizes[group] == 1 for group in groups], dtype=torch.bool)


def over_tokens(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Give every trained token its rollout's advantage, and all others exactly 0.

    Args:
        values: shape (rollouts,).
        mask: shape (rollouts, tokens), not 0 on trained tokens.

    Returns:
        Shape (rollouts, tokens).
    """
    return torch.where(mask.bool(), values[:, None], torch.zeros_like(values)[:, None])


def _check(rewards: torch.Tensor, groups: Sequence[Hashable]) -> None:
    if rewards.shape != (len(groups),):
        raise ValueError(f"{len(groups)} group ids do not fit rewards of shape {tuple(rewards.shape)}")
    if not bool(torch.isfinite(rewards).all()):
        # One such reward would make every advantage of its group NaN.
        raise ValueError("a reward is not finite")


def _group_index(groups: Sequence[Hashable], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    numbers: dict[Hashable, int] = {}
    index = torch.tensor([numbers.setdefault(group, len(numbers)) for group in groups], dtype=torch.long, device=device)
    return index, torch.bincount(index, minlength=len(numbers))


def _group_mean(rewards: torch.Tensor, index: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    return rewards.new_zeros(len(counts)).index_add(0, index, rewards) / counts


def _differs(rewards: torch.Tensor, index: torch.Tensor, groups: int, tolerance: float) -> torch.Tensor:
    empty = rewards.new_zeros(groups)
    highest = empty.scatter_reduce(0, index, rewards, "amax", include_self=False)
    lowest = empty.scatter_reduce(0, index, rewards, "amin", include_self=False)
    return highest - lowest > tolerance


def _weights(difficulty: Difficulty, mean: torch.Tensor, mean_task: torch.Tensor) -> torch.Tensor:
    if difficulty is Difficulty.NONE:
        return torch.ones_like(mean)
    easy = mean_task if difficulty is Difficulty.ACCURACY else mean - 1
    return ((1 - easy).clamp(0, 1) + 1) / 2
