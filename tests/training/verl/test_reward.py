"""The reward as verl loads and calls it, against the harness's own reward of the same rollout."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest

from vital_eval.errors import DataError
from vital_eval.generation import FinishReason
from vital_eval.parsing.turn import split_turn
from vital_eval.training.rewards import (
    RewardRules,
    ToolBonus,
    read_solution,
    require_source,
    rollout_reward,
    score_answer,
)
from vital_eval.training.verl_plugin.reward import compute_score
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

CALL = '<think>a</think><tool_call>{"name": "get_video_clip_frame"}</tool_call>'
CASES = [
    ("./data/charades", [2.0, 6.0], ["<think>a</think><answer>3 to 6</answer>"], []),
    ("./data/vidchapter_cutreward", [2.0, 6.0], [CALL, "<think>b</think><answer>3 to 6</answer>"], [1.0]),
    ("video_r1/multiple_choice", "B", [CALL, CALL, "<think>b</think><answer>B</answer>"], [0.0, 1.0]),
    ("video_r1/multiple_choice", "B", [CALL, CALL, "<think>B</think>"], [1.0, 1.0]),
    ("nextgqa", "From 2 to 6, B", ["<think>9 to 10</think><answer>B, 2 to 6</answer>"], []),
]


def harness(source: str, solution: Any, turns: list[str], calls: list[float], rules: RewardRules) -> dict[str, float]:
    """Return the same rollout's reward by the harness."""
    tried = [ToolCall("", "", "" if worth else "reversed", "") for worth in calls] + [None]
    written = tuple(
        Turn(text, FinishReason.STOP_STRING, 0, 0, 0, 0, 0.0, call) for text, call in zip(turns, tried, strict=True)
    )
    answer = split_turn(turns[-1]).answer
    trajectory = Trajectory(written, StopReason.ANSWERED, answer, (), 0.0, "", 0.0)
    known = require_source(source)
    found = rollout_reward(trajectory, partial(score_answer, known, read_solution(known, solution)), rules)
    return {"score": found.total, "format": found.format, "task": found.task, "tool": found.tool}


@pytest.mark.parametrize("bonus", list(ToolBonus))
@pytest.mark.parametrize(("source", "solution", "turns", "calls"), CASES)
def test_same_as_the_harness(
    source: str, solution: Any, turns: list[str], calls: list[float], bonus: ToolBonus
) -> None:
    info = {"assistant_turns": turns, "tool_rewards": calls}
    found = compute_score(source, "ignored", json.dumps(solution), info, tool_bonus=bonus.value)
    assert found == harness(source, solution, turns, calls, RewardRules(bonus))


def test_a_tool_result_is_not_the_models_text() -> None:
    turns = [CALL, "<think>b</think><answer>3 to 6</answer>"]
    decoded = f"{turns[0]}\ntool\nThese are the frames from 2.00 to 6.00 seconds.\nassistant\n{turns[1]}"
    info = {"assistant_turns": turns, "tool_rewards": [1.0]}
    assert compute_score("charades", decoded, "[2, 6]", info)["format"] == 1.0
    # Control: the decoded response has text between the pairs.
    assert compute_score("charades", decoded, "[2, 6]", {})["format"] == 0.0


def test_an_unknown_source_is_an_error() -> None:
    with pytest.raises(DataError, match="known sources"):
        compute_score("mystery", "", "[2, 6]", {})


def test_verl_loads_it_and_its_reward_manager_calls_it(plain_checkpoint: Any) -> None:
    pytest.importorskip("verl", reason="verl is installed in an environment of its own (tox -e verl)")
    import numpy as np
    import torch
    from omegaconf import OmegaConf
    from transformers import AutoTokenizer
    from verl import DataProto
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
    from verl.trainer.ppo.reward import get_custom_reward_fn

    path = "pkg://vital_eval.training.verl_plugin.reward"
    given = {"path": path, "name": "compute_score", "reward_kwargs": {"tool_bonus": "released"}}
    config = OmegaConf.create({"reward": {"custom_reward_function": given}})
    tokenizer = AutoTokenizer.from_pretrained(plain_checkpoint)
    turns = [CALL, CALL, "<think>b</think><answer>B</answer>"]
    ids = torch.tensor([tokenizer("".join(turns), add_special_tokens=False)["input_ids"]])
    extra = {"assistant_turns": turns, "tool_rewards": [1.0, 1.0]}

    def boxed(value: object) -> np.ndarray:
        box = np.empty(1, dtype=object)
        box[0] = value
        return box

    data = DataProto.from_dict(
        tensors={"responses": ids, "attention_mask": torch.ones_like(ids)},
        non_tensors={
            "data_source": boxed("video_r1/multiple_choice"),
            "reward_model": boxed({"style": "rule", "ground_truth": '"B"'}),
            "extra_info": boxed({"index": 0}),
            "tool_extra_fields": boxed(extra),
        },
    )

    async def run() -> dict[str, Any]:
        manager = NaiveRewardManager(config, tokenizer, get_custom_reward_fn(config))
        result: dict[str, Any] = await manager.run_single(data)
        return result

    found = asyncio.run(run())
    assert found["reward_score"] == 3.0
    assert found["reward_extra_info"] == {"score": 3.0, "format": 1.0, "task": 1.0, "tool": 1.0}
