"""Advantages against an independent transcription of the released arithmetic, and what each difficulty weight does."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.training.advantages import Difficulty, group_advantages, informative, over_tokens

GOLDEN = json.loads((Path(__file__).parent / "golden" / "advantages.json").read_text(encoding="utf-8"))
#: Easy group (mean 2.0, weight 0.5), middle (1.5, 0.75), hard (0.4, 1), all equal, alone.
REWARDS = [2.5, 2.0, 1.5, 2.0, 1.0, 2.0, 1.2, 1.8, 0.0, 1.0, 0.5, 0.1, 1.5, 1.5, 1.5, 1.5, 0.75]
GROUPS = list("aaaabbbbccccddddz")


def released(
    rewards: list[float], groups: list[str], *, weigh: bool = True, normalise: bool = True, ddof: int = 1
) -> list[float]:
    """Transcribe ``compute_dgrpo_outcome_advantage`` of the release, without torch; unweighted it is verl's GRPO."""
    found = []
    for reward, group in zip(rewards, groups, strict=True):
        members = [other for other, name in zip(rewards, groups, strict=True) if name == group]
        mean, std = 0.0, 1.0
        if len(members) > 1:
            mean = sum(members) / len(members)
            std = math.sqrt(sum((other - mean) ** 2 for other in members) / (len(members) - ddof))
        value = (reward - mean) / (std + 1e-6) if normalise else reward - mean
        difficulty = max(min(2.0 - mean, 1.0), 0.0)
        found.append(value * (difficulty + 1) / 2 if weigh else value)
    return found


def values(difficulty: Difficulty, *, normalise: bool = True, task: list[float] | None = None) -> list[float]:
    rewards = torch.tensor(REWARDS, dtype=torch.float64)
    given = rewards if task is None else torch.tensor(task, dtype=torch.float64)
    return group_advantages(rewards, given, GROUPS, difficulty, normalise).values.tolist()


@pytest.mark.parametrize("normalise", [True, False])
def test_released_and_plain_match_the_transcription_and_the_stored_values(normalise: bool) -> None:
    for difficulty, weigh in ((Difficulty.RELEASED, True), (Difficulty.NONE, False)):
        stored = GOLDEN[f"{difficulty}, {'std' if normalise else 'mean only'}"]
        assert released(REWARDS, GROUPS, weigh=weigh, normalise=normalise) == pytest.approx(stored, abs=1e-12)
        assert values(difficulty, normalise=normalise) == pytest.approx(stored, abs=1e-12)


def test_controls_a_biased_spread_a_swapped_sign_and_a_missing_weight_would_be_seen() -> None:
    right = values(Difficulty.RELEASED)
    assert right != pytest.approx(released(REWARDS, GROUPS, ddof=0), abs=1e-2)
    assert right != pytest.approx([-value for value in released(REWARDS, GROUPS)], abs=1e-2)
    assert right != pytest.approx(released(REWARDS, GROUPS, weigh=False), abs=1e-2)


def test_rewards_of_the_test_tell_the_variants_apart() -> None:
    rewards = torch.tensor(REWARDS)
    weights = group_advantages(rewards, rewards, GROUPS, Difficulty.RELEASED).weights
    assert weights.tolist() == pytest.approx([0.5] * 4 + [0.75] * 4 + [1.0] * 4 + [0.75] * 4 + [1.0])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from("abc")), min_size=1, max_size=20), st.randoms())
def test_any_batch_matches_the_transcription_in_any_order(
    rollouts: list[tuple[float, str]], order: random.Random
) -> None:
    order.shuffle(rollouts)
    rewards = [round(reward, 3) for reward, _ in rollouts]
    groups = [group for _, group in rollouts]
    tensor = torch.tensor(rewards, dtype=torch.float64)
    found = group_advantages(tensor, tensor, groups).values
    assert found.tolist() == pytest.approx(released(rewards, groups), rel=1e-6, abs=1e-6)


