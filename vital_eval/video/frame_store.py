"""Decoded frames on disk, so that a later run, or another one beside it, need not decode them again.

An entry is one file, named by its key: a line of facts, checksums of everything, and the raw array, which starts at a
multiple of 4,096 bytes so that other programs can map it. Entries appear under their name only when they are whole.
Several processes, also on several machines, may share a store.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vital_eval.errors import VitalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = b"VITALFR1"
_ALIGN = 4096
#: Longest line of facts that is read; that of 2.6 million keyframes and times stays below.
_MOST_FACTS = 2**28
_NAME = re.compile(r"[0-9a-f]{64}\.frames")
_UNFINISHED = re.compile(r"\.[0-9a-f]{64}\..*\.tmp")
#: A file under way that nobody wrote to for so long was left by a process that was killed.
_ABANDONED_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where frames are kept.

    Attributes:
        folder: the store; it is made when first needed.
        max_bytes: size that all its entries together never exceed.
    """

    folder: Path
    max_bytes: int

    def __post_init__(self) -> None:
        """Refuse a store that holds nothing."""
        if self.max_bytes < 1:
            raise VitalError(f"a frame store of {self.max_bytes} bytes", "give it at least one")


@dataclass(frozen=True, slots=True)
class StoreUse:
    """What a store was good for.

    Attributes:
        taken: clips that were taken from it.
        decoded: clips that it did not hold.
    """

    taken: int = 0
    decoded: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept under one key.

    Attributes:
        facts: plain JSON data.
        array: any shape, ``uint8`` or ``float64``.
    """

    facts: dict[str, Any]
    array: NDArray[Any]


class FrameStore:
    """A folder of entries with a size that is never exceeded; those used longest ago go first.

    No failure of the store is one of the caller: what cannot be read is missing, what cannot be written is not kept,
    and either is told.

    Args:
        settings: where, and how much.
        tell: is given one line about a fault of the store, possibly many times.
    """

    def __init__(self, settings: StoreSettings, tell: Callable[[str], None]) -> None:
        self._folder = settings.folder
        self._max_bytes = settings.max_bytes
        self._tell = tell

    def get(self, key: str) -> Entry | None:
        """Read an entry, ``None`` if there is none. A damaged one is removed and counts as missing.

        Args:
            key: 64 hexadecimal digits.
        """
        path = self._path(key)
        try:
            with path.open("rb") as file:
                entry = _read(file.fileno(), key)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(f"the frame store {self._folder} cannot be read ({error.strerror}); frames are decoded instead")
            return None
        except ValueError as error:
            self._tell(f"{path} is damaged ({error}); it is removed and its frames are decoded again")
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):  # when it was used last; a store that may only be read goes without
            os.utime(path)
        return entry

    def put(self, key: str, entry: Entry) -> bool:
        """Write an entry; return whether it is there now.

        Args:
            key: 64 hexadecimal digits.
            entry: its array must not change meanwhile.
        """
        path = self._path(key)
        array = np.ascontiguousarray(entry.array)
        head = _head(key, entry.facts, array)
        size = len(head) + array.nbytes
        try:
            if path.exists():
                return True
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                if not self._make_room(size):
                    return False
                temporary = _reserve(path, size)
            try:
                _write(temporary, head, array)
                with self._locked():  # who counts at this moment would see it under neither name
                    temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            self._tell(f"the frame store {self._folder} cannot be written ({error.strerror}); frames are not kept")
            return False
        return True

    def shrink(self) -> None:
        """Remove entries until the store has its size, which may be smaller than last time."""
        try:
            if self._folder.is_dir() and sum(stat.st_size for _, stat in self._files()) > self._max_bytes:
                with self._locked():
                    self._make_room(0)
        except OSError as error:
            self._tell(f"the frame store {self._folder} cannot be made smaller ({error.strerror})")

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.frames"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers from counting at the same time; the lock ends with its process."""
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Some network file systems have no locks. Two writers may then exceed the size for a moment.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self, size: int) -> bool:
        """Remove entries until ``size`` bytes more fit; return whether they do."""
        entries = []
        used = 0
        for path, stat in self._files():
            if _UNFINISHED.fullmatch(path.name) and stat.st_mtime < time.time() - _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)
                continue
            used += stat.st_size
            if _NAME.fullmatch(path.name):
                entries.append((stat.st_mtime_ns, path, stat.st_size))
        if used - sum(each for _, _, each in entries) + size > self._max_bytes:
            return False
        for _, path, each in sorted(entries):
            if used + size <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            used -= each
        return True

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield the files that are the store's own; nothing else in the folder is ever touched."""
        with os.scandir(self._folder) as folders:
            names = [each.path for each in folders if re.fullmatch("[0-9a-f]{2}", each.name)]
        for name in names:
            with os.scandir(name) as files:
                for each in files:
                    if _NAME.fullmatch(each.name) or _UNFINISHED.fullmatch(each.name):
                        with contextlib.suppress(FileNotFoundError):
                            yield Path(each.path), each.stat()


