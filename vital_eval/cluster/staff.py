"""What the driver sees of a cluster: machines, and workers that can be spoken to until they are lost."""

from __future__ import annotations

from typing import Protocol

from vital_eval.cluster.places import Node, Place
from vital_eval.cluster.worker import Trouble
from vital_eval.engine import EngineInfo
from vital_eval.record import Key, Record


class WorkerLostError(Exception):
    """A worker, or its node, is gone.

    Args:
        cause: what is known.
        records: how many came from it before.
    """

    def __init__(self, cause: str, records: int = 0) -> None:
        super().__init__(cause)
        self.records = records


class Worker(Protocol):
    """A worker somewhere in a cluster; see :class:`vital_eval.cluster.worker.EpisodeWorker`.

    Whatever waits for its word gets a :class:`WorkerLostError` when the worker is gone.
    """

    async def versions(self) -> dict[str, str] | Trouble:
        """Return what must be the same everywhere; the first sign of life."""
        ...

    async def start(self) -> EngineInfo | Trouble:
        """Check the node's files and load the engine."""
        ...

    def give(self, keys: tuple[Key, ...]) -> None:
        """Hand over episodes that look at the same video."""
        ...

    async def record(self, key: Key) -> Record | Trouble:
        """Wait for the record of an episode that was given."""
        ...

    async def end(self) -> None:
        """Have it free everything, then end it for certain; never raises."""
        ...


class Cluster(Protocol):
    """Machines that workers can be started on."""

    async def nodes(self) -> tuple[Node, ...]:
        """Return the machines that are alive."""
        ...

    def hire(self, place: Place) -> Worker:
        """Begin to start a worker. Whether it starts shows when it is spoken to."""
        ...

    async def close(self) -> None:
        """Leave the cluster; end it if it was started for this run."""
        ...
