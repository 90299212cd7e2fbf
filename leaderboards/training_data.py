"""Which checkpoints were trained on data of which benchmarks: a score there is no measure of what it has never seen.

The register is data with evidence. A checkpoint that is not in it is not known to be clean.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vital_eval.errors import DataError
from vital_eval.record import loads_strictly
from vital_eval.registry import Registry

from .packaged import CONFIDENCES, check_fields, check_task, load_packaged, objects, text_of

_FILE = "training_data.json"
_FIELDS = ("model", "task", "trained_on", "evidence", "confidence")


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """A checkpoint that has seen data of a benchmark.

    Attributes:
        model: the checkpoint's name, as labels and published tables write it; compared without regard to case.
        task: registry name.
        trained_on: which part, in a few words (``training split``).
        evidence: how that is known.
        confidence: as in :class:`~.published.PublishedResult`.
    """

    model: str
    task: str
    trained_on: str
    evidence: str
    confidence: str

    @property
    def remark(self) -> str:
        """Say it in one line."""
        return f"in-domain: trained on the {self.trained_on} ({self.confidence}: {self.evidence})"


def read_register(more: Path | None = None) -> tuple[TrainedOn, ...]:
    """Read the register that comes with the package, and another one behind it.

    Args:
        more: a JSON file of the same form.

    Raises:
        DataError: if an entry is not in the form of :class:`TrainedOn`; the entry is named.
    """
    tasks = Registry("task").names()
    known = register_from_json(load_packaged(_FILE), _FILE, tasks)
    if more is None:
        return known
    try:
        data = loads_strictly(more.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the register {more}: {error}", "see docs/published.md for its form") from error
    return known + register_from_json(data, str(more), tasks)


def register_from_json(data: Any, file: str, tasks: Collection[str]) -> tuple[TrainedOn, ...]:
    """Check the data of a register: a list of objects with the fields of :class:`TrainedOn`.

    Raises:
        DataError: if a field is missing, unknown or empty, or the task or confidence is not known.
    """
    entries = []
    for place, entry in objects(data, file):
        check_fields(entry, _FIELDS, place)
        check_task(entry["task"], tasks, place)
        texts = {name: text_of(entry, name, place) for name in _FIELDS}
        if texts["confidence"] not in CONFIDENCES:
            raise DataError(f"{place}: confidence {texts['confidence']!r}", f"use {', '.join(CONFIDENCES)}")
        entries.append(TrainedOn(**texts))
    return tuple(entries)


def remark_on(register: Sequence[TrainedOn], model: str, task: str) -> str:
    """Return what the register says about a checkpoint on a benchmark, ``""`` if nothing."""
    name = model.casefold()
    return "; ".join(one.remark for one in register if (one.model.casefold(), one.task) == (name, task))
