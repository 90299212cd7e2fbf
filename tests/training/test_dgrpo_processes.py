"""A reinforcement stage in two processes is that of one, interrupted or not: same rollouts, same weights, same log."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.dgrpo_worker import STAGE, Outcome, train
from tests.training.launch import require_work
from vital_eval.training.processes import Processes


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return require_work("dgrpo_worker", tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train(tmp_path_factory.mktemp("single"), Processes())


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", ["whole", "resumed"])
def test_two_processes_train_the_stage_of_one(pair: Path, single: Outcome, case: str, rank: int) -> None:
    weights = np.load(pair / f"{case}-{rank}.npz")
    assert max(float(np.abs(weights[name] - value).max()) for name, value in single.weights.items()) < 1e-6
    told = json.loads((pair / f"{case}-{rank}.json").read_text())
    wanted = [dataclasses.asdict(one) for one in single.metrics][-len(told) :]
    assert len(told) == (STAGE.steps if case == "whole" else STAGE.steps - 1)
    for one, other in zip(told, wanted, strict=True):
        for name in set(one) - {"seconds", "loss"}:
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    # One process writes the log, every step of it once.
    lines = (pair / case / "toy.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(STAGE.steps))


def test_the_stage_moves_the_weights(single: Outcome) -> None:
    assert all(one.gradient > 0 for one in single.metrics)
    assert single.metrics[0].rollouts == STAGE.prompts * STAGE.group
