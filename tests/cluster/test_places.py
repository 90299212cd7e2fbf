"""How many workers fit where."""

from __future__ import annotations

import pytest

from tests.cluster.pretence import node
from vital_eval.cluster.places import Needs, default_gpus, places, room, share


@pytest.mark.parametrize(
    ("cpus", "gpus", "needs", "fit"),
    [
        (8, 0, Needs(3, 0), 2),
        (8, 4, Needs(3, 1), 2),
        (64, 4, Needs(3, 1), 4),
        (64, 4, Needs(3, 2), 2),
        (64, 4, Needs(1, 0.5), 8),
        (2, 0, Needs(3, 0), 0),
        (64, 0, Needs(3, 1), 0),
    ],
)
def test_both_cpus_and_gpus_must_do(cpus: float, gpus: float, needs: Needs, fit: int) -> None:
    assert room(node("a", cpus, gpus), needs) == fit


def test_every_node_gets_a_worker_before_any_gets_two() -> None:
    found = places([node("a", 2), node("b", 0), node("c", 3)], Needs(1, 0))
    assert [(place.node.name, place.index) for place in found] == [("a", 0), ("c", 0), ("a", 1), ("c", 1), ("c", 2)]
    assert str(found[2]) == "worker 2 on a"


def test_gpus_are_used_where_there_are_any() -> None:
    assert default_gpus([node("head", 8), node("a", 8, 4)]) == 1
    assert default_gpus([node("head", 8)]) == 0


@pytest.mark.parametrize(
    ("cpus", "gpus", "needs", "workers", "fit"),
    [
        (2, 0, Needs(3, 0), None, 1),
        (2, 0, Needs(3, 0), 4, 4),
        (16, 8, Needs(3, 1), None, 8),
        (16, 8, Needs(3, 2), None, 4),
        (64, 2, Needs(3, 1), None, 2),
        (10, 0, Needs(3, 0), 4, 4),
    ],
)
def test_a_machine_of_our_own_takes_as_many_as_are_wanted(
    cpus: float, gpus: float, needs: Needs, workers: int | None, fit: int
) -> None:
    machine = node("a", cpus, gpus)
    shared = share(machine, needs, workers)
    assert room(machine, shared) >= fit
    assert shared.cpus <= needs.cpus
    assert shared.cpus < 1 or shared.cpus == int(shared.cpus), "Ray refuses 1.5 CPUs"
