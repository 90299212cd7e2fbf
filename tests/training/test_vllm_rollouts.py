"""DGRPO whose rollouts vLLM plays: the rollouts of every step are spoken with the weights of that step."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: tox -e vllm")

from tests.training.nano_policy import nano_engine, open_grey, policy_of, problem, protocol, taste, tools
from vital_eval.engine import EngineInfo, GenerationRequest
from vital_eval.engines.hf import HFEngine
from vital_eval.engines.vllm import VllmEngine, VllmOptions, load_engine
from vital_eval.errors import VitalError
from vital_eval.generation import Generation
from vital_eval.protocol import Mode
from vital_eval.training.dgrpo import DgrpoStage, StepMetrics, attempt_of, train_dgrpo
from vital_eval.training.policy import require_agreement
from vital_eval.training.policy_loss import LossSettings

#: Steps so large that the model says something else after each.
STAGE = DgrpoStage(
    name="toy",
    protocol=protocol(Mode.TOOL, temperature=1.0, tokens=24),
    steps=3,
    rate=3e-3,
    prompts=2,
    group=4,
    filtered=False,
    loss=LossSettings(kl=0.01),
)


class Watched:
    """vLLM, asked for every turn of a rollout what it would say greedily; so is the model that is trained."""

    def __init__(self, engine: VllmEngine, model: HFEngine, *, told: bool) -> None:
        self._engine, self._model, self._told = engine, model, told
        self.step = -1
        #: Step, what vLLM says, what the model says.
        self.said: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []

    @property
    def info(self) -> EngineInfo:
        """Return vLLM's."""
        return self._engine.info

    async def generate(self, request: GenerationRequest) -> Generation:
        """Have both say it greedily, and vLLM as it was asked."""
        greedy = dataclasses.replace(request.sampling, temperature=0.0)
        plain = dataclasses.replace(request, sampling=greedy, episode=f"{request.episode} greedily", expect_more=False)
        theirs, own = await self._engine.generate(plain), await self._model.generate(plain)
        self.said.append((self.step, theirs.token_ids, own.token_ids))
        return await self._engine.generate(request)

    def release(self, episode: str) -> None:
        """Have it forget."""
        self._engine.release(episode)

    async def close(self) -> None:
        """Leave it open."""

    async def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Hand them on, in the control only the first."""
        self.step += 1
        if self._told or self.step == 0:
            await self._engine.load_weights(weights)


@pytest.fixture(scope="module")
def vllm() -> Iterator[VllmEngine]:
    with as_file(files("vital_eval.nano") / "checkpoint") as folder:
        engine = load_engine(folder, "cpu", "float32", 32, VllmOptions(kv_cache_gib=0.25, enforce_eager=True))
    yield engine
    asyncio.run(engine.close())


def train(vllm: VllmEngine, folder: Path, *, told: bool) -> tuple[Watched, tuple[StepMetrics, ...], float]:
    """Train, and return what was said, the metrics, and how far vLLM lies behind the model at the end, in nats."""
    with nano_engine(32) as own:
        watched = Watched(vllm, own, told=told)
        policy = dataclasses.replace(policy_of(own), engine=watched)

        async def run() -> tuple[tuple[StepMetrics, ...], float]:
            try:
                problems = [problem(f"v{number}", score=taste) for number in range(3)]
                done = await train_dgrpo(
                    policy, STAGE, problems, tools(), open_grey, folder, 1, lambda line: None, save_every=1
                )
                probes = [attempt_of(one, STAGE.protocol, tools(), 0) for one in problems]
                gap = await require_agreement(dataclasses.replace(policy, tolerance=torch.inf), probes, open_grey)
                assert gap is not None
                return done, gap
            finally:
                await own.close()

        return watched, *asyncio.run(run())


def test_rollouts_of_a_step_are_spoken_with_its_weights(vllm: VllmEngine, tmp_path: Path) -> None:
    watched, done, gap = train(vllm, tmp_path / "told", told=True)
    assert [one.step for one in done] == [0, 1, 2]
    assert all(one.trained == one.rollouts == 8 for one in done)
    assert all(one.gradient > 0 for one in done)
    # The last is the comparison behind the last step.
    assert {step for step, _, _ in watched.said} == {0, 1, 2, 3}
    for step, theirs, own in watched.said:
        assert theirs == own, step
    assert gap < 1e-3
    # The control: vLLM keeps the weights of the first step, and is found out at the second.
    stale, _, far = train(vllm, tmp_path / "stale", told=False)
    assert all(theirs == own for step, theirs, own in stale.said if step == 0)
    assert any(theirs != own for step, theirs, own in stale.said if step > 0)
    assert far > 0.1


def test_a_stage_goes_on_with_the_saved_weights(vllm: VllmEngine, tmp_path: Path) -> None:
    class StoppedHereError(Exception):
        """Ends training in the middle."""

    def stop(log: Path) -> None:
        raise StoppedHereError

    with nano_engine(32) as own:
        policy = dataclasses.replace(policy_of(own), engine=vllm)
        problems = [problem(f"v{number}", score=taste) for number in range(3)]
        common = (policy, STAGE, problems, tools(), open_grey, tmp_path, 1, lambda line: None, 1)

        async def half() -> None:
            with pytest.raises(StoppedHereError):
                await train_dgrpo(*common, saved=stop)
            await own.close()

        asyncio.run(half())
    with nano_engine(32) as own:
        watched = Watched(vllm, own, told=True)
        policy = dataclasses.replace(policy_of(own), engine=watched)

        async def rest() -> tuple[StepMetrics, ...]:
            done = await train_dgrpo(policy, STAGE, problems, tools(), open_grey, tmp_path, 1, lambda line: None)
            await own.close()
            return done

        assert [one.step for one in asyncio.run(rest())] == [1, 2]
        assert all(theirs == mine for _, theirs, mine in watched.said)


def test_a_model_that_vllm_does_not_have_is_refused_before_the_first_step(vllm: VllmEngine, tmp_path: Path) -> None:
    with nano_engine(32) as own:
        policy = dataclasses.replace(policy_of(own), engine=vllm)
        model = policy.model
        # A module that vLLM's copy has not: it is given all weights but hears of one it does not know.
        model.register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))

        async def run() -> None:
            try:
                with pytest.raises(VitalError, match="extra"):
                    await train_dgrpo(policy, STAGE, [problem("v")], tools(), open_grey, tmp_path, 1, lambda line: None)
            finally:
                await own.close()

        asyncio.run(run())
        assert not list(tmp_path.glob("*.safetensors"))
