"""A reinforcement stage of two steps; the test trains it in one process and has torchrun call ``main`` in two."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from tests.training.nano_policy import open_grey, problem, protocol, taste, tools
from vital_eval.engines.hf import load_engine
from vital_eval.protocol import Mode
from vital_eval.training.dgrpo import DgrpoStage, StepMetrics, train_dgrpo
from vital_eval.training.policy import Policy
from vital_eval.training.policy_loss import LossSettings
from vital_eval.training.processes import Processes, joined

STAGE = DgrpoStage(
    name="toy",
    protocol=protocol(Mode.DIRECT, temperature=2.0, tokens=12),
    steps=2,
    rate=1e-4,
    prompts=3,
    group=3,
    filtered=False,
    loss=LossSettings(kl=0.01),
)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a process ended with."""

    weights: dict[str, np.ndarray]
    metrics: tuple[StepMetrics, ...]


def train(folder: Path, processes: Processes, steps: int = STAGE.steps) -> Outcome:
    """Train the stage, or go on with it."""
    with as_file(files("vital_eval.nano") / "checkpoint") as checkpoint:
        # Adam divides by the size of the gradient: where it is 0 but for rounding, float32 would step by chance.
        engine = load_engine(checkpoint, "cpu", "float64", 32)
    parts = engine.parts
    vocabulary = parts.vocabulary
    reference = copy.deepcopy(parts.model).eval()
    policy = Policy(parts.model, reference, parts.encoder, engine, vocabulary.pad_id, vocabulary.banned_ids)

    async def run() -> tuple[StepMetrics, ...]:
        try:
            problems = [problem(f"v{number}", score=taste) for number in range(4)]
            stage = dataclasses.replace(STAGE, steps=steps)
            return await train_dgrpo(
                policy, stage, problems, tools(), open_grey, folder, 1, lambda line: None, 1, processes
            )
        finally:
            await engine.close()

    metrics = asyncio.run(run())
    weights = {name: value.detach().numpy().copy() for name, value in parts.model.named_parameters()}
    return Outcome(weights, metrics)


def main(folder: Path) -> None:
    """Train undisturbed and interrupted, and write what this process ended with."""
    with joined("cpu") as processes:
        whole = train(folder / "whole", processes)
        train(folder / "resumed", processes, steps=1)
        resumed = train(folder / "resumed", processes)
    for name, outcome in (("whole", whole), ("resumed", resumed)):
        np.savez(folder / f"{name}-{processes.rank}.npz", **outcome.weights)
        told = [dataclasses.asdict(one) for one in outcome.metrics]
        (folder / f"{name}-{processes.rank}.json").write_text(json.dumps(told), encoding="utf-8")
