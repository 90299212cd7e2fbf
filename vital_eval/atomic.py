"""Files that are either the old ones or the whole new ones, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` so that a reader, or a crash, never meets half of it.

    The text goes to a temporary file in the same folder, is fsynced, renamed over ``path``, and the folder is
    fsynced so that the new name survives a power cut. The temporary file is named ``.<name>.*.tmp``.

    Raises:
        OSError: if the folder cannot be written; ``path`` is then as it was.
        UnicodeEncodeError: if ``text`` holds a lone surrogate.
    """
    write_pieces_atomically(path, (text,))


def write_pieces_atomically(path: Path, pieces: Iterable[str]) -> None:
    """Write a text as :func:`write_atomically` does, piece by piece: the whole is never in memory.

    Raises:
        OSError: if the folder cannot be written; ``path`` is then as it was, as after any error of the pieces' own.
        UnicodeEncodeError: if a piece holds a lone surrogate.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(piece.encode("utf-8") for piece in pieces)
            file.flush()
            # mkstemp makes private files; results are meant to be read by the group as umask allows.
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    # Reading the umask through os.umask() would change it for a moment for every thread.
    status = Path("/proc/self/status")
    if status.is_file():  # Linux
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
