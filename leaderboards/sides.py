"""Runs as boards and comparisons read them: one side per task and protocol."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vital_eval.errors import RunLogError
from vital_eval.manifest import Entry, Manifest
from vital_eval.record import Record
from vital_eval.run_log import read_run
from vital_eval.statistics.means import Estimate
from vital_eval.summary import Baselines, CellSummary, Item, metric_items, read_baselines, summarise

from .judged import Judged, read_judged

#: Task to name of a trivial answerer to what it scores and the runs that say so.
Floors = Mapping[str, Mapping[str, tuple[Estimate, tuple[str, ...]]]]


@dataclass(frozen=True)
class Side:
    """What one run says about one task under one protocol: a cell of the board, a side of a comparison.

    Attributes:
        run: name of the run folder.
        manifest: the run's.
        entry: the task under the protocol.
        cell: all figures of the entry.
        records: the entry's records.
    """

    run: str
    manifest: Manifest
    entry: Entry
    cell: CellSummary
    records: tuple[Record, ...]

    @property
    def readable(self) -> bool:
        """Whether the figures may be read: nothing is owed, and the tools did not fail."""
        return self.cell.complete and not (self.cell.tools is not None and self.cell.tools.invalid)

    @cached_property
    def items(self) -> Mapping[str, Item]:
        """Return sample id to score of the headline metric, in the manifest's order."""
        return self.items_of(self.entry.primary)

    def items_of(self, metric: str) -> Mapping[str, Item]:
        """Return sample id to score of one of the entry's metrics, in the manifest's order."""
        return {item.sample_id: item for item in metric_items(self.entry, metric, self.records, self.cell.attempts)}


@dataclass(frozen=True, slots=True)
class Reading:
    """What run folders hold.

    Attributes:
        sides: every entry of every run.
        runs: names of the run folders, from the innermost folder that holds them all.
        floors: see :data:`Floors`.
        judged: figures by a judge, of the runs that were judged.
        notes: what every reader of a number must know about the runs.
    """

    sides: tuple[Side, ...]
    runs: tuple[str, ...]
    floors: Floors
    judged: tuple[Judged, ...]
    notes: tuple[str, ...]


def read_runs(runs: Sequence[Path]) -> Reading:
    """Read run folders; they may be still running.

    Raises:
        RunLogError: if a folder is not a run, no run is given, or two runs disagree on a baseline.
    """
    if not runs:
        raise RunLogError("no run to make a board of", "name at least one run folder")
    # Resolved first: ".." and "." have no name of their own.
    folders = list(dict.fromkeys(folder.resolve() for folder in runs))
    # Two runs may bear the same name in different folders.
    above = Path(os.path.commonpath([folder.parent for folder in folders]))
    names = tuple(folder.relative_to(above).as_posix() for folder in folders)
    sides: list[Side] = []
    floors: dict[str, dict[str, tuple[Estimate, tuple[str, ...]]]] = {}
    judged: list[Judged] = []
    notes: list[str] = []
    for folder, name in zip(folders, names, strict=True):
        manifest, records = read_run(folder)
        sides += sides_of(name, manifest, records)
        _add_floors(floors, read_baselines(folder), name)
        judged += read_judged(folder, name, manifest, records)
        notes += run_notes(name, manifest)
    notes += _doubles(sides)
    return Reading(tuple(sides), names, floors, tuple(judged), tuple(notes))


def sides_of(run: str, manifest: Manifest, records: Sequence[Record]) -> tuple[Side, ...]:
    """Return one side per entry of a run, in the manifest's order.

    Args:
        run: name of the run folder.
        manifest: the run's.
        records: as :func:`vital_eval.run_log.read_run` gives them.
    """
    by_entry: dict[tuple[str, str], list[Record]] = {entry.key: [] for entry in manifest.entries}
    for record in records:
        by_entry[record.task, record.protocol].append(record)
    summary = summarise(manifest, records)
    return tuple(
        Side(run, manifest, entry, cell, tuple(by_entry[entry.key]))
        for entry, cell in zip(manifest.entries, summary.cells, strict=True)
    )


def run_notes(run: str, manifest: Manifest) -> tuple[str, ...]:
    """Return what every reader of a run's numbers must know."""
    notes = []
    if manifest.limit is not None:
        notes.append(f"Run {run} was limited to {manifest.limit} samples per task: a trial, not a result.")
    if manifest.shard is not None:
        notes.append(f"Run {run} is shard {manifest.shard} of a larger one.")
    if manifest.attempts > 1:
        notes.append(f"Run {run} answered every sample {manifest.attempts} times; an item's score is the mean.")
    return tuple(notes)


def _doubles(sides: Sequence[Side]) -> list[str]:
    """Name runs that hold the same episodes (a run and its rescored copy): they are no two witnesses."""
    origins: dict[tuple[str, str, str], list[str]] = {}
    for side in sides:
        manifest = side.manifest
        names = origins.setdefault((manifest.label, manifest.engine.fingerprint, manifest.created), [])
        if side.run not in names and manifest.shard is None:
            names.append(side.run)
    return [
        f"Runs {' and '.join(names)} hold the same episodes: they count twice in ranks and pairs. Name one of them."
        for names in origins.values()
        if len(names) > 1
    ]


def _add_floors(known: dict[str, dict[str, tuple[Estimate, tuple[str, ...]]]], more: Baselines, run: str) -> None:
    for task, names in more.items():
        for name, value in names.items():
            earlier = known.setdefault(task, {}).get(name)
            if earlier is not None and earlier[0] != value:
                raise RunLogError(
                    f"runs {earlier[1][0]} and {run} disagree on the baseline {name!r} of task {task}",
                    "summarise both again with the same version and data",
                )
            known[task][name] = (value, (*(earlier[1] if earlier else ()), run))
