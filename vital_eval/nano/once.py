"""A nano world that is written once, however often and however rudely the writing is broken off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vital_eval.atomic import write_atomically
from vital_eval.nano.formats import write_world

_MARKER = "complete"


def write_world_once(folder: Path, seed: int, per_task: int, announce: Callable[[], None] | None = None) -> Path:
    """Write the held-out world, unless it is there already.

    A marker, written last, says that it is whole; it does not say which world it is, so each seed and size needs a
    folder of its own.

    Args:
        folder: data root to write; made if there is none.
        seed: see :func:`~vital_eval.nano.formats.write_world`.
        per_task: likewise.
        announce: called before anything is written, and not if there is nothing to write.

    Returns:
        The folder.
    """
    marker = folder / _MARKER
    if not marker.is_file():
        if announce is not None:
            announce()
        folder.mkdir(parents=True, exist_ok=True)
        write_world(folder, seed, per_task)
        write_atomically(marker, "")
    return folder
