"""A file of JSON lines that only grows, with one writer: no crash and no full disk can damage what is in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vital_eval.atomic import sync_folder


class LineFile:
    """The locked file. Its errors are OSError: what they mean to whom is the caller's to say.

    Raises:
        BlockingIOError: if another process has it open so.
        OSError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._end = 0
        try:
            # The kernel frees the lock when the process ends, however it ends.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return self._file is None

    def begin(self, end: int, head: Mapping[str, Any] | None) -> None:
        """Cut what lies behind ``end`` bytes off and write ``head``, if there is one; both are on disk afterwards."""
        file = self._opened()
        if os.fstat(file).st_size != end:
            os.ftruncate(file, end)
        self._end = end
        if head is not None:
            self.append(head)
        os.fsync(file)
        with contextlib.suppress(PermissionError):
            sync_folder(self._path.parent)

    def append(self, data: Mapping[str, Any]) -> None:
        """Write one line so that neither a crash nor a power cut can take it back.

        Raises:
            OSError: if it cannot be written: nothing of it stays behind, or the file is closed from then on.
            ValueError: if a number is not finite, or the file is closed.
        """
        file = self._opened()
        line = (json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n").encode("ascii")
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        except OSError:
            # Half a line must not be followed by another one.
            try:
                os.ftruncate(file, self._end)
            except OSError:
                self.close()
            raise
        self._end += len(line)

    def close(self) -> None:
        """Give the file free. Closing twice is fine."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _opened(self) -> int:
        if self._file is None:
            raise ValueError(f"{self._path} is closed")
        return self._file
