"""Rows, columns and cells, all derived from the logs of runs."""

from __future__ import annotations

import os
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vital_eval.engine import EngineInfo
from vital_eval.errors import MissingExtraError, RunLogError
from vital_eval.manifest import Manifest
from vital_eval.outcome import Outcome
from vital_eval.protocol import Mode, Protocol, differing_fields
from vital_eval.record import Record
from vital_eval.registry import Registry
from vital_eval.run_log import read_run
from vital_eval.statistics.means import Estimate
from vital_eval.summary import OUTCOME_NAMES, Baselines, ToolHealth, read_baselines, summarise

from .comparison import Comparison, Side, compare, compare_pooled
from .cost import Cost, cost_of


class Status(StrEnum):
    """Whether a cell has a number that may be read."""

    OK = "ok"
    INCOMPLETE = "incomplete"
    INVALID = "invalid"
    ABSENT = "absent"


class Kind(StrEnum):
    """Where a row's numbers come from."""

    MEASURED = "measured"
    BASELINE = "baseline"


@dataclass(frozen=True, slots=True)
class Column:
    """One benchmark.

    Attributes:
        task: registry name.
        title: name as printed.
        metric: name of the headline metric.
        n: samples, the same for every row.
        clusters: videos (VSI-Bench: scenes) among them.
    """

    task: str
    title: str
    metric: str
    n: int
    clusters: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One number, or the reason why there is none.

    Attributes:
        value: headline metric in [0, 1]; ``None`` unless the status is ok.
        low: lower end of its 95 % interval, ``None`` if it cannot be estimated.
        high: upper end, likewise.
        n: samples that count.
        clusters: clusters among them.
        status: see :class:`Status`.
        runs: names of the run folders it comes from.
        note: what a reader must know (why there is no number, limited run, tools never called).
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    status: Status
    runs: tuple[str, ...] = ()
    note: str = ""


_ABSENT = Cell(None, None, None, 0, 0, Status.ABSENT)


