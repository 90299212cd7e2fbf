"""Decoding in child processes: a hostile or broken video costs one sample, never the run.

Each child has a pipe of its own. A pool with one shared queue (``concurrent.futures``, ``pebble``) is broken as a
whole when a child dies while it holds that queue, and cannot kill one child that hangs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from queue import LifoQueue
from typing import TYPE_CHECKING, Any, Self, TypeVar

from vital_eval.clip import Clip
from vital_eval.errors import MediaError, VitalError
from vital_eval.registry import Registries
from vital_eval.video.source import ClipSource

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnContext, SpawnProcess

    from vital_eval.protocol import View
    from vital_eval.span import Span
    from vital_eval.video.decoder import VideoInfo

#: Address space of one child, bytes. Far above what a clip needs; a decoder that runs away ends here.
ADDRESS_SPACE = 8 * 1024**3
#: Seconds a child may take to start, on a machine that is busy with other things.
START_SECONDS = 120.0

T = TypeVar("T")


class DecodeWorkers:
    """Reads clips in child processes, without blocking the event loop.

    A call that takes too long ends with its worker killed, and a worker that crashes is replaced; both are a
    :class:`~vital_eval.errors.MediaError` of that call alone. Calls beyond the number of workers wait, and
    their time starts when a worker takes them. A call that is cancelled is still finished by its worker.

    Children are spawned on first use (nothing is inherited, so CUDA and threads of this process are safe),
    ignore Ctrl-C, which is this process's to handle, and end when this process ends, however it ends. As
    always with spawned processes, the main module is imported again in the child: a script that uses this
    class needs ``if __name__ == "__main__":``, and what it imports at its top, every child imports.

    Args:
        folder: data root.
        decoder_name: decoder by registry name.
        workers: child processes; 0 decodes in a thread of this process, without the limits, for debugging.
        timeout_s: seconds one call may take in a worker.
        plugins: plugin files the decoder may come from.

    Raises:
        UnknownNameError: if there is no such decoder.
        MissingExtraError: with ``workers=0``, if the decoder is not installed; else the first call raises it.
        ValueError: if ``workers`` is negative or ``timeout_s`` is not positive.
    """

    def __init__(
        self, folder: Path, decoder_name: str, workers: int, timeout_s: float, plugins: tuple[Path, ...] = ()
    ) -> None:
        if workers < 0 or not timeout_s > 0:
            raise ValueError(f"{workers} workers with a timeout of {timeout_s} s")
        self._timeout_s = timeout_s
        self._source: ClipSource | None = None
        self._children: list[_Child] = []
        self._idle: LifoQueue[_Child] = LifoQueue()  # the one used last first: its files and index are warm
        self._threads: ThreadPoolExecutor | None = None
        if workers == 0:
            self._source = _build_source(folder, decoder_name, plugins)
            return
        decoders = Registries(plugins).decoders
        if decoder_name not in decoders.names():
            decoders.load(decoder_name)  # raises here and now, naming the nearest
        self._children = [_Child(folder, decoder_name, plugins) for _ in range(workers)]
        for child in self._children:
            self._idle.put(child)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    async def probe(self, video: str) -> VideoInfo:
        """Return the index of a video; see :meth:`~vital_eval.video.source.ClipSource.probe`.

        Raises:
            MediaError: as there, or ``timeout`` or ``decoder-crashed``.
        """
        return await self._run(video, partial(ClipSource.probe, video=video))

    async def read(self, video: str, span: Span | None, view: View, spatial_factor: int) -> Clip:
        """Read a clip; see :meth:`~vital_eval.video.source.ClipSource.read`.

        Raises:
            MediaError: as there, or ``timeout`` or ``decoder-crashed``.
        """
        job = partial(ClipSource.read, video=video, span=span, view=view, spatial_factor=spatial_factor)
        return await self._run(video, job)

    def close(self) -> None:
        """Kill the workers and wait for them to be gone. Calls under way fail; closing twice is fine."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            for child in self._children:
                child.close()
            self._threads.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _run(self, video: str, job: Callable[[ClipSource], T]) -> T:
        if self._source is not None:
            return await asyncio.to_thread(job, self._source)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, video, job)

    def _call(self, video: str, job: Callable[[ClipSource], T]) -> T:
        child = self._idle.get()  # there are as many threads as children, so this never waits
        try:
            reply: T | VitalError = child.call(video, job, self._timeout_s)
        finally:
            self._idle.put(child)
        if isinstance(reply, VitalError):
            raise reply
        return reply


