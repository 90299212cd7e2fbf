"""The log of a stage as numbers: one JSON object a step, nested names joined by a slash."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vital_eval.errors import VitalError


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """One step of a stage.

    Attributes:
        step: its number, from 0.
        values: every number that was logged, by its name: ``reward``, ``loss/kl``. A supervised stage's ``loss`` is one
            number, a reinforcement stage's holds several.
    """

    step: int
    values: Mapping[str, float]


def append_step(path: Path, values: Mapping[str, object]) -> None:
    """Add a step to a stage's log.

    Args:
        path: ``<stage>.jsonl``.
        values: numbers by name, ``step`` among them; what belongs together may be a mapping of its own.

    Raises:
        VitalError: if it cannot be written (a full disk, say). What is left of the line is no step to any reader.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
    except OSError as error:
        raise VitalError(
            f"cannot write the log {path}: {error.strerror}",
            "free some space; the same command goes on from the last saved state",
        ) from error


def read_log(path: Path) -> tuple[LoggedStep, ...]:
    """Read a stage's log.

    A process that is killed leaves half a line, and one that goes on takes steps again that were logged but not saved:
    such a line is left out, and of a step that stands there twice the last one counts.

    Args:
        path: ``<stage>.jsonl`` of a stage.

    Returns:
        Its steps in order; none if there is no such file yet.

    Raises:
        VitalError: if it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise VitalError(f"cannot read the log {path}: {error}", "see that the file may be read") from error
    steps: dict[int, LoggedStep] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        step = entry.get("step") if isinstance(entry, dict) else None
        if isinstance(step, int) and not isinstance(step, bool) and step >= 0:
            steps[step] = LoggedStep(step, {name: value for name, value in _numbers(entry, "") if name != "step"})
    return tuple(steps[step] for step in sorted(steps))


def _numbers(entry: Mapping[str, object], before: str) -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{before}{name}/")
        elif isinstance(value, (int, float)):
            yield f"{before}{name}", float(value)
