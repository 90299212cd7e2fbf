"""A file of JSON lines that only grows, with one writer: no crash and no full disk can damage what is in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vital_eval.atomic import sync_folder
from vital_eval.record import loads_strictly


class LineFile:
    """The file, open for appending. Its errors are OSError: what they mean to whom is the caller's to say.

    Args:
        path: the file; it is made if there is none.
        lock: whether to hold the file itself. A writer that locks something else for it, such as a whole folder, says
            no.

    Raises:
        BlockingIOError: if another process holds it.
        OSError: if it cannot be opened.
    """

    def __init__(self, path: Path, *, lock: bool = True) -> None:
        self._path = path
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._end = 0
        try:
            if lock:
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
        """Write data as one line; see :meth:`append_line`.

        Raises:
            OSError: if it cannot be written.
            ValueError: if a number is not finite, or the file is closed.
        """
        line = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"
        self.append_line(line.encode("ascii"))

    def append_line(self, line: bytes) -> None:
        r"""Write one line so that neither a crash nor a power cut can take it back.

        Args:
            line: JSON with ``\n`` at its end and nowhere else.

        Raises:
            OSError: if it cannot be written: nothing of it stays behind, or the file is closed from then on.
            ValueError: if the file is closed.
        """
        file = self._opened()
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        except OSError:
            # Half a line must not be followed by another one: damage in the middle cannot be mended. A torn tail
            # alone is cut off when the file is opened again.
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


def whole_lines(data: bytes, damaged: Callable[[int, ValueError], Exception]) -> Iterator[tuple[int, Any, int]]:
    """Read the lines of such a file from its bytes; see :func:`stream_lines`."""
    return stream_lines(io.BytesIO(data), damaged)


def stream_lines(
    lines: Iterable[bytes], damaged: Callable[[int, ValueError], Exception]
) -> Iterator[tuple[int, Any, int]]:
    r"""Read the lines of such a file; the last one is left out if it is torn (no ``\n``, or not JSON).

    Args:
        lines: the file, open for reading in binary; one of its lines is in memory at a time.
        damaged: makes the error for a line before the last that is not JSON, which no crash can leave behind, from
            its number and what is wrong.

    Yields:
        The number of the line, from 1; its content; the length in bytes of the file up to its end.

    Raises:
        Exception: what ``damaged`` makes.
    """
    end = 0
    torn: tuple[int, ValueError] | None = None
    for number, line in enumerate(lines, start=1):
        if torn is not None:
            raise damaged(*torn) from torn[1]
        if not line.endswith(b"\n"):
            return
        try:
            content = loads_strictly(line[:-1])
        except ValueError as error:
            torn = (number, error)  # Unless another line follows.
            continue
        end += len(line)
        yield number, content, end


def disk_is_full(error: OSError) -> bool:
    """Tell whether something could not be written for lack of room, of the disk or of the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
