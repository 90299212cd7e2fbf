"""Decoding in child processes: a hostile or broken video costs one sample, never the run.

Each child has a pipe of its own. A pool with one shared queue (``concurrent.futures``, ``pebble``) is broken as a
whole when a child dies while it holds that queue, and cannot kill one child that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self, TypeVar

from vital_eval.clip import Clip
from vital_eval.errors import MediaError, VitalError
from vital_eval.registry import Registries
from vital_eval.video.frame_store import StoreUse
from vital_eval.video.handover import Handed, hand_over, lock_frames, take_over
from vital_eval.video.video_reader import Extent, Store, VideoReader

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnContext, SpawnProcess

    from vital_eval.protocol import View
    from vital_eval.span import Span
    from vital_eval.video.frame_store import StoreSettings

#: Address space of one child, bytes. Far above what a clip needs; a decoder that runs away ends here.
ADDRESS_SPACE = 8 * 1024**3
#: Seconds a child may take to start, on a machine that is busy with other things.
START_SECONDS = 120.0
#: Seconds an idle child has at the end to finish what it writes into the frame store.
_WRITE_SECONDS = 10.0
#: Videos of which it is remembered which child read their index; it keeps about as many itself.
_MOST_KNOWN = 32

T = TypeVar("T")


@dataclass(slots=True)
class Ticket:
    """How much a call matters.

    Attributes:
        urgent: an episode waits for it; it may be set while the call waits, too.
    """

    urgent: bool = True


class DecodeWorkers:
    """Reads clips in child processes, without blocking the event loop.

    A call that takes too long ends with its worker killed, and a worker that crashes is replaced; both are a
    :class:`~vital_eval.errors.MediaError` of that call alone. Calls beyond the number of workers wait, urgent ones
    before the others, and their time starts when a worker takes them. A call that is cancelled is still finished by
    its worker. Frames come back read-only, through shared memory where that pays.

    Children are spawned on first use (nothing is inherited, so CUDA and threads of this process are safe),
    ignore Ctrl-C, which is this process's to handle, and end when this process ends, however it ends. As
    always with spawned processes, the main module is imported again in the child: a script that uses this
    class needs ``if __name__ == "__main__":``, and what it imports at its top, every child imports.

    Args:
        workers: child processes; 0 decodes in a thread of this process, without the limits, for debugging.
        timeout_s: seconds one call may take in a worker.
        plugins: plugin files that decoders may come from.
        store: where frames are kept on disk, ``None`` keeps none.

    Raises:
        ValueError: if ``workers`` is negative or ``timeout_s`` is not positive.
    """

    def __init__(
        self, workers: int, timeout_s: float, plugins: tuple[Path, ...] = (), store: StoreSettings | None = None
    ) -> None:
        if workers < 0 or not timeout_s > 0:
            raise ValueError(f"{workers} workers with a timeout of {timeout_s} s")
        self._timeout_s = timeout_s
        self._decoders = Registries(plugins).decoders
        self._tell = _Teller()
        self._keeps = store is not None
        self._uses = _Uses()
        self._store = Store(store, self._tell, self._uses) if store is not None and workers == 0 else None
        self._children = [_Child(plugins, store, self._tell, self._uses) for _ in range(workers)]
        self._idle = list(self._children)
        self._lock = threading.Lock()
        self._queue = _Queue(workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode") if workers else None
        self._closed = False

    def reader(self, folder: Path, decoder_name: str) -> ClipReader:
        """Return what reads the videos below one folder through one decoder.

        Args:
            folder: data root.
            decoder_name: decoder by registry name.

        Raises:
            UnknownNameError: if there is no such decoder.
            MissingExtraError: without workers, if the decoder is not installed; else the first call raises it.
        """
        self._decoders.require(decoder_name)
        local = None
        if self._threads is None:
            local = VideoReader(folder, self._decoders.load(decoder_name)(), self._store)
        return ClipReader(_Place(folder, decoder_name), self, local)

    @property
    def store_use(self) -> StoreUse:
        """What the frame store was good for so far."""
        return self._uses.so_far

    def start(self) -> None:
        """Start the workers now, not with their first calls: they load their libraries while the caller does."""
        for child in self._children:
            child.start()

    def close(self) -> None:
        """End the workers and wait for them to be gone. Calls under way fail; closing twice is fine.

        Workers with a frame store first finish what they are writing, those with a call under way are killed.
        """
        self._closed = True
        if self._store is not None:
            self._store.close()
        if self._threads is None:
            return
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            idle = list(self._idle) if self._keeps else []
        until = time.monotonic() + _WRITE_SECONDS
        for child in idle:
            child.hang_up()
        for child in idle:
            child.wait(until - time.monotonic())
        for child in self._children:
            child.close()
        self._threads.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def run(self, place: _Place, video: str, job: Callable[[VideoReader], T], ticket: Ticket) -> T:
        """Run a job on a video in a worker.

        Raises:
            MediaError: as the job, or ``timeout`` or ``decoder-crashed``.
        """
        async with self._queue.turn(ticket):
            if self._closed:
                raise MediaError("decoder-crashed", "the decode workers are closed")
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._call, place, video, job)

    def _call(self, place: _Place, video: str, job: Callable[[VideoReader], T]) -> T:
        child = self._take((place, video))
        try:
            reply: T | VitalError = child.call(place, video, job, self._timeout_s)
        finally:
            with self._lock:
                self._idle.append(child)
        if isinstance(reply, VitalError):
            raise reply
        return reply

    def _take(self, subject: tuple[_Place, str]) -> _Child:
        """Take an idle child: one that knows the video, because its index is read already, else the one used last."""
        with self._lock:  # there are as many threads as children, so one is idle
            at = next((at for at in reversed(range(len(self._idle))) if subject in self._idle[at].known), -1)
            return self._idle.pop(at)


class ClipReader:
    """The videos below one folder, read through one decoder by :class:`DecodeWorkers`, which makes it."""

    def __init__(self, place: _Place, workers: DecodeWorkers, local: VideoReader | None) -> None:
        self._place = place
        self._workers = workers
        self._local = local

    async def extent(self, video: str) -> Extent:
        """Return how far a video reaches; see :meth:`~vital_eval.video.video_reader.VideoReader.extent`.

        Raises:
            MediaError: as there, or ``timeout`` or ``decoder-crashed``.
        """
        return await self._run(video, partial(VideoReader.extent, video=video), Ticket())

    async def weigh(self, video: str, view: View, spatial_factor: int) -> int:
        """Return how large a clip would be; see :meth:`~vital_eval.video.video_reader.VideoReader.weigh`.

        Raises:
            MediaError: as there, or ``timeout`` or ``decoder-crashed``.
        """
        job = partial(VideoReader.weigh, video=video, view=view, spatial_factor=spatial_factor)
        return await self._run(video, job, Ticket())

    async def read(
        self, video: str, span: Span | None, view: View, spatial_factor: int, ticket: Ticket | None = None
    ) -> Clip:
        """Read a clip, its frames read-only; see :meth:`~vital_eval.video.video_reader.VideoReader.read`.

        Raises:
            MediaError: as there, or ``timeout`` or ``decoder-crashed``.
        """
        job = partial(VideoReader.read, video=video, span=span, view=view, spatial_factor=spatial_factor)
        return lock_frames(await self._run(video, job, ticket or Ticket()))

    async def _run(self, video: str, job: Callable[[VideoReader], T], ticket: Ticket) -> T:
        if self._local is not None:
            return await asyncio.to_thread(job, self._local)
        return await self._workers.run(self._place, video, job, ticket)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where videos lie and how they are read."""

    folder: Path
    decoder_name: str


