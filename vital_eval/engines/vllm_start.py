"""Starting vLLM: its settings that exist as environment variables only, and its words kept in a file."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.resource_tracker
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vital_eval.engines.vllm_guard import MARK, Guard

#: ``spawn``: a fork would copy the threads' locks. No usage reports, and nothing is fetched from anywhere.
_ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
_CAUSE = re.compile(r"\b([A-Z]\w*(?:Error|Exception)): (.+)")
#: What stands above the cause, and what is only reported below it.
_NO_CAUSE = re.compile(
    r"\b(?:WARNING|INFO)\b|Worker failed|Engine core initialization failed|WorkerProc initialization"
)


def start(arguments: Mapping[str, Any], log: Path) -> tuple[Any, Guard]:
    """Start vLLM's asynchronous engine; its processes write to ``log`` as long as they live.

    Args:
        arguments: for ``AsyncEngineArgs``.
        log: file that takes standard output and error of the start and of vLLM's processes.

    Returns:
        An ``AsyncLLM``, and the guard over its processes.

    Raises:
        OSError, ValueError, RuntimeError, KeyError, AssertionError: whatever vLLM raises; the cause is often in ``log``
            only (:func:`cause_in`).
    """
    # Before the mark is set: Python's own bookkeeping of shared memory must outlive the engine.
    multiprocessing.resource_tracker.ensure_running()
    mark = secrets.token_hex(8)
    guard = Guard(mark)
    # In a thread without an event loop: vLLM would tie itself to the caller's, which may end before it.
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm-start")
    made: list[Any] = []
    try:
        with _environment({**_ENVIRONMENT, MARK: mark}), _output_to(log), pool:
            pool.submit(_start, arguments, made).result()
    except BaseException:
        guard.end(patience=2.0)
        raise
    # Its processes write to the file; in this one only errors are left for the terminal.
    logging.getLogger("vllm").setLevel(logging.ERROR)
    return made.pop(), guard


def _start(arguments: Mapping[str, Any], made: list[Any]) -> None:
    # Not as a result: vLLM keeps the frames of its start alive, and what they hold would never be let go.
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    made.append(AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments)))


def end(core: Any, guard: Guard) -> None:
    """Shut vLLM down and do not return before its processes are gone.

    Args:
        core: an ``AsyncLLM``.
        guard: what :func:`start` returned with it.
    """
    core.shutdown()
    guard.end()
    multiprocessing.active_children()  # it collects those that have ended


def cause_in(log: Path) -> str:
    """Return the first error that a failed start left in its log, ``""`` if there is none."""
    with contextlib.suppress(OSError):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            found = _CAUSE.search(line)
            if found and not _NO_CAUSE.search(line):
                return f"{found[1]}: {found[2].strip()}"
    return ""


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send what this process and those it starts write to a file; the latter keep doing so."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for number, _ in kept:
            os.dup2(target, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
        os.close(target)
