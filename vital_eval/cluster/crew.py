"""The driver of a run on a cluster: keeps a worker at every place there is, as nodes come and go.

A lost worker is replaced. A place where worker after worker is lost is given up; when none is left, so is the run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from vital_eval.cluster.desk import MOST_LOSSES
from vital_eval.cluster.places import ClusterError, Needs, Node, Place, places
from vital_eval.cluster.shift import Shift
from vital_eval.cluster.staff import Cluster, Worker, WorkerLostError
from vital_eval.cluster.worker import Trouble, versions
from vital_eval.engine import EngineInfo
from vital_eval.plan import RunPlan
from vital_eval.progress import Reporter, Tally
from vital_eval.record_keeper import RecordKeeper
from vital_eval.run_log import RunLog
from vital_eval.schedule import owed_groups
from vital_eval.settings import Settings

_T = TypeVar("_T")

#: A place is given up after so many workers in a row that were lost before a single record came from them. More than
#: one episode that kills its workers can bring about.
MOST_LOST_IN_A_ROW = MOST_LOSSES + 1


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the driver waits for things, in seconds.

    Attributes:
        look: between two looks at the nodes.
        again: before a lost worker is replaced; it takes a while until a dead node is known as dead.
        tell: without any worker before the user is told.
        give_up: without any worker before the run is given up.
    """

    look: float = 3.0
    again: float = 3.0
    tell: float = 20.0
    give_up: float = 600.0


