"""What the tests on a real Ray need: a cluster of several nodes on this machine, and eyes for its processes."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._private import services
from ray._private.node import Node
from ray._raylet import (
    DASHBOARD_AGENT_LISTEN_PORT_NAME,
    METRICS_AGENT_PORT_NAME,
    METRICS_EXPORT_PORT_NAME,
    persist_port,
)
from ray.cluster_utils import Cluster

#: About the least that Ray takes.
STORE_BYTES = 80 * 2**20


def add_node(cluster: Cluster, cpus: int) -> object:
    """Add a node, without the processes that only watch over it.

    Ray gives a node's helpers 15 s to say at which ports they listen, and the node 30 s. A busy machine takes longer.
    So the ports are said here (-1: none, as the helpers of a Ray without extras do), and the node is waited for.
    """
    head = cluster.head_node is None
    begin = Node.start_ray_processes

    def with_ports_said(self: Node) -> None:
        for name in (METRICS_AGENT_PORT_NAME, METRICS_EXPORT_PORT_NAME, DASHBOARD_AGENT_LISTEN_PORT_NAME):
            persist_port(self.get_session_dir_path(), self._node_id, name, -1)
        begin(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_agent_register_timeout_ms", "200000")
        patch.setattr(Node, "start_ray_processes", with_ports_said)
        patch.setattr("ray._private.services.get_node", _patiently(services.get_node))
        return cluster.add_node(
            num_cpus=cpus,
            num_gpus=0,
            object_store_memory=STORE_BYTES,
            include_log_monitor=False,
            runtime_env_agent_port=_free_port(),
            **({"no_monitor": True, "include_dashboard": False} if head else {}),
        )


def _free_port() -> int:
    with socket.create_server(("", 0)) as opened:
        return int(opened.getsockname()[1])


def _patiently(look: Callable[..., Any]) -> Callable[..., Any]:
    """Ray gives a node 30 s to come up; a busy machine may need more."""

    def look_longer(*arguments: Any) -> Any:
        deadline = time.monotonic() + 200
        while True:
            try:
                return look(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    return look_longer


@contextlib.contextmanager
def cluster_of(cpus: int) -> Iterator[Cluster]:
    """Start a cluster whose head offers so many CPUs."""
    cluster = Cluster()
    try:
        add_node(cluster, cpus)
        yield cluster
    finally:
        cluster.shutdown()


#: Programs under test that may still run.
_STARTED: list[subprocess.Popen[str]] = []


def start(arguments: list[str], folder: Path | None = None) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "vital_eval", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _STARTED.append(process)
    return process


def stop_all() -> None:
    """Kill what was started and runs on."""
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def finish(process: subprocess.Popen[str], status: int = 0, seconds: float = 400) -> str:
    """Wait for the end and return what was said on standard error."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == status, errors
    return errors


def wait_until(reached: Callable[[], bool], seconds: float = 300, process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something, as long as a process runs that should bring it about."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def actors() -> set[int]:
    """Return the processes that play episodes."""
    return {pid for pid in _processes() if _title(pid).startswith("ray::EpisodeActor")}


def with_descendants(pids: set[int]) -> set[int]:
    """Return the processes and all that they have started."""
    parents = {pid: _parent(pid) for pid in _processes()}
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def living(pids: set[int]) -> set[int]:
    return {pid for pid in pids if _title(pid)}


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _title(pid: int) -> str:
    """Return the command line of a process, nothing if it is gone or waits to be buried."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
