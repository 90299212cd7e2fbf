"""A supervised stage in two processes is that of one: same lessons, same steps, same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.training.lessons import distance
from tests.training.nano_policy import nano_engine
from tests.training.supervised_worker import CASES, RECORDS, Outcome, taught, train
from vital_eval.training.background import BackgroundLoop
from vital_eval.training.processes import Processes
from vital_eval.training.supervised import Lessons

#: The tests' folder comes last, so that the installed package is what is imported.
_WORKER = """
import sys
sys.path.append(sys.argv[1])
from pathlib import Path
from tests.training.supervised_worker import main
main(Path(sys.argv[2]))
"""


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
    folder = tmp_path_factory.mktemp("pair")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command += [sys.executable, "-P", "-c", _WORKER, str(Path(__file__).parents[2]), str(folder)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Pair(folder)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lessons, dict[str, Outcome]]:
    folder = tmp_path_factory.mktemp("single")
    with nano_engine() as engine, BackgroundLoop() as background:
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