class _Queue:
    """Lets as many calls pass as there are workers; urgent ones first, then in the order they came."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[Ticket, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def turn(self, ticket: Ticket) -> AsyncIterator[None]:
        """Wait for a place; it is given back at the end."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(ticket)
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, ticket: Ticket) -> None:
        place = asyncio.get_running_loop().create_future()
        waiting = (ticket, place)
        self._waiting.append(waiting)
        try:
            await place
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            else:  # the place came in the same moment
                self._leave()
            raise

    def _leave(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        at = next((at for at, (ticket, _) in enumerate(self._waiting) if ticket.urgent), 0)
        _, place = self._waiting.pop(at)
        place.set_result(None)


class _Teller:
    """Passes on what goes wrong with the frame store, each sentence once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            logging.getLogger("vital_eval").warning("%s", text)


class _Uses:
    """Counts clips that were taken from the frame store, and those that were not; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.so_far = StoreUse()

    def __call__(self, taken: bool) -> None:
        with self._lock:
            self.so_far = StoreUse(self.so_far.taken + taken, self.so_far.decoded + (not taken))


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A fault of the frame store, which a child tells before its reply."""

    text: str


@dataclass(frozen=True, slots=True)
class _Use:
    """Whether a clip came from the frame store, which a child tells before its reply."""

    taken: bool


class _Child:
    """One child process, started when first needed and again after it was lost. Used by one thread at a time.

    Attributes:
        known: videos whose index it holds.
    """

    def __init__(
        self,
        plugins: tuple[Path, ...],
        store: StoreSettings | None,
        tell: Callable[[str], None],
        count: Callable[[bool], None],
    ) -> None:
        self._arguments = (plugins, store)
        self._tell, self._count = tell, count
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._process: SpawnProcess | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._closed = False
        self._lock = threading.Lock()  # starting and closing, which may come from two threads
        self.known: set[tuple[_Place, str]] = set()

    def call(self, place: _Place, video: str, job: Callable[[VideoReader], T], timeout_s: float) -> T | VitalError:
        """Run a job in the child.

        Returns:
            What the job returned, or the error of the harness it raised.

        Raises:
            MediaError: ``timeout`` or ``decoder-crashed``.
        """
        pipe = self._hand_over((place, job))
        try:
            while pipe.poll(timeout_s):
                reply: Any = pipe.recv()
                if isinstance(reply, _Trouble):
                    self._tell(reply.text)
                    continue
                if isinstance(reply, _Use):
                    self._count(reply.taken)
                    continue
                if isinstance(reply, Handed):
                    reply = take_over(pipe, reply, timeout_s)
                if len(self.known) >= _MOST_KNOWN:
                    self.known.clear()
                self.known.add((place, video))
                answer: T | VitalError = reply
                return answer
        except (EOFError, OSError) as error:
            status = self._stop(grace_s=1.0)
            raise MediaError("decoder-crashed", f"the decoder of {video} ended with {_describe(status)}") from error
        self._stop()
        raise MediaError("timeout", f"{video} took more than {timeout_s:g} s to decode")

    def start(self) -> None:
        """Start the child if it never was; before the first call only."""
        if self._process is None:
            self._start()

    def hang_up(self) -> None:
        """Tell the child, which is idle, that nothing more will come, and start no other."""
        with self._lock:
            self._closed = True
            if self._pipe is not None:
                self._pipe.close()

    def wait(self, seconds: float) -> None:
        """Give the child time to end by itself."""
        process = self._process
        if process is not None:
            process.join(timeout=max(0.0, seconds))

    def close(self) -> None:
        """Kill the child and start no other."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
                self._process.join()

    def _hand_over(self, job: tuple[_Place, Callable[[VideoReader], Any]]) -> Connection[Any, Any]:
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
            self.known.clear()
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


def _serve(pipe: Connection[Any, Any], plugins: tuple[Path, ...], settings: StoreSettings | None) -> None:
    """Run jobs until the pipe ends; the main function of a child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_memory()
    notices: SimpleQueue[_Trouble | _Use] = SimpleQueue()
    store = None
    if settings is not None:
        store = Store(settings, lambda text: notices.put(_Trouble(text)), lambda taken: notices.put(_Use(taken)))
    readers: dict[_Place, VideoReader] = {}
    while True:
        try:
            place, job = pipe.recv()
        except EOFError:
            break
        pipe.send(None)  # taken: from here on the call's time counts
        # Only errors of the harness are answers. Anything else ends this process with its traceback on stderr,
        # and the sample is counted as one that crashed the decoder.
        try:
            if place not in readers:
                decoder = Registries(plugins).decoders.load(place.decoder_name)
                readers[place] = VideoReader(place.folder, decoder(), store)
            reply = job(readers[place])
        except VitalError as error:
            reply = error
        while not notices.empty():
            pipe.send(notices.get())
        if isinstance(reply, Clip):
            hand_over(pipe, reply)
        else:
            pipe.send(reply)
        del reply  # or its frames would stay until the next job is done
    if store is not None:
        store.close()


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
