"""The reward of a rollout as verl calls it: ``reward.custom_reward_function``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vital_eval.parsing.turn import split_turn
from vital_eval.training.rewards import (
    ToolBonus,
    add_up,
    format_reward,
    read_solution,
    require_source,
    score_answer,
    tool_reward,
)

from .names import CALLS, TURNS


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any],
    tool_bonus: str = ToolBonus.ONCE.value,
    released_format: bool = False,
    released_iou_only: bool = False,
) -> dict[str, float]:
    """Return the reward and its parts, computed by :mod:`vital_eval.training.rewards`.

    Args:
        data_source: see :func:`~vital_eval.training.rewards.require_source`.
        solution_str: the decoded response. verl decodes tool results with it, so it is read only where the agent loop
            left no turns (a rollout of one turn).
        ground_truth: the record's solution as JSON.
        extra_info: ``assistant_turns``, the model's turns; ``tool_rewards``, above 0 for each call that succeeded.
        tool_bonus: see :class:`~vital_eval.training.rewards.ToolBonus`.
        released_format: see :class:`~vital_eval.training.rewards.RewardRules`.
        released_iou_only: see :func:`~vital_eval.training.rewards.score_answer`.

    Returns:
        ``score``, the total, and ``format``, ``task`` and ``tool``.

    Raises:
        DataError: if the source or the solution is not what records may hold.
    """
    source = require_source(data_source)
    turns = [str(turn) for turn in extra_info.get(TURNS) or [solution_str]]
    scored = score_answer(
        source,
        read_solution(source, json.loads(ground_truth)),
        split_turn(turns[-1]).answer,
        released_iou_only=released_iou_only,
    )
    succeeded = sum(float(worth) > 0 for worth in extra_info.get(CALLS) or ())
    reward = add_up(
        format_reward("\n".join(turns), released=released_format),
        scored,
        tool_reward(succeeded, ToolBonus(tool_bonus)),
    )
    return {"score": reward.total, "format": reward.format, "task": reward.task, "tool": reward.tool}