class StoreWriter:
    """Writes entries in a thread, so that the next clip decodes meanwhile; at most one waits.

    Args:
        store: where to.
    """

    def __init__(self, store: FrameStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="frame-store")
        self._last: Future[bool] | None = None

    def put(self, key: str, entry: Entry) -> None:
        """Write an entry soon; waits for the one before, so that memory stays bounded."""
        if self._last is not None:
            self._last.result()
        self._last = self._thread.submit(self._store.put, key, entry)

    def close(self) -> None:
        """Finish what is under way."""
        self._thread.shutdown(wait=True)


def _head(key: str, facts: dict[str, Any], array: NDArray[Any]) -> bytes:
    """Lay out everything before the array: magic, length, facts, their checksum, padding."""
    line = json.dumps(
        {
            "key": key,
            "dtype": array.dtype.str,
            "shape": array.shape,
            "sha256": hashlib.sha256(array.data.cast("B")).hexdigest(),
            "facts": facts,
        },
        allow_nan=False,
    ).encode()
    head = _MAGIC + len(line).to_bytes(8, "little") + line
    head += hashlib.sha256(head).digest()
    return head + bytes(-len(head) % _ALIGN)


def _read(descriptor: int, key: str) -> Entry:
    """Read an entry and compare every checksum.

    Raises:
        ValueError: if anything is not as it was written; the text says what.
    """
    start = os.pread(descriptor, 16, 0)
    length = int.from_bytes(start[8:], "little")
    if start[:8] != _MAGIC or length > _MOST_FACTS:
        raise ValueError("it does not begin like an entry")
    line = os.pread(descriptor, length + 32, 16)
    if hashlib.sha256(start + line[:length]).digest() != line[length:]:
        raise ValueError("its facts do not have their checksum")
    head = json.loads(line[:length])
    if head["key"] != key:
        raise ValueError("it belongs to another key")
    array = np.empty(tuple(head["shape"]), dtype=np.dtype(head["dtype"]))
    offset = 16 + length + 32
    offset += -offset % _ALIGN
    if os.fstat(descriptor).st_size != offset + array.nbytes:
        raise ValueError("its length is wrong")
    rest = array.data.cast("B")
    while rest:
        count = os.preadv(descriptor, [rest[: 2**30]], offset)
        if not count:
            raise ValueError("it ends early")
        rest, offset = rest[count:], offset + count
    if hashlib.sha256(array.data.cast("B")).hexdigest() != head["sha256"]:
        raise ValueError("its frames do not have their checksum")
    return Entry(head["facts"], array)


def _reserve(path: Path, size: int) -> Path:
    """Make the file to be written, as long as it will be, so that other writers count it."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(8)}.tmp")
    with temporary.open("xb") as file:
        file.truncate(size)
    return temporary


def _write(path: Path, head: bytes, array: NDArray[Any]) -> None:
    with path.open("r+b", buffering=0) as file:
        for part in (memoryview(head), array.data.cast("B")):
            rest = part
            while rest:
                rest = rest[os.write(file.fileno(), rest[: 2**30]) :]
        os.fsync(file.fileno())
