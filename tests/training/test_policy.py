"""The engine that speaks and the model that is trained are one: told of every step, checked before the first."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from tests.training.nano_policy import nano_engine, open_grey, policy_of, problem, protocol, taste, tools
from vital_eval.engine import Engine, EngineInfo, GenerationRequest
from vital_eval.engines.hf import HFEngine
from vital_eval.episode import Footage
from vital_eval.errors import CheckpointError, MediaError, VitalError
from vital_eval.generation import FinishReason, Generation
from vital_eval.protocol import Mode
from vital_eval.training.collate import collate
from vital_eval.training.dgrpo import DgrpoStage, StepMetrics, attempt_of, train_dgrpo
from vital_eval.training.log_probs import Support, greedy_gaps, sampled_log_probs
from vital_eval.training.policy import Policy, WeightReceiver, require_agreement
from vital_eval.training.policy_loss import LossSettings
from vital_eval.training.rollouts import OpenVideo, roll_out

STAGE = DgrpoStage(
    name="toy",
    protocol=protocol(Mode.DIRECT, temperature=2.0, tokens=14),
    steps=2,
    rate=1e-3,
    prompts=2,
    group=4,
    filtered=False,
    loss=LossSettings(kl=0.01),
)


class Wrapped:
    """An engine around another one; what it does otherwise, its children say."""

    def __init__(self, engine: HFEngine) -> None:
        self.engine = engine
        self.received = 0

    @property
    def info(self) -> EngineInfo:
        """Return whoever is within."""
        return self.engine.info

    async def generate(self, request: GenerationRequest) -> Generation:
        """Have it write."""
        return await self.engine.generate(request)

    def release(self, episode: str) -> None:
        """Have it forget."""
        self.engine.release(episode)

    async def close(self) -> None:
        """Close it."""
        await self.engine.close()

    async def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Hand them on, and count."""
        self.received += 1
        await self.engine.load_weights(weights)


