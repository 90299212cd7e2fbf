"""The board: everything that is shown, derived from the logs of runs."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vital_eval.errors import MissingExtraError, RunLogError
from vital_eval.registry import Registry
from vital_eval.statistics.means import Estimate

from .cells import Cell, Column, Kind, Row, Status
from .comparison import Comparison
from .judged import Judged
from .knowledge import Gain, gains_of
from .lines import gather_lines
from .pairs import Pairs, detectable
from .parts import PartRow, parts_of
from .ranking import ranks_of
from .repeats import Repeat, repeats_of
from .rows import baseline_rows, is_graded, measured_row
from .sides import Reading, Side, read_runs
from .training_data import TrainedOn, read_register

__all__ = ["Board", "Cell", "Column", "Kind", "Row", "Status", "build_board", "make_board", "titles_of"]


@dataclass(frozen=True, slots=True)
class Board:
    """A leaderboard.

    Attributes:
        columns: benchmarks, sorted by registry name.
        rows: per checkpoint blind, direct, cot and tool; then the baselines.
        comparisons: tool minus text chain of thought, per checkpoint and task, and pooled. Holm's p per checkpoint.
        runs: names of the run folders, from the innermost folder that holds them all.
        command: what writes this board again, from the folder that holds the runs.
        notes: what every reader must know.
        pairs: all pairs of measured rows that may be compared, with Benjamini and Hochberg's p over all of them.
        repeats: figures over several answers per sample, for runs that have them.
        parts: headline figures by attribute of the samples.
        gains: gain over the question alone, for benchmarks that report it.
        judged: figures by a judge, for runs that were judged.
        floors: task to name of a baseline to its estimate.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    runs: tuple[str, ...]
    command: str
    notes: tuple[str, ...]
    pairs: tuple[Comparison, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    parts: tuple[PartRow, ...] = ()
    gains: tuple[Gain, ...] = ()
    judged: tuple[Judged, ...] = ()
    floors: Mapping[str, Mapping[str, Estimate]] = dataclasses.field(default_factory=dict)


def build_board(runs: Sequence[Path], titles: Mapping[str, str] | None = None) -> Board:
    """Build a board from run folders.

    All numbers are worked out again from the records; only baselines come from ``summary.json``, because they need
    the annotations.

    Args:
        runs: run folders; they may be still running (their cells are then incomplete).
        titles: task to printed title; registered tasks are looked up if it is not given.

    Raises:
        RunLogError: if a folder is not a run, no run is given, or two runs answer different samples of a task,
            score them differently, or disagree on a baseline.
    """
    return make_board(read_runs(runs), titles)


def make_board(
    reading: Reading, titles: Mapping[str, str] | None = None, register: Sequence[TrainedOn] | None = None
) -> Board:
    """Build a board from runs that were read.

    Args:
        reading: see :func:`vital_eval.leaderboards.sides.read_runs`.
        titles: as for :func:`build_board`.
        register: which checkpoints were trained on data of which benchmarks; the package's own if it is not given.

    Raises:
        RunLogError: if two runs answer different samples of a task or score them differently.
    """
    sides = reading.sides
    _check_columns(sides)
    tasks = sorted({side.entry.task for side in sides})
    known = titles_of(tasks)
    named = {task: title for task, (title, _) in known.items()} if titles is None else titles
    columns = tuple(_column(task, named, sides) for task in tasks)
    lines = gather_lines(sides)
    pairs = Pairs(lines, columns)
    every, tool_text = pairs.all(), pairs.tool_against_text()
    columns = tuple(
        # Tool against text is what the board is about; without it, any pair tells how fine the benchmark sees.
        dataclasses.replace(column, detectable=detectable(tool_text or every, column.task))
        for column in columns
    )
    ranks = {column.task: ranks_of(lines, column.task) for column in columns}
    graded = {task for task in tasks if is_graded([side for side in sides if side.entry.task == task])}
    rows = [
        measured_row(
            line,
            columns,
            {task: places[index] for task, places in ranks.items() if index in places},
            pairs.against_text(line),
            graded,
            read_register() if register is None else register,
        )
        for index, line in enumerate(lines)
    ]
    whole = [
        (line.shown, [(column.title, line.parts[column.task]) for column in columns if column.task in line.parts])
        for line in lines
    ]
    return Board(
        columns=columns,
        rows=(*rows, *baseline_rows(columns, reading.floors)),
        comparisons=tool_text,
        runs=reading.runs,
        command=shlex.join(["vital-eval", "board", *reading.runs, "--out", "board"]),
        notes=reading.notes,
        pairs=every,
        repeats=repeats_of(whole),
        parts=parts_of(whole),
        gains=gains_of(
            lines,
            {task: metric for task, (_, metric) in known.items() if metric},
            {column.task: column.title for column in columns},
        ),
        judged=reading.judged,
        floors={task: {name: value for name, (value, _) in names.items()} for task, names in reading.floors.items()},
    )


def _check_columns(parts: Sequence[Side]) -> None:
    first: dict[str, Side] = {}
    for part in parts:
        one, other = first.setdefault(part.entry.task, part).entry, part.entry
        fields = [
            name for name in ("primary", "scorer_version", "data_hash") if getattr(one, name) != getattr(other, name)
        ]
        # Order does not matter to a mean; which samples there are does.
        if set(one.samples) != set(other.samples):
            fields.append("samples")
        if fields:
            raise RunLogError(
                f"runs {first[one.task].run} and {part.run} cannot share the column of task {one.task}: "
                f"they differ in {', '.join(fields)}",
                "make a board of each",
            )


def titles_of(tasks: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return task to its title and the metric whose gain over the question alone it reports (``""`` if none).

    Tasks that are not registered keep their name.
    """
    registry = Registry("task")
    known = {}
    for task in tasks:
        known[task] = (task, "")
        if task in registry.names():
            try:
                found = registry.load(task)
            except MissingExtraError:
                continue  # A board needs no task's optional packages; the registry name will do.
            known[task] = (found.title, found.gain_metric)
    return known


def _column(task: str, titles: Mapping[str, str], parts: Sequence[Side]) -> Column:
    entry = next(part.entry for part in parts if part.entry.task == task)
    # What the headline counts: MMVU's leaves the open questions out.
    counted = max((part.cell.headline for part in parts if part.entry.task == task), key=lambda one: one.n)
    return Column(task, titles.get(task, task), entry.primary, counted.n, counted.clusters)
