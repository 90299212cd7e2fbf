"""DGRPO as verl calls an advantage estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from vital_eval.errors import ProtocolError
from vital_eval.training.advantages import Difficulty, group_advantages, over_tokens

#: How far above 1 a task reward may be read because totals and parts are kept in single precision.
_ROUNDING = 1e-4


class Settings(Protocol):
    """The part of verl's algorithm configuration that is read (a ``DictConfig`` or verl's own class)."""

    def get(self, key: str, default: Any) -> Any:
        """Return a setting."""


def dgrpo(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[str],
    config: Settings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute advantages with :func:`~vital_eval.training.advantages.group_advantages`.

    verl hands a custom estimator its configuration, not ``norm_adv_by_std_in_grpo`` by name; the flag is read from it,
    and so is ``difficulty`` (one of :class:`~vital_eval.training.advantages.Difficulty`, ``released`` by default).

    Args:
        token_level_rewards: shape (rollouts, tokens); a row adds up to the rollout's total reward. For the difficulty
            ``accuracy``, all of it but the first token's share is the task's part
            (:class:`~.agent_loop.SplitRewardOutput`).
        response_mask: shape (rollouts, tokens), 1 on tokens that the model wrote.
        index: the prompt that each rollout answers.
        config: ``algorithm`` of the run's configuration.

    Returns:
        Advantages and returns, which are the same, shape (rollouts, tokens).

    Raises:
        ProtocolError: if the difficulty is not known, or ``accuracy`` cannot be computed: the rewards are not split
            (verl's legacy trainer) or hold a KL penalty.
    """
    name = config.get("difficulty", Difficulty.RELEASED.value)
    try:
        difficulty = Difficulty(name)
    except ValueError as error:
        raise ProtocolError(f"algorithm.difficulty is {name!r}", f"use one of {', '.join(Difficulty)}") from error
    total = token_level_rewards.sum(dim=-1)
    task = torch.zeros_like(total)
    if difficulty is Difficulty.ACCURACY:
        if config.get("use_kl_in_reward", False):
            raise ProtocolError("difficulty accuracy with a KL penalty in the reward", "set use_kl_in_reward to false")
        task = total - token_level_rewards[:, 0]
        if bool((task > 1 + _ROUNDING).any()):
            raise ProtocolError(
                "difficulty accuracy needs the task's part of the reward",
                "use this package's agent loop and trainer V1",
            )
    normalise = bool(config.get("norm_adv_by_std_in_grpo", True))
    with torch.no_grad():
        found = group_advantages(total, task, list(index), difficulty, normalise)
        advantages = over_tokens(found.values, response_mask)
    return advantages, advantages
