"""Clips from a decoding process to its parent through anonymous shared memory, not pickled through the pipe.

The child writes the frames into a file without a name and sends its descriptor; the parent reads them in one call that
does not hold the interpreter, so its event loop goes on. No name exists that could be left behind, and the memory is
gone as soon as both processes let go of it, however they end. ``multiprocessing.shared_memory`` has names, and until
Python 3.13 its resource tracker removes them under the other process's feet. The memory does not come out of
``/dev/shm`` either, which is small in containers.

The frames are read and not mapped: a mapping costs an open file for as long as the clip lives, and giving 100 MB of it
back takes 30 ms in whichever thread drops the clip, which is the event loop's. Plain memory takes less than 1 ms.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any

import numpy as np

from vital_eval.clip import Clip
from vital_eval.errors import MediaError
from vital_eval.span import Span

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

#: Frames below this many bytes go through the pipe: their copy takes no time.
LEAST_BYTES = 2**20
#: Largest single read or write; Linux stops a little below 2 GiB.
_STEP = 2**30


@dataclass(frozen=True, slots=True)
class Handed:
    """Announces frames whose descriptor follows.

    Attributes:
        shape: of the frames, uint8.
        timestamps: see :class:`~vital_eval.clip.Clip`.
        span: see :class:`~vital_eval.clip.Clip`.
    """

    shape: tuple[int, ...]
    timestamps: tuple[float, ...]
    span: Span


def hand_over(pipe: Connection[Any, Any], clip: Clip) -> None:
    """Send a clip to the parent; called in the child.

    Where there is no such memory, or not enough of it, the clip goes through the pipe.

    Raises:
        OSError: if the parent is gone.
    """
    descriptor = _anonymous_copy(clip.frames) if clip.frames.nbytes >= LEAST_BYTES else None
    if descriptor is None:
        pipe.send(clip)
        return
    try:
        pipe.send(Handed(clip.frames.shape, clip.timestamps, clip.span))
        reduction.send_handle(pipe, descriptor, None)
    finally:
        os.close(descriptor)


def take_over(pipe: Connection[Any, Any], handed: Handed, timeout_s: float) -> Clip:
    """Receive the frames that were announced; called in the parent, in a thread.

    Raises:
        EOFError: if the child is gone.
        OSError: likewise, or if it does not send them in time.
        MediaError: ``decoder-crashed`` if this process can open no more files.
    """
    if not pipe.poll(timeout_s):
        raise TimeoutError("the frames were announced and did not come")
    try:
        descriptor = reduction.recv_handle(pipe)
    except RuntimeError as error:  # the kernel drops a descriptor for which there is no room
        raise MediaError(
            "decoder-crashed", "a clip could not be taken over, too many files are open", "raise it with `ulimit -n`"
        ) from error
    try:
        return Clip(_read(descriptor, handed.shape), handed.timestamps, handed.span)
    finally:
        os.close(descriptor)


def lock_frames(clip: Clip) -> Clip:
    """Make the frames read-only, because several episodes look at them; return the clip."""
    clip.frames.flags.writeable = False
    return clip


def _anonymous_copy(frames: NDArray[np.uint8]) -> int | None:
    """Write frames to a file without a name; return its descriptor, or ``None`` if that is not possible here."""
    if not reduction.HAVE_SEND_HANDLE:
        return None
    descriptor: int | None = None
    try:
        descriptor = _anonymous_file()
        # Written, not mapped: memory that runs out is an error here and would be a signal there.
        rest = np.ascontiguousarray(frames).data.cast("B")
        while rest:
            rest = rest[os.write(descriptor, rest[:_STEP]) :]
        if sys.platform == "linux":
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def _anonymous_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("vital-eval-clip", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:  # without a name as soon as it is made
        return os.dup(file.fileno())


def _read(descriptor: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    frames = np.empty(shape, dtype=np.uint8)
    rest, offset = frames.data.cast("B"), 0
    while rest:
        count = os.preadv(descriptor, [rest[:_STEP]], offset)
        if not count:
            raise OSError("the frames ended early")
        rest, offset = rest[count:], offset + count
    return frames
