"""DGRPO through verl's own dispatch: against verl's GRPO and against a transcription of the released arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vital_eval.errors import ProtocolError
from vital_eval.training.advantages import Difficulty
from vital_eval.training.verl_plugin.estimator import dgrpo

#: Easy (mean 2.0, weight 0.5), middle (1.5, 0.75), hard (0.4, 1), alone; interleaved as rollouts arrive.
TOTAL = [2.5, 1.0, 0.0, 2.0, 2.0, 1.0, 1.5, 1.2, 0.5, 2.0, 1.8, 0.1, 0.75]
GROUPS = list("abcabcabcabcz")
MASK = [[1, 1, 1, 0, 0], [1, 0, 0, 1, 1], [1, 1, 0, 0, 1]] * 4 + [[1, 0, 0, 0, 0]]


class Config(dict[str, object]):
    """As verl's algorithm configuration."""


def released(rewards: torch.Tensor, groups: list[str], *, normalise: bool, weigh: bool = True) -> torch.Tensor:
    """Transcribe ``compute_dgrpo_outcome_advantage`` of the release."""
    scores = rewards.clone()
    for name in dict.fromkeys(groups):
        rows = [row for row, group in enumerate(groups) if group == name]
        members = rewards[rows]
        mean, std = (members.mean(), members.std()) if len(rows) > 1 else (torch.tensor(0.0), torch.tensor(1.0))
        difficulty = torch.clamp(2.0 - mean, 0, 1)
        for row in rows:
            value = (rewards[row] - mean) / (std + 1e-6) if normalise else rewards[row] - mean
            scores[row] = value * (difficulty + 1) / 2 if weigh else value
    return scores


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return rewards on the last response token, and the mask."""
    rewards = torch.zeros(len(TOTAL), 5)
    rewards[:, 4] = torch.tensor(TOTAL)
    return rewards, torch.tensor(MASK)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("difficulty", ["released", "none"])
def test_dispatch_equals_the_release_and_verls_grpo(difficulty: str, normalise: bool) -> None:
    pytest.importorskip("verl", reason="verl is installed in an environment of its own (tox -e verl)")
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.trainer.ppo.ray_trainer import compute_advantage
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    from vital_eval.training.verl_plugin import registration

    assert registration.ESTIMATOR == "dgrpo"
    rewards, mask = batch()
    config = OmegaConf.create({"difficulty": difficulty, "norm_adv_by_std_in_grpo": normalise})

    def given() -> DataProto:
        return DataProto.from_dict(
            tensors={"token_level_rewards": rewards.clone(), "response_mask": mask},
            non_tensors={"uid": np.array(GROUPS, dtype=object)},
        )

    def through(estimator: str) -> torch.Tensor:
        found = compute_advantage(given(), estimator, norm_adv_by_std_in_grpo=normalise, config=config)
        assert torch.equal(found.batch["advantages"], found.batch["returns"])
        return found.batch["advantages"]

    ours, theirs = through("dgrpo"), through("grpo")
    expected = released(torch.tensor(TOTAL), GROUPS, normalise=normalise, weigh=difficulty == "released")
    assert torch.allclose(ours, expected[:, None] * mask, atol=1e-6, rtol=0)
    assert bool((ours[mask == 0] == 0).all())
    # The default trainer's own way leads to the same place.
    keys = [f"{group}_{row}_0" for row, group in enumerate(GROUPS)]
    default = compute_advantage_for_multi_trajectories(given(), keys, "dgrpo", config=config)
    assert torch.equal(default.batch["advantages"], ours)
    # Controls: without a weight it is verl's own GRPO; with one, the easy groups are weighed down and no others.
    unlike = (ours - theirs).abs().amax(dim=1) > 1e-6
    assert {GROUPS[row] for row in unlike.nonzero()[:, 0]} == ({"a", "b"} if difficulty == "released" else set())


def test_accuracy_reads_the_tasks_part_behind_the_first_token() -> None:
    format_and_tool, task = [1.5, 1.5, 1.0, 1.0], [1.0, 0.0, 0.5, 0.1]
    rewards = torch.zeros(4, 3)
    rewards[:, 0], rewards[:, 2] = torch.tensor(format_and_tool), torch.tensor(task)
    mask = torch.ones(4, 3, dtype=torch.long)
    found, _ = dgrpo(rewards, mask, list("aaaa"), Config(difficulty="accuracy", norm_adv_by_std_in_grpo=False))
    total = torch.tensor(format_and_tool) + torch.tensor(task)
    weight = (1 - sum(task) / 4 + 1) / 2
    assert found[:, 0].tolist() == pytest.approx(((total - total.mean()) * weight).tolist())
    other, _ = dgrpo(rewards, mask, list("aaaa"), Config(difficulty="released", norm_adv_by_std_in_grpo=False))
    assert not torch.allclose(found, other)


def test_accuracy_is_refused_where_the_parts_are_not_known() -> None:
    rewards, mask = batch()
    with pytest.raises(ProtocolError, match="task's part"):
        dgrpo(rewards, mask, GROUPS, Config(difficulty="accuracy"))
    with pytest.raises(ProtocolError, match="KL"):
        dgrpo(rewards, mask, GROUPS, Config(difficulty="accuracy", use_kl_in_reward=True))


def test_settings_come_from_the_configuration_alone() -> None:
    rewards, mask = batch()
    default, _ = dgrpo(rewards, mask, GROUPS, SimpleNamespace(get=lambda key, default: default))
    explicit, _ = dgrpo(rewards, mask, GROUPS, Config(difficulty="released", norm_adv_by_std_in_grpo=True))
    assert torch.equal(default, explicit)
    for difficulty in Difficulty:
        if difficulty is not Difficulty.ACCURACY:
            dgrpo(rewards, mask, GROUPS, Config(difficulty=difficulty.value))
    with pytest.raises(ProtocolError, match="easy"):
        dgrpo(rewards, mask, GROUPS, Config(difficulty="easy"))