class _Child:
    """One child process, started when first needed and again after it was lost. Used by one thread at a time."""

    def __init__(self, folder: Path, decoder_name: str, plugins: tuple[Path, ...]) -> None:
        self._arguments = (folder, decoder_name, plugins)
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._process: SpawnProcess | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._closed = False
        self._lock = threading.Lock()  # starting and closing, which may come from two threads

    def call(self, video: str, job: Callable[[ClipSource], T], timeout_s: float) -> T | VitalError:
        """Run a job in the child.

        Returns:
            What the job returned, or the error of the harness it raised.

        Raises:
            MediaError: ``timeout`` or ``decoder-crashed``.
        """
        pipe = self._hand_over(job)
        try:
            if pipe.poll(timeout_s):
                reply: T | VitalError = pipe.recv()
                return reply
        except (EOFError, OSError) as error:
            status = self._stop(grace_s=1.0)
            raise MediaError("decoder-crashed", f"the decoder of {video} ended with {_describe(status)}") from error
        self._stop()
        raise MediaError("timeout", f"{video} took more than {timeout_s:g} s to decode")

    def close(self) -> None:
        """Kill the child and start no other."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
                self._process.join()

    def _hand_over(self, job: Callable[[ClipSource], Any]) -> Connection[Any, Any]:
        """Send a job and wait until the child has taken it.

        A child that is gone before that died while idle (the kernel may kill the largest process): no sample is
        to blame, and another child gets the job.
        """
        with self._lock:
            pipe = self._pipe
        if pipe is not None:
            try:
                pipe.send(job)
                if pipe.poll(START_SECONDS):
                    pipe.recv()
                    return pipe
            except (EOFError, OSError):
                pass
            self._stop()
        pipe = self._start()
        try:
            pipe.send(job)
            if pipe.poll(START_SECONDS):
                pipe.recv()
                return pipe
        except (EOFError, OSError) as error:
            status = self._stop(grace_s=1.0)
            raise MediaError("decoder-crashed", f"a decode worker ended with {_describe(status)} at start") from error
        self._stop()
        raise MediaError("timeout", f"a decode worker did not start within {START_SECONDS:g} s")

    def _start(self) -> Connection[Any, Any]:
        with self._lock:
            if self._closed:
                raise MediaError("decoder-crashed", "the decode workers are closed")
            pipe, far_end = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(far_end, *self._arguments), daemon=True)
            # A child inherits what its starting thread blocks: Ctrl-C must not reach it while it still imports. The
            # tracker that comes with the first child would unblock it again (Python 3.11), so it is started before.
            resource_tracker.ensure_running()
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            far_end.close()  # or the end of the child would not end the pipe
            self._process, self._pipe = process, pipe
            return pipe

    def _stop(self, grace_s: float = 0.0) -> int | None:
        """Kill the child if it still lives after ``grace_s`` seconds; return how it ended.

        A child that closed its pipe is on its way out, and its own exit status says more than our kill.
        """
        with self._lock:
            process, pipe = self._process, self._pipe
            self._process = self._pipe = None
        if pipe is not None:
            pipe.close()
        if process is None:
            return None
        process.join(timeout=grace_s)
        process.kill()
        process.join()
        return process.exitcode


def _describe(status: int | None) -> str:
    """Put the exit status of a process into words."""
    if status is not None and status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"exit status {status}"


def _build_source(folder: Path, decoder_name: str, plugins: tuple[Path, ...]) -> ClipSource:
    decoder = Registries(plugins).decoders.load(decoder_name)
    return ClipSource(folder, decoder())


def _serve(pipe: Connection[Any, Any], folder: Path, decoder_name: str, plugins: tuple[Path, ...]) -> None:
    """Run jobs until the pipe ends; the main function of a child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_memory()
    source: ClipSource | None = None
    while True:
        try:
            job: Callable[[ClipSource], Any] = pipe.recv()
        except EOFError:
            return
        pipe.send(None)  # taken: from here on the call's time counts
        # Only errors of the harness are answers. Anything else ends this process with its traceback on stderr,
        # and the sample is counted as one that crashed the decoder.
        try:
            if source is None:
                source = _build_source(folder, decoder_name, plugins)
            reply = job(source)
        except VitalError as error:
            reply = error
        pipe.send(reply)


def _end_with_parent() -> None:
    """End this process as soon as the parent has ended, even by SIGKILL and even in the middle of a frame."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _limit_memory() -> None:
    """Bound the address space, and leave no core file of several GB when a decoder crashes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":  # elsewhere the limit is not enforced or counts shared libraries
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = ADDRESS_SPACE if hard == resource.RLIM_INFINITY else min(ADDRESS_SPACE, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