class Crew:
    """All workers of one run. Call :meth:`open`, then :meth:`play`, and :meth:`close` in any case, in one event loop.

    Args:
        cluster: where workers are started.
        plan: what the run consists of; the workers have the same one.
        needs: what one worker takes.
        settings: how the run is carried out; ``concurrency`` is of each worker.
        tell: shows one line to the user.
        most: workers at a time, ``None`` for as many as fit.
        patience: how long to wait.
    """

    def __init__(
        self,
        cluster: Cluster,
        plan: RunPlan,
        needs: Needs,
        settings: Settings,
        tell: Callable[[str], object],
        most: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._cluster, self._plan, self._needs, self._settings = cluster, plan, needs, settings
        self._tell, self._most, self._patience = tell, most, patience or Patience()
        self._first_nodes: frozenset[str] = frozenset()
        self._living: frozenset[str] = frozenset()
        self._manned: set[Place] = set()
        self._given_up: dict[Place, ClusterError] = {}
        self._left_out: set[Place] = set()
        self._alive = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._endings: set[asyncio.Task[None]] = set()

    async def open(self) -> EngineInfo:
        """Start workers and wait for the first that is ready.

        Returns:
            Whose answers the run will hold; workers with another engine are refused.

        Raises:
            ClusterError: if no node has room for a worker, none gets ready, or one says why it cannot (a folder that is
                missing, a checkpoint that is refused ...).
        """
        loop = asyncio.get_running_loop()
        self._error: asyncio.Future[None] = loop.create_future()
        self._info: asyncio.Future[EngineInfo] = loop.create_future()
        self._shift: asyncio.Future[Shift] = loop.create_future()
        nodes = await self._cluster.nodes()
        if not places(nodes, self._needs):
            raise _no_room(nodes, self._needs)
        self._first_nodes = frozenset(node.id for node in nodes)
        self._begin(self._hire())
        return await self._unless_error(self._info)

    async def play(self, log: RunLog, reporter: Reporter) -> Tally:
        """Have everything played that is owed, after :meth:`open`.

        Returns:
            The counts at the end; ``owed`` is 0 if the run is complete.

        Raises:
            StoppedError: if episode after episode fails for a reason that is not the model's.
            ClusterError: if no worker is left, or one that was there from the beginning has another engine.
            VitalError: if a task's parser or scorer raises, or the log cannot be written.
        """
        async with RecordKeeper(self._plan, log, reporter, self._settings.failures_in_a_row) as keeper:
            groups = [group async for group in owed_groups(self._plan, keeper.done)]
            shift = Shift(groups, keeper, self._settings.concurrency)
            self._shift.set_result(shift)
            try:
                await self._unless_error(shift.over())
            finally:
                await self._dismiss()
        return keeper.tally

    async def close(self) -> None:
        """End all workers and leave the cluster."""
        await self._dismiss()
        await asyncio.gather(*self._endings)
        await self._cluster.close()

    async def _dismiss(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._error.done():
            self._error.set_exception(error)
            self._error.exception()  # seen, even if nobody waits any more

    async def _unless_error(self, wanted: Awaitable[_T]) -> _T:
        """Wait for something; the first error of any worker is raised here."""
        waiting = asyncio.ensure_future(wanted)
        first: set[asyncio.Future[Any]] = {waiting, self._error}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._error.done():
                self._error.result()
            return await waiting
        finally:
            waiting.cancel()

    async def _hire(self) -> None:
        """Look at the nodes again and again, and send a worker to every place that is free."""
        patience = self._patience
        alone_since, told = time.monotonic(), False
        while True:
            nodes = await self._cluster.nodes()
            self._living = frozenset(node.id for node in nodes)
            for place in self._free(nodes):
                self._manned.add(place)
                self._begin(self._man(place))
            if self._alive:
                alone_since, told = time.monotonic(), False
            elif not self._manned and (errors := self._lost_for_good()):
                raise errors[-1]
            alone = time.monotonic() - alone_since
            if alone >= patience.give_up:
                raise ClusterError(
                    f"no worker could be started for {alone:.0f} s: the cluster is taken, or its nodes are gone",
                    "look at `ray status`; run the same command again to resume",
                )
            if alone >= patience.tell and not told:
                self._tell(f"no worker runs; waiting for a node with {self._needs} to spare")
                told = True
            await asyncio.sleep(patience.look)

    def _lost_for_good(self) -> list[ClusterError]:
        """Return why places that are there were given up; nodes that are away may come back."""
        return [error for place, error in self._given_up.items() if place.node.id in self._living]

    def _free(self, nodes: tuple[Node, ...]) -> list[Place]:
        if self._shift.done() and not self._shift.result().waiting:
            return []
        taken = self._manned | self._given_up.keys() | self._left_out
        free = [place for place in places(nodes, self._needs) if place not in taken]
        return free if self._most is None else free[: max(0, self._most - len(self._manned))]

    async def _man(self, place: Place) -> None:
        """Keep a worker at a place until nothing is left to play, or the place is gone or given up."""
        in_a_row = 0
        try:
            while place.node.id in self._living and place not in self._given_up:
                try:
                    await self._employ(place)
                    return
                except WorkerLostError as lost:
                    in_a_row = 0 if lost.records else in_a_row + 1
                    self._tell(f"{place} was lost, what it had under way is owed again: {lost}")
                    if in_a_row >= MOST_LOST_IN_A_ROW:
                        self._give_up(place, lost)
                await asyncio.sleep(self._patience.again)
        finally:
            self._manned.discard(place)

    def _give_up(self, place: Place, lost: WorkerLostError) -> None:
        self._given_up[place] = ClusterError(
            f"{place} was lost {MOST_LOST_IN_A_ROW} times in a row, the last time so: {lost}",
            "find out what kills it (memory, a crash of the engine); run the same command again to resume",
        )
        self._tell(f"{place} is given up")

    async def _employ(self, place: Place) -> None:
        """Have one worker play until nothing is left.

        Raises:
            WorkerLostError: if it is lost.
            VitalError: if the run cannot go on.
        """
        worker = self._cluster.hire(place)
        alive = False
        try:
            told = await worker.versions()
            alive = True
            self._alive += 1
            refusal = told if isinstance(told, Trouble) else _other_versions(told) or await self._start(place, worker)
            if refusal is not None:
                self._refuse(place, refusal)
                return
            shift = await asyncio.shield(self._shift)
            # By id: several nodes may have one name.
            await shift.work(f"{place.node.id}/{place.index}", worker)
        finally:
            self._alive -= alive
            # Not awaited here: an interrupted run cancels this task, and the worker shall end in peace all the same.
            ending = asyncio.create_task(worker.end())
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    async def _start(self, place: Place, worker: Worker) -> Trouble | None:
        info = await worker.start()
        if isinstance(info, Trouble):
            return info
        if not self._info.done():
            self._info.set_result(info)
        refusal = _other_engine(self._info.result(), info)
        if refusal is None:
            self._tell(f"{place} is ready")
        return refusal

    def _refuse(self, place: Place, trouble: Trouble) -> None:
        """Do without a node that came later; one that was there from the beginning ends the run."""
        error = ClusterError(f"{place}: {trouble.problem}", trouble.mend)
        if place.node.id in self._first_nodes:
            raise error
        self._left_out.add(place)
        self._tell(f"{error.problem}; the run goes on without it")


def _no_room(nodes: tuple[Node, ...], needs: Needs) -> ClusterError:
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=None)
    best = "it has no nodes" if largest is None else f"the best has {Needs(largest.cpus, largest.gpus)}"
    return ClusterError(
        f"no node of the cluster has {needs}, which a worker takes; {best}",
        "change --decode-workers (a worker takes a CPU for each and one more) or --ray-gpus, or add a node",
    )


def _other_versions(theirs: dict[str, str]) -> Trouble | None:
    for name, ours in versions().items():
        if theirs.get(name) != ours:
            return Trouble(f"it has {name} {theirs.get(name)}, the driver has {ours}", "install the same everywhere")
    return None


def _other_engine(ours: EngineInfo, theirs: EngineInfo) -> Trouble | None:
    fields = [
        name for name in ("name", "model", "fingerprint", "geometry") if getattr(ours, name) != getattr(theirs, name)
    ]
    fields += sorted(
        f"{name} ({ours.details.get(name)} and {theirs.details.get(name)})"
        for name in ours.details.keys() | theirs.details.keys()
        if ours.details.get(name) != theirs.details.get(name)
    )
    if not fields:
        return None
    return Trouble(
        f"its engine is not that of the other workers, the difference is in {', '.join(fields)}",
        "a run has one engine: give every node the same checkpoint, versions and kind of device",
    )
