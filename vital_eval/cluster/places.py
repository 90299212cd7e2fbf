"""Where workers fit: the nodes of a cluster and what one worker takes of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from vital_eval.errors import VitalError


class ClusterError(VitalError):
    """A cluster that cannot be reached, offers nothing to work on, or loses worker after worker."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of a cluster, alive.

    Attributes:
        id: unique; a machine that comes back has a new one.
        name: address or host name, for messages.
        cpus: that the cluster may hand out.
        gpus: likewise.
    """

    id: str
    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Needs:
    """What one worker takes of its node.

    Attributes:
        cpus: above 0.
        gpus: 0 for an engine without.
    """

    cpus: float
    gpus: float

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.cpus:g} CPU{'s' * (self.cpus != 1)} and {self.gpus:g} GPU{'s' * (self.gpus != 1)}"


@dataclass(frozen=True, slots=True)
class Place:
    """Room for one worker.

    Attributes:
        node: where.
        index: which of the node's, from 0.
    """

    node: Node
    index: int

    def __str__(self) -> str:
        """Return it in words."""
        return f"worker {self.index + 1} on {self.node.name}"


def room(node: Node, needs: Needs) -> int:
    """Return how many workers fit on a node."""
    by_cpu = math.floor(node.cpus / needs.cpus)
    return min(by_cpu, math.floor(node.gpus / needs.gpus)) if needs.gpus else by_cpu


def places(nodes: Sequence[Node], needs: Needs) -> tuple[Place, ...]:
    """Return every place, the first of each node before the second of any."""
    counts = {node: room(node, needs) for node in nodes}
    most = max(counts.values(), default=0)
    return tuple(Place(node, index) for index in range(most) for node in nodes if index < counts[node])


def default_gpus(nodes: Sequence[Node]) -> float:
    """Return the GPUs of a worker where nothing was said: one if the cluster has any."""
    return 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0


def share(node: Node, needs: Needs, workers: int | None) -> Needs:
    """Fit workers on a machine that is all ours: CPUs are a matter of bookkeeping there and refuse nobody.

    Args:
        node: the machine.
        needs: what a worker would take.
        workers: how many are wanted; ``None``: one for every ``needs.gpus`` GPUs, without GPUs as many as fit.

    Returns:
        ``needs`` with no more CPUs than each worker's part.
    """
    wanted = workers or (math.floor(node.gpus / needs.gpus) if needs.gpus else 1)
    part = node.cpus / max(1, wanted)
    # Ray counts above one in whole numbers.
    return dataclasses.replace(needs, cpus=min(needs.cpus, math.floor(part) if part >= 1 else part))