@dataclass(frozen=True, slots=True)
class Row:
    """One checkpoint under one mode, or one baseline.

    Attributes:
        label: checkpoint or baseline name.
        badge: the protocol in a few words.
        kind: see :class:`Kind`.
        mode: mode of a measured row, ``None`` for a baseline.
        cells: one per column of the board.
        outcomes: every outcome to its number of attempts, over all columns; empty for a baseline.
        cost: mean cost of an attempt over all columns.
        tools: task title to tool health, for the tool mode.
        protocols: task title to protocol hash.
    """

    label: str
    badge: str
    kind: Kind
    mode: Mode | None
    cells: tuple[Cell, ...]
    outcomes: Mapping[str, int]
    cost: Cost | None
    tools: Mapping[str, ToolHealth]
    protocols: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Board:
    """A leaderboard.

    Attributes:
        columns: benchmarks, sorted by registry name.
        rows: per checkpoint direct, cot and tool; then the baselines.
        comparisons: tool minus text chain of thought, per checkpoint and task, and pooled.
        runs: names of the run folders, from the innermost folder that holds them all.
        command: what writes this board again, from the folder that holds the runs.
        notes: what every reader must know.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    runs: tuple[str, ...]
    command: str
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Line:
    """A measured row while parts are being gathered."""

    label: str
    engine: EngineInfo
    protocol: Protocol
    parts: dict[str, Side]
    shown: str


#: What one recipe may set for each benchmark; protocols that differ in more are rows of their own.
_PER_TASK_FIELDS = {"view.max_frames", "view.max_pixels"}

_MODE_ORDER = {Mode.DIRECT: 0, Mode.COT: 1, Mode.TOOL: 2}


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
    if not runs:
        raise RunLogError("no run to make a board of", "name at least one run folder")
    # Resolved first: ".." and "." have no name of their own.
    folders = list(dict.fromkeys(folder.resolve() for folder in runs))
    parts: list[Side] = []
    baselines: dict[str, dict[str, tuple[Estimate, tuple[str, ...]]]] = {}
    notes: list[str] = []
    # Two runs may bear the same name in different folders.
    above = Path(os.path.commonpath([folder.parent for folder in folders]))
    names = tuple(folder.relative_to(above).as_posix() for folder in folders)
    for folder, name in zip(folders, names, strict=True):
        manifest, records = read_run(folder)
        parts += _parts(name, manifest, records)
        _add_baselines(baselines, read_baselines(folder), name)
        notes += _run_notes(name, manifest)
    _check_columns(parts)
    named = _titles({part.entry.task for part in parts}) if titles is None else titles
    columns = tuple(_column(task, named, parts) for task in sorted({part.entry.task for part in parts}))
    lines = _lines(parts)
    rows = [_measured(line, columns) for line in lines]
    rows += _baseline_rows(columns, baselines)
    return Board(
        columns=columns,
        rows=tuple(rows),
        comparisons=_comparisons(lines, columns),
        runs=names,
        command=shlex.join(["vital-eval", "board", *names, "--out", "board"]),
        notes=tuple(notes),
    )


def _parts(run: str, manifest: Manifest, records: Iterable[Record]) -> list[Side]:
    by_entry: dict[tuple[str, str], list[Record]] = {entry.key: [] for entry in manifest.entries}
    for record in records:
        by_entry[record.task, record.protocol].append(record)
    summary = summarise(manifest, (record for inside in by_entry.values() for record in inside))
    return [
        Side(run, manifest, entry, cell, tuple(by_entry[entry.key]))
        for entry, cell in zip(manifest.entries, summary.cells, strict=True)
    ]


def _run_notes(run: str, manifest: Manifest) -> list[str]:
    notes = []
    if manifest.limit is not None:
        notes.append(f"Run {run} was limited to {manifest.limit} samples per task: a trial, not a result.")
    if manifest.shard is not None:
        notes.append(f"Run {run} is shard {manifest.shard} of a larger one.")
    if manifest.attempts > 1:
        notes.append(f"Run {run} answered every sample {manifest.attempts} times; an item's score is the mean.")
    return notes


def _add_baselines(known: dict[str, dict[str, tuple[Estimate, tuple[str, ...]]]], more: Baselines, run: str) -> None:
    for task, names in more.items():
        for name, value in names.items():
            earlier = known.setdefault(task, {}).get(name)
            if earlier is not None and earlier[0] != value:
                raise RunLogError(
                    f"runs {earlier[1][0]} and {run} disagree on the baseline {name!r} of task {task}",
                    "summarise both again with the same version and data",
                )
            known[task][name] = (value, (*(earlier[1] if earlier else ()), run))


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


def _titles(tasks: Iterable[str]) -> dict[str, str]:
    registry = Registry("task")
    titles = {}
    for task in tasks:
        titles[task] = task
        if task in registry.names():
            try:
                titles[task] = registry.load(task).title
            except MissingExtraError:
                continue  # A board needs no task's optional packages; the registry name will do.
    return titles


def _column(task: str, titles: Mapping[str, str], parts: Sequence[Side]) -> Column:
    entry = next(part.entry for part in parts if part.entry.task == task)
    clusters = len({cluster for _, cluster in entry.samples})
    return Column(task, titles.get(task, task), entry.primary, len(entry.samples), clusters)


def _lines(parts: Sequence[Side]) -> list[_Line]:
    """Gather parts into rows: same checkpoint, engine and recipe, and one part per task."""
    lines: list[_Line] = []
    for part in parts:
        label, engine, protocol = part.manifest.label, part.manifest.engine, part.entry.protocol
        for line in lines:
            if (
                (line.label, line.engine, line.protocol.name) == (label, engine, protocol.name)
                and set(differing_fields(line.protocol, protocol)) <= _PER_TASK_FIELDS
                and part.entry.task not in line.parts
            ):
                line.parts[part.entry.task] = part
                break
        else:
            lines.append(_Line(label, engine, protocol, {part.entry.task: part}, label))
    order = list(dict.fromkeys((line.label, line.engine.fingerprint) for line in lines))
    _tell_apart(lines)
    shown = list(dict.fromkeys(line.shown for line in lines))
    lines.sort(
        key=lambda line: (
            order.index((line.label, line.engine.fingerprint)),
            shown.index(line.shown),
            _MODE_ORDER[line.protocol.mode],
        )
    )
    return lines


def _measured(line: _Line, columns: Sequence[Column]) -> Row:
    parts = [line.parts[column.task] for column in columns if column.task in line.parts]
    titles = {column.task: column.title for column in columns}
    return Row(
        label=line.shown,
        badge=_badge([part.entry.protocol for part in parts]),
        kind=Kind.MEASURED,
        mode=line.protocol.mode,
        cells=tuple(_cell(line.parts[column.task]) if column.task in line.parts else _ABSENT for column in columns),
        outcomes={name: sum(part.cell.outcomes[name] for part in parts) for name in OUTCOME_NAMES},
        cost=cost_of(record for part in parts for record in part.records),
        tools={titles[part.entry.task]: part.cell.tools for part in parts if part.cell.tools is not None},
        protocols={titles[part.entry.task]: part.entry.protocol.hash for part in parts},
    )


def _tell_apart(lines: Sequence[_Line]) -> None:
    """Rename lines that would read the same (another recipe, run or checkpoint) by what tells them apart."""
    alike: defaultdict[tuple[str, Mode], list[_Line]] = defaultdict(list)
    for line in lines:
        alike[line.label, line.protocol.mode].append(line)
    for inside in alike.values():
        if len(inside) > 1:
            marks = [(line.protocol.name, _run_names(line), f"protocol {line.protocol.hash}") for line in inside]
            kinds = [kind for kind in zip(*marks, strict=True) if len(set(kind)) == len(inside)]
            chosen = kinds[0] if kinds else [" · ".join(mark) for mark in marks]
            for line, words in zip(inside, chosen, strict=True):
                line.shown = f"{line.label} · {words}"


def _run_names(line: _Line) -> str:
    return f"run {', '.join(sorted({part.run for part in line.parts.values()}))}"


def _badge(protocols: Sequence[Protocol]) -> str:
    first = protocols[0]
    caps = sorted({protocol.view.max_frames for protocol in protocols})
    frames = f"{caps[0]} to {caps[-1]}" if len(caps) > 1 else f"{caps[0]}"
    words = [first.name, f"{first.view.fps:g} fps", f"at most {frames} frames"]
    if first.max_tool_calls:
        words.append(f"at most {first.max_tool_calls} tool call{'s' if first.max_tool_calls > 1 else ''}")
    words.append("greedy" if first.sampling.temperature == 0 else f"temperature {first.sampling.temperature:g}")
    if first.subtitles:
        words.append("subtitles")
    return " · ".join(words)


def _cell(part: Side) -> Cell:
    cell, head = part.cell, part.cell.headline
    status, notes = Status.OK, []
    if not cell.complete:
        status = Status.INCOMPLETE
        owed = f"{cell.missing} owed"
        failed = cell.outcomes[Outcome.INFRA_FAILED]
        notes.append(f"{owed}, {failed} of them after a failure of the machinery" if failed else owed)
    if cell.tools is not None and cell.tools.verdict.startswith(("INVALID", "WARNING")):
        notes.append(cell.tools.verdict)
        if cell.tools.invalid:
            status = Status.INVALID
    if part.manifest.limit is not None:
        notes.append(f"limited to {part.manifest.limit} samples")
    if part.manifest.shard is not None:
        notes.append(f"shard {part.manifest.shard} only")
    value, low, high = (head.value, head.low, head.high) if status is Status.OK else (None, None, None)
    return Cell(value, low, high, head.n, head.clusters, status, (part.run,), "; ".join(notes))


def _baseline_rows(
    columns: Sequence[Column], baselines: Mapping[str, Mapping[str, tuple[Estimate, tuple[str, ...]]]]
) -> list[Row]:
    present = {name for column in columns for name in baselines.get(column.task, ())}
    known = [name for name in ("whole video", "random") if name in present]
    rows = []
    for name in (*known, *sorted(present - set(known))):
        cells = []
        for column in columns:
            found = baselines.get(column.task, {}).get(name)
            if found is None or found[0].value is None:
                cells.append(_ABSENT)
            else:
                value, runs = found
                cells.append(Cell(value.value, value.low, value.high, value.n, value.clusters, Status.OK, runs))
        rows.append(Row(name, "no model", Kind.BASELINE, None, tuple(cells), {}, None, {}, {}))
    return rows


def _comparisons(lines: Sequence[_Line], columns: Sequence[Column]) -> tuple[Comparison, ...]:
    found: list[Comparison] = []
    texts = [line for line in lines if line.protocol.mode is Mode.COT]
    for tool in (line for line in lines if line.protocol.mode is Mode.TOOL):
        for text in texts:
            if (text.label, text.engine.fingerprint) != (tool.label, tool.engine.fingerprint):
                continue
            shared = [column for column in columns if column.task in tool.parts and column.task in text.parts]
            label = tool.shown if text.shown == text.label else f"{tool.shown} against {text.shown}"
            pairs = [(c.title, tool.parts[c.task], text.parts[c.task]) for c in shared]
            found += [compare(label, title, a, b) for title, a, b in pairs]
            pooled = compare_pooled(label, [(a, b) for _, a, b in pairs])
            found += [pooled] if pooled is not None else []
    return tuple(found)
