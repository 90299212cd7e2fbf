"""The reinforcement stage: deterministic, resumable, and it moves the policy towards what is rewarded."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from tests.training.nano_policy import nano_engine, open_grey, policy_of, problem, protocol, tools
from vital_eval.episode import Footage
from vital_eval.errors import MediaError, VitalError
from vital_eval.protocol import Mode, Sampling
from vital_eval.training.advantages import Difficulty
from vital_eval.training.dgrpo import DgrpoStage, StepMetrics, draw, train_dgrpo
from vital_eval.training.policy_loss import LossSettings
from vital_eval.training.problems import Problem
from vital_eval.training.rewards import RewardRules, Scored, ToolBonus

STAGE = DgrpoStage(
    name="toy",
    protocol=protocol(Mode.DIRECT, temperature=1.5, tokens=16),
    steps=4,
    rate=3e-4,
    prompts=2,
    group=4,
    difficulty=Difficulty.NONE,
    rules=RewardRules(tool_bonus=ToolBonus.NONE),
    loss=LossSettings(kl=0.01),
)


def first_digit(answer: str | None) -> Scored:
    """A dense toy reward: the smaller the first digit of the answer, the better."""
    digits = [int(character) for character in answer or "" if character.isdigit()]
    return Scored(1.0 - digits[0] / 9 if digits else 0.0)


def train(
    folder: Path,
    stage: DgrpoStage = STAGE,
    problems: Sequence[Problem] | None = None,
    save_every: int = 2,
    open_video: Callable[[str], object] = open_grey,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[tuple[StepMetrics, ...], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    with nano_engine(32) as engine:
        policy = policy_of(engine)

        async def run() -> tuple[StepMetrics, ...]:
            try:
                return await train_dgrpo(
                    policy,
                    stage,
                    problems or [problem(f"v{n}", score=first_digit) for n in range(3)],
                    tools(),
                    open_video,  # type: ignore[arg-type]
                    folder,
                    seed=1,
                    report=report,
                    save_every=save_every,
                )
            finally:
                await engine.close()

        done = asyncio.run(run())
        return done, {name: value.detach().clone() for name, value in policy.model.named_parameters()}


def test_a_step_reports_what_it_did_and_moves_the_weights(tmp_path) -> None:
    with nano_engine() as engine:
        before = {name: value.detach().clone() for name, value in engine._model.named_parameters()}
    metrics, after = train(tmp_path, dataclasses.replace(STAGE, steps=2))
    assert [one.step for one in metrics] == [0, 1]
    for one in metrics:
        assert one.rollouts == 8
        assert one.failed == 0
        # Without a group whose rewards differ there is no token to take a mean over.
        assert one.loss.ratio == pytest.approx(1.0 if one.trained else 0.0, abs=1e-6)
    assert metrics[0].loss.kl == pytest.approx(0.0, abs=1e-9)
    assert any(one.trained for one in metrics)
    assert max(float((after[name] - before[name]).abs().max()) for name in before) > 0
    lines = (tmp_path / "toy.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]


def test_a_killed_stage_goes_on_as_if_nothing_had_been(tmp_path) -> None:
    whole, undisturbed = train(tmp_path / "a")
    # Killed after step 3, which was logged but not saved.
    train(tmp_path / "b", dataclasses.replace(STAGE, steps=2))
    log = tmp_path / "b" / "toy.jsonl"
    log.write_text(log.read_text() + '{"step": 2, "lost": true}\n{"step": 3, "torn')
    rest, resumed = train(tmp_path / "b")
    assert [one.step for one in rest] == [2, 3]
    assert any(one.trained for one in rest)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [0, 1, 2, 3]
    for name, value in undisturbed.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-7)
    assert [one.reward for one in rest] == [one.reward for one in whole[2:]]


def test_reward_rises_and_shuffled_rewards_teach_nothing(tmp_path) -> None:
    # Criterion fixed beforehand: the mean task reward of the last three steps exceeds that of the first three by 0.1.
    stage = dataclasses.replace(STAGE, steps=14, rate=1e-3, prompts=3, group=8, loss=LossSettings(kl=0.0))
    learned, _ = train(tmp_path / "a", stage)

    chance = random.Random(0)  # noqa: S311 - a control, not a secret

    def noise(answer: str | None) -> Scored:
        del answer
        return Scored(chance.random())

    shuffled = [dataclasses.replace(problem(f"v{n}"), score=noise) for n in range(3)]
    _, unlearned = train(tmp_path / "b", stage, shuffled)

    def gain(metrics: Sequence[StepMetrics]) -> float:
        return sum(one.task for one in metrics[-3:]) / 3 - sum(one.task for one in metrics[:3]) / 3

    assert gain(learned) > 0.1
    # The control is judged by the same yardstick: what the policy taught by noise earns from the real reward.
    probe = dataclasses.replace(stage, name="probe", steps=1, group=16)
    before, _ = train(tmp_path / "c", probe)
    with nano_engine(32) as engine:
        policy = policy_of(engine)
        with torch.no_grad():
            for name, value in policy.model.named_parameters():
                value.copy_(unlearned[name])

        async def run() -> tuple[StepMetrics, ...]:
            try:
                problems = [problem(f"v{n}", score=first_digit) for n in range(3)]
                return await train_dgrpo(
                    policy, probe, problems, tools(), open_grey, tmp_path / "d", 1, lambda line: None
                )
            finally:
                await engine.close()

        (after,) = asyncio.run(run())
    assert after.task - before[0].task < gain(learned)


def test_groups_without_difference_are_left_out_or_counted(tmp_path) -> None:
    same = [dataclasses.replace(problem("v"), score=lambda answer: Scored(0.5))]
    stage = dataclasses.replace(STAGE, steps=1, prompts=1, loss=LossSettings(kl=0.0))
    (filtered,), weights = train(tmp_path / "a", stage, same)
    assert filtered.informative in (0.0, 1.0)
    if not filtered.informative:
        assert filtered.trained == 0
        with nano_engine() as engine:
            for name, value in engine._model.named_parameters():
                assert torch.equal(value, weights[name])
    (kept,), _ = train(tmp_path / "b", dataclasses.replace(stage, filtered=False), same)
    assert kept.trained == 4


def test_rollouts_lost_to_the_machine_are_not_trained_on(tmp_path) -> None:
    async def broken(video: str) -> Footage:
        if video == "v1.mp4":
            raise MediaError("unreadable", "broken")
        return await open_grey(video)

    problems = [problem(f"v{n}", score=first_digit) for n in range(2)]
    (one,), _ = train(tmp_path / "a", dataclasses.replace(STAGE, steps=1), problems, open_video=broken)
    assert (one.rollouts, one.failed) == (8, 4)
    with pytest.raises(VitalError, match="every rollout was lost to the machine"):
        train(tmp_path / "b", dataclasses.replace(STAGE, steps=1, prompts=1), problems[1:], open_video=broken)
    with pytest.raises(VitalError, match="no problems"), nano_engine() as engine:
        asyncio.run(train_dgrpo(policy_of(engine), STAGE, [], {}, open_grey, tmp_path, 0, print))


def test_the_last_one_of_a_group_is_not_trained_on(tmp_path: Path) -> None:
    opened = 0

    async def all_but_one_fail(video: str) -> Footage:
        nonlocal opened
        opened += 1
        if opened > 2:  # the first is the probe's
            raise MediaError("unreadable", "broken")
        return await open_grey(video)

    stage = dataclasses.replace(STAGE, steps=1, prompts=1, filtered=False, loss=LossSettings(kl=0.0))
    scored = [problem("v0", score=lambda answer: Scored(1.0))]
    (one,), weights = train(tmp_path, stage, scored, open_video=all_but_one_fail)
    assert (one.rollouts, one.failed, one.trained, one.informative) == (4, 3, 0, 0.0)
    with nano_engine() as engine:
        for name, value in engine._model.named_parameters():
            assert torch.equal(value, weights[name])


def test_a_loss_that_is_no_number_stops_before_the_weights_take_it(tmp_path) -> None:
    with nano_engine(32) as engine:
        policy = policy_of(engine)
        assert policy.reference is not None
        with torch.no_grad():
            next(policy.reference.parameters()).fill_(float("nan"))
        before = [value.detach().clone() for value in policy.model.parameters()]

        async def run() -> None:
            try:
                problems = [problem("v", score=first_digit)]
                stage = dataclasses.replace(STAGE, steps=1, filtered=False)
                await train_dgrpo(policy, stage, problems, tools(), open_grey, tmp_path, 1, lambda line: None)
            finally:
                await engine.close()

        with pytest.raises(VitalError, match=r"loss nan.*goes on from the last saved state"):
            asyncio.run(run())
        assert all(torch.equal(old, new) for old, new in zip(before, policy.model.parameters(), strict=True))


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), Sampling(temperature=1.0, repetition_penalty=1.05)])
def test_samplers_that_the_loss_does_not_model_are_refused(sampling) -> None:
    with pytest.raises(ValueError, match="needs temperature"):
        dataclasses.replace(STAGE, protocol=dataclasses.replace(STAGE.protocol, sampling=sampling))


def test_every_epoch_is_a_permutation_and_nothing_is_dropped() -> None:
    problems = [problem(f"v{n}") for n in range(7)]
    order = [one.sample.id for step in range(7) for one in draw(problems, 3, step, seed=4)]
    assert len(order) == 21
    for epoch in range(3):
        assert sorted(order[7 * epoch : 7 * epoch + 7]) == sorted(one.sample.id for one in problems)
    assert order[:7] != order[7:14]
    assert order[:3] == [one.sample.id for one in draw(problems, 3, 0, seed=4)]
    assert len(draw(problems, 20, 0, 4)) == 20


def test_a_problem_that_comes_twice_in_a_step_makes_two_groups(tmp_path) -> None:
    one = [problem("v", score=first_digit)]
    (metrics,), _ = train(tmp_path, dataclasses.replace(STAGE, steps=1, prompts=2), one)
    assert metrics.rollouts == 8


def test_a_stage_that_trains_on_nothing_says_so(tmp_path) -> None:
    told: list[str] = []
    # So cold that the rollouts of a group are one.
    stage = dataclasses.replace(STAGE, steps=1, protocol=protocol(Mode.DIRECT, temperature=1e-4, tokens=16))
    (one,), _ = train(tmp_path / "a", stage, [problem("v")], report=told.append)
    assert one.trained == 0
    assert f"trained 0/{one.rollouts} failed 0" in told[0]
    assert "trained on nothing in 1 steps" in told[-1]
    told.clear()
    train(tmp_path / "b", dataclasses.replace(STAGE, steps=1), report=told.append)
    assert len(told) == 1


def test_weights_in_another_type_are_refused(tmp_path) -> None:
    with nano_engine(32) as engine:
        policy = policy_of(engine)
        policy.model.to(torch.bfloat16)
        with pytest.raises(VitalError, match="are not float32"):
            asyncio.run(train_dgrpo(policy, STAGE, [problem("v")], tools(), open_grey, tmp_path, 0, print))
