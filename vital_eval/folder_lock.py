"""One writer for a folder, held by the kernel: it is free again however the process ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vital_eval.errors import VitalError

LOCK_NAME = "lock"


def take_lock(folder: Path, error_type: type[VitalError] = VitalError) -> int:
    """Become the one writer of a folder.

    Args:
        folder: must exist; the file ``lock`` is made in it and stays there.
        error_type: raised where it cannot be had.

    Returns:
        A file descriptor; closing it gives the folder free.

    Raises:
        VitalError: if another process holds it (which one is named), or nothing can be written or locked there.
    """
    path = folder / LOCK_NAME
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise error_type(f"cannot write in {folder}: {error.strerror}") from error
    try:
        # The kernel frees this lock when the process ends, however it ends: there is no stale lock to judge.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(lock, 200, 0).decode("utf-8", "replace").strip() or "another process"
        os.close(lock)
        raise error_type(
            f"{folder} is being written by {holder}", "wait for it to end, stop it, or choose another folder"
        ) from error
    except OSError as error:
        os.close(lock)
        raise error_type(f"cannot lock {path}: {error.strerror}", "use a file system that supports locks") from error
    return lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the one writer of a folder; it is made if there is none.

    Raises:
        VitalError: see :func:`take_lock`; also if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VitalError(f"cannot make the folder {folder}: {error.strerror}", "choose another folder") from error
    lock = take_lock(folder)
    try:
        yield
    finally:
        os.close(lock)
