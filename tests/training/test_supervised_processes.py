"""A supervised stage in two processes is that of one: same lessons, same steps, same weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.training.launch import require_work, work
from tests.training.lessons import distance
from tests.training.nano_policy import nano_engine
from tests.training.supervised_worker import CASES, RECORDS, Outcome, taught, train
from vital_eval.engines.background_loop import BackgroundLoop
from vital_eval.training.processes import Processes
from vital_eval.training.supervised import Lessons


@dataclass(frozen=True)
class Pair:
    """What two processes left behind."""

    folder: Path

    def told(self, rank: int) -> dict[str, object]:
        """Return what a process said."""
        return json.loads((self.folder / f"{rank}.json").read_text())

    def weights(self, case: str, rank: int) -> dict[str, np.ndarray]:
        """Return the weights that a process ended with."""
        return dict(np.load(self.folder / f"{case}-{rank}.npz"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(require_work("supervised_worker", tmp_path_factory.mktemp("pair")))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lessons, dict[str, Outcome]]:
    folder = tmp_path_factory.mktemp("single")
    with nano_engine() as engine, BackgroundLoop("test") as background:
        lessons, opened = taught(engine, background, Processes(), kept_bytes=2**30)
        assert sorted(opened) == sorted(record.media.path for record in RECORDS if record.id != "wrong")
        return lessons, {
            name: train(engine, lessons, folder / name, batch, Processes()) for name, batch in CASES.items()
        }


def base() -> dict[str, np.ndarray]:
    """Return the weights that training starts from."""
    with nano_engine() as engine:
        return {name: value.detach().numpy() for name, value in engine._model.named_parameters()}


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_take_the_steps_of_one(pair, single, case: str, rank: int) -> None:
    # In "one" a step has a single lesson, so that a process has nothing to do but to add up.
    _, outcomes = single
    moved = distance(outcomes[case].weights, base())
    assert distance(outcomes[case].weights, pair.weights(case, rank)) < 1e-3 * moved
    found = np.array(pair.told(rank)["metrics"][case])
    expected = np.array([(one.loss, one.gradient, one.tokens) for one in outcomes[case].metrics])
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_each_process_keeps_the_moments_of_its_share(pair, single) -> None:
    _, outcomes = single
    whole = outcomes["odd"].moments
    parts = [pair.told(rank)["moments"]["odd"] for rank in (0, 1)]
    assert sum(parts) == whole
    assert max(parts) < 0.7 * whole


def test_a_stage_killed_in_two_processes_goes_on_in_two_and_in_one(single, tmp_path: Path) -> None:
    lessons, outcomes = single
    wanted = outcomes["odd"].weights
    moved = distance(wanted, base())
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    done = work("supervised_worker", two, "interrupted")
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    # Three steps were taken, and the state is that of the second.
    assert len((two / "taught.jsonl").read_text().splitlines()) == 3
    assert not list(two.glob("*.npz"))
    shutil.copytree(two, one)
    done = work("supervised_worker", two, "interrupted")
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        assert distance(wanted, dict(np.load(two / f"odd-{rank}.npz"))) < 1e-3 * moved
    with nano_engine() as engine:
        alone = train(engine, lessons, one, CASES["odd"], Processes())
    assert [metrics.step for metrics in alone.metrics] == [2, 3]
    assert distance(wanted, alone.weights) < 1e-3 * moved
    for folder in (one, two):
        lines = (folder / "taught.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]


def test_control_processes_that_add_nothing_up_part_ways(pair, single) -> None:
    _, outcomes = single
    alone = [pair.weights("silent", rank) for rank in (0, 1)]
    moved = distance(outcomes["odd"].weights, base())
    assert distance(*alone) > 0.1 * moved
    assert distance(outcomes["odd"].weights, alone[0]) > 0.1 * moved


def test_records_are_played_once_among_them_and_all_get_the_lessons(pair, single) -> None:
    lessons, _ = single
    kept = [[lesson.id, lesson.length, lesson.trained_tokens, lesson.nbytes] for lesson in lessons.kept]
    opened = []
    for rank in (0, 1):
        told = pair.told(rank)
        assert told["kept"] == kept
        assert told["dropped"] == lessons.summary()
        opened += told["opened"]
    assert sorted(opened) == sorted(record.media.path for record in RECORDS if record.id != "wrong")


def test_a_loss_that_is_no_number_in_one_ends_all(pair) -> None:
    messages = {pair.told(rank)["spoiled"] for rank in (0, 1)}
    assert len(messages) == 1
    assert "the loss is nan in lessons" in messages.pop()


def test_the_first_goes_before_the_others_and_barriers_wait_for_it(pair) -> None:
    assert [pair.told(rank)["found"] for rank in (0, 1)] == [False, True]
    # The control: a barrier of a group with a time limit ends one that waits longer.
    assert pair.told(1)["through"] == [True, False]