class Deaf(Wrapped):
    """Takes weights and does not use them."""

    async def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Count."""
        self.received += 1


class Hot(Wrapped):
    """Draws at three times the temperature that it is asked for."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """Ask for something else."""
        sampling = request.sampling
        hotter = dataclasses.replace(sampling, temperature=3 * sampling.temperature)
        return await self.engine.generate(dataclasses.replace(request, sampling=hotter))


class Parrot(Wrapped):
    """Says one word to the token limit."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """Say it."""
        said = await self.engine.generate(request)
        (word,) = self.engine.parts.tokenizer("red", add_special_tokens=False)["input_ids"][:1]
        ids = (word,) * request.sampling.max_new_tokens
        return dataclasses.replace(said, token_ids=ids, text="red", finish=FinishReason.LENGTH)


def train(
    folder: Path,
    speaker: Callable[[HFEngine, HFEngine], Engine],
    stage: DgrpoStage = STAGE,
    save_every: int = 10,
    tolerance: float = 0.5,
    saved: Callable[[Path], None] | None = None,
) -> tuple[tuple[StepMetrics, ...], dict[str, torch.Tensor]]:
    """Train a nano model while ``speaker`` of its engine and of another one, of the same checkpoint, speaks."""
    with nano_engine(32) as own, nano_engine(32) as other:
        policy = dataclasses.replace(policy_of(own), engine=speaker(own, other), tolerance=tolerance)

        async def run() -> tuple[StepMetrics, ...]:
            try:
                problems = [problem(f"v{number}", score=taste) for number in range(3)]
                return await train_dgrpo(
                    policy, stage, problems, tools(), open_grey, folder, 1, lambda line: None, save_every, saved=saved
                )
            finally:
                await own.close()
                await other.close()

        done = asyncio.run(run())
        return done, {name: value.detach().clone() for name, value in policy.model.named_parameters()}


def test_an_engine_with_weights_of_its_own_trains_the_same_once_it_is_told_of_every_step(tmp_path) -> None:
    inside, weights = train(tmp_path / "inside", lambda own, other: own)
    told: list[Wrapped] = []

    def outside(kind: type[Wrapped]) -> Callable[[HFEngine, HFEngine], Engine]:
        return lambda own, other: told.append(kind(other)) or told[-1]

    synced, same = train(tmp_path / "synced", outside(Wrapped))
    assert told[0].received == 1 + STAGE.steps
    assert all(torch.equal(same[name], weights[name]) for name in weights)
    assert [one.reward for one in synced] == [one.reward for one in inside]
    # The control: it hears nothing, and what is trained is another policy.
    assert inside[0].gradient > 0
    stale, other = train(tmp_path / "stale", outside(Deaf))
    assert stale[0].reward == inside[0].reward
    assert max(float((other[name] - weights[name]).abs().max()) for name in weights) > 1e-4


def test_a_resumed_stage_tells_the_engine_the_saved_weights(tmp_path) -> None:
    _, weights = train(tmp_path / "whole", lambda own, other: Wrapped(other))
    train(tmp_path / "parts", lambda own, other: Wrapped(other), dataclasses.replace(STAGE, steps=1))
    _, resumed = train(tmp_path / "parts", lambda own, other: Wrapped(other))
    for name, value in weights.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-7)


def test_an_engine_that_cannot_be_told_is_refused(tmp_path) -> None:
    class Mute:
        """An engine as a plugin may offer it."""

        def __init__(self, engine: HFEngine) -> None:
            self.info, self.generate = engine.info, engine.generate
            self.release, self.close = engine.release, engine.close

    with pytest.raises(VitalError, match="cannot be given new weights"):
        train(tmp_path, lambda own, other: Mute(other))
    assert issubclass(HFEngine, WeightReceiver)


def agreement(change: Callable[[Policy], Policy], open_video: OpenVideo = open_grey, count: int = 1) -> float | None:
    with nano_engine() as engine:
        policy = change(policy_of(engine))

        async def run() -> float | None:
            try:
                attempts = [
                    attempt_of(problem(f"v{number}"), protocol(Mode.TOOL), tools(), 0) for number in range(count)
                ]
                return await require_agreement(policy, attempts, open_video)
            finally:
                await engine.close()

        return asyncio.run(run())


def test_engine_and_model_agree_and_a_model_with_other_weights_is_found_out() -> None:
    found = agreement(lambda policy: policy)
    assert found is not None
    assert found < 1e-4

    def shaken(policy: Policy) -> Policy:
        model = copy.deepcopy(policy.model)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in model.parameters():
                value += 0.3 * value.std() * torch.randn(value.shape, generator=generator)
        return dataclasses.replace(policy, model=model)

    with pytest.raises(VitalError, match=r"disagree: a token that the engine chose lies .* nats behind"):
        agreement(shaken)

    def broken(policy: Policy) -> Policy:
        model = copy.deepcopy(policy.model)
        with torch.no_grad():
            next(model.parameters()).fill_(math.nan)
        return dataclasses.replace(policy, model=model)

    with pytest.raises(VitalError, match="nan nats"):
        agreement(broken)


def test_attempts_that_are_lost_to_the_machine_prove_nothing() -> None:
    async def missing(video: str) -> Footage:
        if video != "v1.mp4":
            raise MediaError("missing", f"{video} is not there")
        return await open_grey(video)

    assert agreement(lambda policy: policy, missing) is None
    found = agreement(lambda policy: policy, missing, count=2)
    assert found is not None
    assert found < 1e-4


def test_weights_that_do_not_fit_change_nothing_and_those_that_do_change_what_is_said() -> None:
    with nano_engine() as engine:
        model = engine.parts.model
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        name = next(iter(before))
        good = {one: value + 1 for one, value in before.items()}

        async def run() -> None:
            try:
                for bad, why in (({"nowhere": before[name]}, "no such tensor"), ({name: torch.zeros(1)}, "has shape")):
                    with pytest.raises(CheckpointError, match=why):
                        await engine.load_weights({**good, **bad})
                    assert all(torch.equal(value, before[one]) for one, value in model.named_parameters())
                await engine.load_weights({name: good[name].to(torch.bfloat16)})
            finally:
                await engine.close()

        asyncio.run(run())
        now = dict(model.named_parameters())
        torch.testing.assert_close(now[name].detach(), good[name], rtol=1e-2, atol=0)
        assert all(torch.equal(now[one], before[one]) for one in before if one != name)


def test_keys_and_values_of_old_weights_are_forgotten() -> None:
    attempt = attempt_of(problem("v"), protocol(Mode.TOOL), tools(), 0)

    class Late(Wrapped):
        """Is told of weights in the middle of every episode; nothing is in the caches of old weights then."""

        async def generate(self, request: GenerationRequest) -> Generation:
            said = await self.engine.generate(request)
            assert not request.expect_more or self.engine._prefixes._entries
            await self.engine.load_weights(dict(self.engine.parts.model.named_parameters()))
            assert not self.engine._prefixes._entries
            return said

    with nano_engine() as engine:

        async def run() -> None:
            try:
                (rollout,) = await roll_out([attempt], Late(engine), open_grey)
                assert len(rollout.trajectory.turns) > 1
                assert rollout.trajectory.turns[1].cached_tokens == 0
            finally:
                await engine.close()

        asyncio.run(run())


def test_surprise_is_small_in_process_and_tells_of_another_temperature(tmp_path) -> None:
    stage = dataclasses.replace(
        STAGE, steps=1, group=12, protocol=protocol(Mode.DIRECT, temperature=1.0, tokens=14), loss=LossSettings(kl=0.0)
    )
    (honest,), _ = train(tmp_path / "a", lambda own, other: own, stage)
    (hot,), _ = train(tmp_path / "b", lambda own, other: Hot(own), stage)
    # About 140 tokens: the standard error is 0.06 nats.
    assert abs(honest.loss.surprise) < 0.3
    assert hot.loss.surprise > 1


def test_a_policy_that_repeats_itself_stops_the_stage_and_the_state_is_kept(tmp_path) -> None:
    stage = dataclasses.replace(STAGE, steps=6, loop_steps=4)

    def parrot(own: HFEngine, other: HFEngine) -> Engine:
        return Parrot(own)

    drawn: list[str] = []
    for _ in range(2):
        # Started again it stops at the same step: what the log says counts.
        with pytest.raises(VitalError, match="steps 1 to 4 more than 50%"):
            train(tmp_path, parrot, stage, save_every=3, tolerance=math.inf, saved=lambda log: drawn.append(log.name))
        assert [json.loads(line)["step"] for line in (tmp_path / "toy.jsonl").read_text().splitlines()] == [0, 1, 2, 3]
        assert (tmp_path / "toy.safetensors").is_file()
    assert drawn == ["toy.jsonl"]
    allowed = dataclasses.replace(stage, loop_limit=1.0)
    done, _ = train(tmp_path, parrot, allowed, save_every=3, tolerance=math.inf)
    assert [one.step for one in done] == [3, 4, 5]
    assert all(one.truncated == one.looping == 1.0 for one in done)
    assert done[0].repeated == pytest.approx(1 - 1 / 11)


def test_a_forward_pass_in_bfloat16_is_close_and_has_finite_gradients(tmp_path) -> None:
    with nano_engine() as engine:
        policy = policy_of(engine)

        async def play() -> list:
            try:
                attempts = [attempt_of(problem("v"), protocol(Mode.TOOL), tools(), number) for number in range(4)]
                return list(await roll_out(attempts, engine, open_grey))
            finally:
                await engine.close()

        encoded = [policy.encoder.encode(one.conversation, open_turn=False) for one in asyncio.run(play())]
        batch, support = collate(encoded, policy.pad_id), Support(1.0, policy.banned_ids)
        full = sampled_log_probs(policy.model, batch, support)
        half = sampled_log_probs(policy.model, batch, support, halved=True)
        assert full.values.dtype == half.values.dtype == torch.float32
        gap = (full.values - half.values).detach()[full.mask].abs()
        assert float(gap.max()) > 0, "otherwise nothing was computed in bfloat16"
        assert float(gap.mean()) < 0.02
        assert float(gap.max()) < 0.3
        torch.testing.assert_close(full.entropy, half.entropy, rtol=0, atol=0.3)
        assert float(greedy_gaps(policy.model, batch, support).min()) >= 0

        def gradients(found: torch.Tensor) -> torch.Tensor:
            policy.model.zero_grad(set_to_none=True)
            found.sum().backward()
            values = [value.grad for value in policy.model.parameters() if value.grad is not None]
            assert all(value.dtype == torch.float32 for value in values)
            return torch.cat([value.flatten() for value in values])

        one, other = gradients(full.values), gradients(half.values)
        assert bool(torch.isfinite(other).all())
        assert float(torch.nn.functional.cosine_similarity(one, other, dim=0)) > 0.99


def test_the_type_of_the_forward_pass_is_float32_on_a_cpu_unless_asked_for(tmp_path) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [STAGE.halved(cpu), STAGE.halved(gpu)] == [False, True]
    halved = dataclasses.replace(STAGE, dtype="bfloat16", steps=1)
    assert halved.halved(cpu)
    assert not dataclasses.replace(STAGE, dtype="float32").halved(gpu)
    with pytest.raises(ValueError, match="none of auto"):
        dataclasses.replace(STAGE, dtype="float16")
    with pytest.raises(ValueError, match="loop_limit"):
        dataclasses.replace(STAGE, loop_limit=1.5)
    plain = dataclasses.replace(STAGE, steps=1)
    (auto,), weights = train(tmp_path / "auto", lambda own, other: own, plain)
    (full,), same = train(tmp_path / "full", lambda own, other: own, dataclasses.replace(plain, dtype="float32"))
    (half,), moved = train(tmp_path / "half", lambda own, other: own, halved)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert auto.loss == full.loss
    # The same rollouts, a slightly other loss; policy and reference are computed alike, so there is no KL yet.
    assert (half.reward, half.loss.kl) == (full.reward, pytest.approx(0.0, abs=1e-9))
    assert half.gradient == pytest.approx(full.gradient, rel=0.1)
    assert half.gradient != full.gradient
    assert all(value.dtype == torch.float32 and bool(torch.isfinite(value).all()) for value in moved.values())
