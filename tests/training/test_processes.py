"""A step spread over processes is the step of one process: same gradient, same weights, same metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.launch import require_work
from tests.training.process_worker import Outcome, play
from vital_eval.errors import VitalError
from vital_eval.training.policy_loss import LossMetrics, Normaliser
from vital_eval.training.processes import Processes, joined

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pair:
    """What the two processes left behind."""

    folder: Path

    def told(self, rank: int) -> dict[str, object]:
        """Return what a process said."""
        return json.loads((self.folder / f"{rank}.json").read_text())

    def tensors(self, kind: str, case: str, rank: int) -> Tensors:
        """Return ``weights`` or ``gradients`` of a process."""
        return dict(np.load(self.folder / f"{case}-{rank}-{kind}.npz"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(require_work("process_worker", tmp_path_factory.mktemp("pair")))


@pytest.fixture(scope="module")
def single() -> dict[str, Outcome]:
    whole = play(Processes())
    cases = dict.fromkeys(("all", "sharded", "resumed", "resumed-sharded"), whole)
    return cases | {"one-group": play(Processes(), only="b")}


def furthest(one: Tensors, other: Tensors) -> float:
    assert set(one) == set(other)
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.mark.parametrize("case", ["all", "one-group", "sharded", "resumed", "resumed-sharded"])
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_take_the_step_of_one(pair, single, case: str, rank: int) -> None:
    # In "one-group" process 1 has nothing to do; in "all" only process 0 sees videos; in "sharded"
    # each keeps a part of the moments, and a new optimiser goes on with them. In "resumed" new weights and
    # moments come from the saved state.
    assert furthest(single[case].gradients, pair.tensors("gradients", case, rank)) < 1e-6
    assert furthest(single[case].weights, pair.tensors("weights", case, rank)) < 1e-6
    assert pair.told(rank)["loss"][case] == pytest.approx([one.loss for one in single[case].metrics], abs=1e-6)


def test_a_state_is_the_same_file_however_the_moments_were_kept(pair) -> None:
    plain, sharded = (load_file(pair.folder / f"{name}.safetensors") for name in ("plain", "sharded"))
    assert set(plain) == set(sharded)
    assert any(name.endswith(".exp_avg_sq") for name in plain)
    for name, value in plain.items():
        torch.testing.assert_close(sharded[name], value, rtol=0, atol=1e-9)


def test_the_steps_move_the_weights_and_what_is_used_nowhere_has_no_gradient(pair, single) -> None:
    assert furthest(single["all"].weights, single["one-group"].weights) > 1e-4
    seeing = {name for name in single["all"].gradients if "visual" in name}
    assert seeing
    assert not seeing & set(single["one-group"].gradients)
    assert seeing <= set(pair.tensors("gradients", "all", 1))


def test_control_processes_that_divide_by_their_own_tokens_differ(pair, single) -> None:
    assert furthest(single["all"].gradients, pair.tensors("gradients", "own", 0)) > 1e-3
    assert furthest(single["all"].weights, pair.tensors("weights", "own", 0)) > 1e-5


def test_a_split_group_and_different_steps_are_refused_in_every_process(pair) -> None:
    for rank in (0, 1):
        told = pair.told(rank)
        assert told["groups"] == "group 'a' is split over processes 0 and 1; share out problems"
        assert "process 1 has step 10, process 0 has 0" in told["same"]


def test_what_is_exchanged(pair) -> None:
    assert [pair.told(rank)["share"] for rank in (0, 1)] == [[0, 2, 4], [1, 3]]
    for rank in (0, 1):
        told = pair.told(rank)
        assert told["gathered"] == [0, 1, 1]
        assert told["sum"] == pytest.approx([2.0, 1.2])
        assert told["nothing"] is True
        assert told["written"] is True


def test_one_process_speaks_to_nobody() -> None:
    with joined("cpu") as alone:
        assert alone == Processes(0, 1)
        assert not torch.distributed.is_initialized()
    assert alone.first
    assert alone.share("abc") == ("a", "b", "c")
    assert alone.gather([1, 2]) == (1, 2)
    assert alone.sum((1.5,)) == (1.5,)
    assert alone.whole(7, 2) == Normaliser(7, 2)
    assert alone.whole(0, 2) is None
    assert alone.summed([]) == LossMetrics(*[0] * 10)
    alone.require_whole_groups(["a", "a", "b"])
    alone.require_same(3, "step")
    alone.barrier()
    weight = torch.nn.Parameter(torch.ones(2))
    alone.add_gradients([weight])
    assert weight.grad is None


def test_shares_are_whole_and_leave_nothing_out() -> None:
    for world in (1, 2, 3, 8):
        shares = [Processes(rank, world).share(range(7)) for rank in range(world)]
        assert sorted(item for share in shares for item in share) == list(range(7))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(ValueError, match="no process 2 among 2"):
        Processes(2, 2)


def test_half_a_launch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(VitalError, match="RANK"), joined("cpu"):
        pass
