"""Ray as the cluster of a run; the only module that imports it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vital_eval.cluster.places import ClusterError, Needs, Node, Place
from vital_eval.cluster.staff import WorkerLostError
from vital_eval.cluster.worker import EngineChoice, EpisodeWorker, Trouble
from vital_eval.engine import EngineInfo
from vital_eval.plan import RunPlan
from vital_eval.record import Key, Record
from vital_eval.registry import plugin_modules
from vital_eval.settings import Settings

#: Address that starts a Ray of its own on this machine.
LOCAL = "local"
#: The plan is all that goes through Ray's object store; this is about the least that Ray takes.
OBJECT_STORE_BYTES = 80 * 2**20
#: Seconds to wait for an address to answer at all.
CONNECT_SECONDS = 5.0
#: Seconds a worker may take to free everything before its process is killed.
END_SECONDS = 20.0


class RayCluster:
    """A :class:`~vital_eval.cluster.staff.Cluster` on the Ray that was joined with :func:`connect`.

    Args:
        choice: the engine of its workers.
        settings: how they carry the run out.
        plan: what they take episodes from.
        needs: what each takes.
    """

    def __init__(self, choice: EngineChoice, settings: Settings, plan: RunPlan, needs: Needs) -> None:
        self._needs = needs
        for module in plugin_modules():
            ray.cloudpickle.register_pickle_by_value(module)
        # The plan is sent once to every node, and read there only after the worker has told its version.
        self._order = (choice, settings, ray.put(plan))
        self._calls = 1000 + 4 * settings.concurrency

    async def nodes(self) -> tuple[Node, ...]:
        """Return the machines that are alive."""
        return await asyncio.to_thread(nodes)

    def hire(self, place: Place) -> RayWorker:
        """Begin to start a worker."""
        actor = EpisodeActor.options(  # type: ignore[attr-defined]
            num_cpus=self._needs.cpus,
            num_gpus=self._needs.gpus,
            max_concurrency=self._calls,
            # A replacement is the crew's matter: Ray would call a new process that has no engine yet.
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node.id, soft=False),
        ).remote()
        return RayWorker(actor, self._order)

    async def close(self) -> None:
        """Leave the cluster; one that was started by :func:`connect` ends."""
        ray.shutdown()


class RayWorker:
    """A :class:`~vital_eval.cluster.staff.Worker` in a Ray actor.

    Args:
        actor: its handle.
        order: what its ``start`` takes.
    """

    def __init__(self, actor: Any, order: tuple[Any, ...]) -> None:
        self._actor, self._order = actor, order

    async def versions(self) -> dict[str, str] | Trouble:
        """Return what must be the same everywhere."""
        try:
            told: dict[str, str] = await _word(self._actor.versions.remote())
        except _NotImportableError as error:
            return Trouble(f"vital-eval cannot be imported there: {error}", "install the same vital-eval on every node")
        return told

    async def start(self) -> EngineInfo | Trouble:
        """Check the node's files and load the engine."""
        started: EngineInfo | Trouble = await _word(self._actor.start.remote(*self._order))
        return started

    def give(self, keys: tuple[Key, ...]) -> None:
        """Hand over episodes that look at the same video."""
        self._actor.give.remote(keys)

    async def record(self, key: Key) -> Record | Trouble:
        """Wait for the record of an episode that was given."""
        record: Record | Trouble = await _word(self._actor.record.remote(key))
        return record

    async def end(self) -> None:
        """Have it free everything, then end it for certain."""
        with contextlib.suppress(RayError, TimeoutError):
            await asyncio.wait_for(_plain(self._actor.end.remote()), END_SECONDS)
        with contextlib.suppress(RayError):
            ray.kill(self._actor)


@ray.remote
class EpisodeActor(EpisodeWorker):
    """An episode worker in a process of Ray's, which bears its name."""

    def __init__(self) -> None:
        super().__init__()
        # Decoding processes would import the program of this process again, which is Ray's: seconds for nothing.
        with contextlib.suppress(AttributeError):
            del sys.modules["__main__"].__file__


class _NotImportableError(WorkerLostError):
    """An actor that did not come into being because of its node's Python."""


def connect(address: str, *, gpus: bool) -> None:
    """Join a cluster, or start one on this machine.

    Args:
        address: ``local``; or ``auto`` or ``host:port`` on a machine of the cluster.
        gpus: whether a cluster on this machine takes its GPUs.

    Raises:
        ClusterError: if the address is not one, nothing answers there, or Ray does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address == LOCAL:
        # By default its workers give way to everything else on the machine; a run without Ray does not.
        os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            ray.init(
                address=LOCAL,
                num_gpus=None if gpus else 0,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
        except Exception as error:  # Ray raises no narrower one when its processes do not come up in time
            ray.shutdown()
            raise ClusterError(
                f"Ray did not start on this machine: {_first_sentence(str(error))}",
                "try again when the machine is less busy; Ray's logs are in /tmp/ray/session_latest/logs",
            ) from error
        return
    _check_address(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError, AssertionError) as error:
        raise ClusterError(
            f"cannot join the Ray cluster at {address}: {_first_sentence(str(error))}",
            "run on a machine of the cluster (`ray start --address=...`) with the cluster's Ray and Python versions",
        ) from error


def nodes() -> tuple[Node, ...]:
    """Return the machines of the cluster that are alive, in a fixed order."""
    living = [node for node in ray.nodes() if node["Alive"]]
    found = [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            float(node["Resources"].get("CPU", 0)),
            float(node["Resources"].get("GPU", 0)),
        )
        for node in living
    ]
    return tuple(sorted(found, key=lambda node: (node.name, node.id)))


def _check_address(address: str) -> None:
    """Find out at once what Ray would need a minute for."""
    if address == "auto":
        return
    host, sign, port = address.rpartition(":")
    if "://" in address or not sign or not port.isdigit():
        raise ClusterError(
            f"{address!r} is no address of a Ray cluster", "give local, auto, or host:port as `ray start` prints it"
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nothing answers at {address}: {error}", "start a cluster with `ray start --head`, or use --ray local"
        ) from error


async def _word(reference: Any) -> Any:
    """Wait for an answer.

    Raises:
        WorkerLostError: if the one who should give it is gone.
    """
    try:
        return await reference
    except RayTaskError:
        raise  # A bug in the worker, with its traceback.
    except RayActorError as error:
        kind = _NotImportableError if error.actor_init_failed else WorkerLostError
        raise kind(_cause(str(error))) from error
    except RayError as error:
        raise WorkerLostError(_cause(str(error))) from error


async def _plain(reference: Any) -> None:
    await reference


def _cause(text: str) -> str:
    """Pick the part of Ray's text on a dead actor that says why."""
    lines = " ".join(text.split()).partition(" Some common causes include")[0]
    _, found, rest = lines.partition("The actor is dead because ")
    return (rest if found else lines)[-300:]


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0][:300]