def test_paper_weight_cancels_against_the_spread_and_acts_without_it() -> None:
    plain, paper = values(Difficulty.NONE), values(Difficulty.PAPER)
    assert paper == pytest.approx(plain, abs=1e-5)
    assert paper != plain  # The epsilon is what is left.
    assert values(Difficulty.RELEASED) != pytest.approx(plain, abs=1e-2)
    unscaled = values(Difficulty.PAPER, normalise=False)
    assert unscaled == pytest.approx(values(Difficulty.RELEASED, normalise=False), abs=1e-12)
    assert unscaled != pytest.approx(values(Difficulty.NONE, normalise=False), abs=1e-2)


def test_accuracy_weight_is_the_released_one_where_only_answers_differ() -> None:
    task = [0.0, 1.0, 0.3, 0.9, 1.0, 1.0, 0.8, 1.0]
    groups = list("aaaabbbb")
    answers = torch.tensor(task)
    right_form = group_advantages(answers + 1, answers, groups, Difficulty.RELEASED)
    by_answers = group_advantages(answers + 1, answers, groups, Difficulty.ACCURACY)
    torch.testing.assert_close(right_form.values, by_answers.values)
    # A tool bonus for all makes every such group look easy to the released weight, and moves the other not at all.
    with_tool = group_advantages(answers + 1.5, answers, groups, Difficulty.RELEASED)
    assert with_tool.weights.tolist() == pytest.approx([0.5] * 8, abs=0.03)
    again = group_advantages(answers + 1.5, answers, groups, Difficulty.ACCURACY)
    assert by_answers.weights.tolist() == again.weights.tolist()
    assert sorted({round(weight, 4) for weight in again.weights.tolist()}) == [0.525, 0.725]


def test_group_of_one_keeps_its_reward_with_weight_one() -> None:
    one = torch.tensor([2.0])
    for difficulty in Difficulty:
        found = group_advantages(one, one, ["a"], difficulty)
        assert found.values.item() == pytest.approx(2.0, abs=1e-5)
        assert (found.weights.item(), found.mean.item(), found.std.item()) == (1.0, 0.0, 1.0)


def test_equal_rewards_give_exactly_zero() -> None:
    rewards = torch.full((3,), 0.1, dtype=torch.float64)
    assert (rewards - rewards.mean()).any()  # The control: the mean of equal numbers misses them.
    for difficulty in Difficulty:
        found = group_advantages(rewards, rewards, ["a"] * 3, difficulty)
        assert found.values.tolist() == [0.0] * 3
        assert found.std.tolist() == [0.0] * 3


def test_informative_groups_are_those_that_differ_or_stand_alone() -> None:
    rewards = torch.tensor([1.0, 1.0, 0.0, 1.0, 2.0, 1.0, 1.05])
    groups = ["same", "same", "apart", "apart", "alone", "near", "near"]
    assert informative(rewards, groups).tolist() == [False, False, True, True, True, True, True]
    assert informative(rewards, groups, tolerance=0.1).tolist() == [False, False, True, True, True, False, False]
    dropped = ~informative(rewards, groups)
    assert not group_advantages(rewards, rewards, groups).values[dropped].any()


def test_tokens_get_their_rollouts_advantage_and_masked_ones_nothing() -> None:
    mask = torch.tensor([[1, 0, 1], [0, 1, 0]])
    assert over_tokens(torch.tensor([0.5, -2.0]), mask).tolist() == [[0.5, 0.0, 0.5], [0.0, -2.0, 0.0]]
    assert over_tokens(torch.tensor([math.inf, 1.0]), mask)[0, 1] == 0


def test_no_rollouts_are_no_advantages() -> None:
    assert group_advantages(torch.tensor([]), torch.tensor([]), []).values.shape == (0,)


def test_wrong_input_is_refused() -> None:
    two = torch.tensor([1.0, 0.0])
    with pytest.raises(ValueError, match="group ids"):
        group_advantages(two, two, ["a"])
    with pytest.raises(ValueError, match="group ids"):
        group_advantages(two, two[:1], ["a", "a"])
    with pytest.raises(ValueError, match="not finite"):
        group_advantages(torch.tensor([1.0, math.nan]), two, ["a", "a"])
