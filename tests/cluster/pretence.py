"""A cluster that is not one: nodes are words, workers are coroutines of this process, and both die on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from tests.toy_world import TASK
from vital_eval.cluster.places import Node, Place
from vital_eval.cluster.staff import WorkerLostError
from vital_eval.cluster.worker import Trouble, versions
from vital_eval.data_root import read_task
from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.grading import make_record
from vital_eval.plan import RunPlan, TaskPlan, make_plan
from vital_eval.player import jobs_of
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.record import Key, Record
from vital_eval.registry import Registries
from vital_eval.trajectory import StopReason, Trajectory

INFO = EngineInfo("toy", "checkpoint", "f" * 64, FrameGeometry(28, 2), {"dtype": "float32"})

#: What a worker does before it gives the record of an episode; it may kill the worker.
Habit = Callable[["PretendWorker", Key], None]


def plan_of(data_root: Path, *modes: Mode) -> RunPlan:
    registries = Registries()
    data = read_task(registries.tasks.load(TASK)(), data_root)
    return make_plan((TaskPlan(data, tuple(preset("vital", mode, TASK) for mode in modes or Mode)),), registries)


def node(name: str, cpus: float = 1, gpus: float = 0) -> Node:
    return Node(name, name, cpus, gpus)


class PretendWorker:
    """Answers every episode after a moment, until it is lost."""

    def __init__(self, cluster: PretendCluster, place: Place) -> None:
        self.cluster, self.place = cluster, place
        self.told = versions()
        self.info: EngineInfo | Trouble = INFO
        self.played: list[Key] = []
        self.most_under_way = 0
        self.ended = False
        self._under_way = 0
        self._lost = asyncio.Event()

    def lose(self) -> None:
        """Kill it."""
        self._lost.set()

    async def versions(self) -> dict[str, str] | Trouble:
        """See :class:`~vital_eval.cluster.staff.Worker`."""
        self._check()
        return self.told

    async def start(self) -> EngineInfo | Trouble:
        """See :class:`~vital_eval.cluster.staff.Worker`."""
        await asyncio.sleep(0.001)
        self._check()
        return self.info

    def give(self, keys: tuple[Key, ...]) -> None:
        """See :class:`~vital_eval.cluster.staff.Worker`."""
        self._under_way += len(keys)
        self.most_under_way = max(self.most_under_way, self._under_way)

    async def end(self) -> None:
        """See :class:`~vital_eval.cluster.staff.Worker`."""
        self.ended = True
        self.lose()

    async def record(self, key: Key) -> Record | Trouble:
        """See :class:`~vital_eval.cluster.staff.Worker`."""
        self.cluster.handed.append(key)
        try:
            await asyncio.sleep(0.002)
            self._check()
            self.cluster.habit(self, key)
            self._check()
        finally:
            self._under_way -= 1
        self.played.append(key)
        return self.cluster.record(key)

    def _check(self) -> None:
        if self._lost.is_set() or self.place.node not in self.cluster.machines:
            raise WorkerLostError("killed by a test")


class PretendCluster:
    """Machines that come and go as a test wants."""

    def __init__(self, plan: RunPlan, *machines: Node, habit: Habit = lambda worker, key: None) -> None:
        self.machines = list(machines)
        self.habit = habit
        self.prepare: Callable[[PretendWorker], None] = lambda worker: None
        self.hired: list[PretendWorker] = []
        self.handed: list[Key] = []
        self.closed = False
        self._jobs = {job.key: job for job in jobs_of(plan)}

    async def nodes(self) -> tuple[Node, ...]:
        """See :class:`~vital_eval.cluster.staff.Cluster`."""
        return tuple(self.machines)

    def hire(self, place: Place) -> PretendWorker:
        """See :class:`~vital_eval.cluster.staff.Cluster`."""
        worker = PretendWorker(self, place)
        self.prepare(worker)
        self.hired.append(worker)
        return worker

    async def close(self) -> None:
        """See :class:`~vital_eval.cluster.staff.Cluster`."""
        self.closed = True

    def record(self, key: Key) -> Record:
        """Return what a worker gives for an episode."""
        job = self._jobs[key]
        attempt = job.attempt
        answer = Trajectory((), StopReason.ANSWERED, "1.00 to 3.00", (), 6.0)
        return make_record(job.task_plan.data.task, attempt.sample, attempt.protocol, attempt.number, answer)
