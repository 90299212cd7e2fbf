"""What a file holds, as a hash that is computed once for as long as the file does not change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from pathlib import Path

from vital_eval.atomic import write_atomically

#: A file changed so shortly ago may change again without its times showing it, so its hash is not remembered.
_SETTLED_SECONDS = 2.0


class ContentHashes:
    """SHA-256 of whole files, remembered by path, size, times and inode. Safe to use from several threads.

    A file that is replaced or written to gets another change time, which no program can set, so it is read again.

    Args:
        folder: where hashes are remembered for other processes and later runs; ``None`` remembers nothing on disk.
            What cannot be read or written there is computed again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()

    def of(self, path: Path) -> str | None:
        """Return the hash of a file, 64 hexadecimal digits; ``None`` if it changed while it was read.

        Raises:
            OSError: if the file cannot be read.
        """
        state = _state(path)
        name = hashlib.sha256(state.encode()).hexdigest()
        with self._lock:
            known = self._known.get(name) or self._recall(name, state)
        if known is None:
            with path.open("rb") as file:
                known = hashlib.file_digest(file, "sha256").hexdigest()
            if _state(path) != state:
                return None
            if not _settled(path):
                return known
            self._remember(name, state, known)
        with self._lock:
            self._known[name] = known
        return known

    def _recall(self, name: str, state: str) -> str | None:
        if self._folder is None:
            return None
        try:
            data = json.loads(_file(self._folder, name).read_text(encoding="utf-8"))
            content = data["sha256"] if data["file"] == state else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return content if isinstance(content, str) and len(content) == 64 else None

    def _remember(self, name: str, state: str, content: str) -> None:
        if self._folder is None:
            return
        file = _file(self._folder, name)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps({"file": state, "sha256": content}))


def _file(folder: Path, name: str) -> Path:
    return folder / name[:2] / f"{name}.json"


def _state(path: Path) -> str:
    stat = path.stat()
    return json.dumps(
        [os.fspath(path.resolve()), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    )


def _settled(path: Path) -> bool:
    stat = path.stat()
    return time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED_SECONDS
