"""Data that come with the package as JSON: read strictly, every fault named by file and entry."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from typing import Any

from vital_eval.errors import DataError
from vital_eval.record import loads_strictly

#: How close to its origin a figure or a fact was read; an inference was read nowhere.
CONFIDENCES = ("first-hand", "copied", "second-hand", "inference")


def load_packaged(name: str) -> Any:
    """Return the content of a JSON file of this package."""
    try:
        return loads_strictly((files(__package__) / name).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {name} of the package: {error}", "install vital-eval again") from error


def objects(data: Any, file: str) -> list[tuple[str, dict[str, Any]]]:
    """Return place and object for every entry of a list."""
    if not isinstance(data, list):
        raise DataError(f"{file} does not hold a list")
    found = []
    for number, entry in enumerate(data, start=1):
        if not isinstance(entry, dict):
            raise DataError(f"{file}, entry {number} is not an object")
        found.append((f"{file}, entry {number}", entry))
    return found


def check_fields(entry: Mapping[str, Any], fields: Sequence[str], place: str) -> None:
    """Refuse an entry without one of the fields, or with another one."""
    missing, unknown = sorted(set(fields) - set(entry)), sorted(set(entry) - set(fields))
    if missing:
        raise DataError(f"{place} has no field {', '.join(missing)}")
    if unknown:
        raise DataError(f"{place} has the unknown field {', '.join(unknown)}")


def check_task(task: Any, tasks: Collection[str], place: str) -> None:
    """Refuse a task that is not registered."""
    if task not in tasks:
        raise DataError(f"{place}: unknown task {task!r}", f"known: {', '.join(tasks)}")


def text_of(entry: Mapping[str, Any], name: str, place: str) -> str:
    """Return a field that must be a text with something in it."""
    value = entry[name]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: field {name} must be a text, found {value!r:.80}")
    return value
