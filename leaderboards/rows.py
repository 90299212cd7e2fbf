"""Rows of a board: measured ones from their sides, baselines from the runs' summaries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from vital_eval.outcome import Outcome
from vital_eval.protocol import Protocol
from vital_eval.summary import OUTCOME_NAMES

from .cells import ABSENT, Cell, Column, Kind, Row, Status
from .comparison import Comparison
from .cost import cost_of, price_of
from .lines import Line
from .rules import is_blind
from .sides import Floors, Side
from .training_data import TrainedOn, remark_on

#: Above this share of unusable answers a score says more about their form than about what the model knows.
_MOSTLY = 0.5

#: Order of the baselines; others follow by name.
_BASELINES = ("whole video", "centre span", "prior span", "random", "majority option")


def measured_row(
    line: Line,
    columns: Sequence[Column],
    ranks: Mapping[str, tuple[int, int]],
    deltas: Mapping[str, Comparison],
    graded: Collection[str],
    register: Sequence[TrainedOn],
) -> Row:
    """Return the row of a checkpoint under a mode.

    Args:
        line: its sides.
        columns: of the board.
        ranks: task to best and worst rank.
        deltas: task to the difference to the text-only chain of thought.
        graded: tasks whose scores are not only 0 and 1.
        register: which checkpoints were trained on data of which benchmarks.
    """
    parts = [line.parts[column.task] for column in columns if column.task in line.parts]
    titles = {column.task: column.title for column in columns}
    cells = []
    for column in columns:
        task = column.task
        if task in line.parts:
            seen = remark_on(register, line.label, task)
            cells.append(_cell(line.parts[task], ranks.get(task), deltas.get(task), task in graded, seen))
        else:
            cells.append(ABSENT)
    return Row(
        label=line.shown,
        badge=_badge([part.entry.protocol for part in parts]),
        kind=Kind.MEASURED,
        mode=line.mode,
        cells=tuple(cells),
        outcomes={name: sum(part.cell.outcomes[name] for part in parts) for name in OUTCOME_NAMES},
        cost=cost_of(record for part in parts for record in part.records),
        tools={titles[part.entry.task]: part.cell.tools for part in parts if part.cell.tools is not None},
        protocols={titles[part.entry.task]: part.entry.protocol.hash for part in parts},
        attempts=sum(part.cell.n * part.cell.attempts for part in parts),
    )


def baseline_rows(columns: Sequence[Column], floors: Floors) -> list[Row]:
    """Return one row per trivial answerer that any run reports."""
    present = {name for column in columns for name in floors.get(column.task, ())}
    known = [name for name in _BASELINES if name in present]
    return [
        Row(
            name,
            "no model",
            Kind.BASELINE,
            None,
            tuple(_floor(column, name, floors) for column in columns),
            {},
            None,
            {},
            {},
        )
        for name in (*known, *sorted(present - set(known)))
    ]


def is_graded(sides: Sequence[Side]) -> bool:
    """Tell whether a headline score other than 0 and 1 occurs on a benchmark."""
    return any(
        record.scores[side.entry.metrics[side.entry.primary]] not in (None, 0, 1)
        for side in sides
        for record in side.records
    )


def _floor(column: Column, name: str, floors: Floors) -> Cell:
    found = floors.get(column.task, {}).get(name)
    if found is None or found[0].value is None:
        return ABSENT
    value, runs = found
    return Cell(value.value, value.low, value.high, value.n, value.clusters, Status.OK, runs)


def _cell(part: Side, rank: tuple[int, int] | None, delta: Comparison | None, graded: bool, seen: str) -> Cell:
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
    unusable = cell.n * cell.attempts - cell.outcomes[Outcome.ANSWERED]
    if status is Status.OK and unusable > _MOSTLY * cell.n * cell.attempts:
        notes.append(f"WARNING: {unusable} of {cell.n * cell.attempts} answers are unusable; this is hardly a score")
    if part.manifest.limit is not None:
        notes.append(f"limited to {part.manifest.limit} samples")
    if part.manifest.shard is not None:
        notes.append(f"shard {part.manifest.shard} only")
    note = "; ".join([*notes, seen] if seen else notes)
    if status is not Status.OK:
        return Cell(None, None, None, head.n, head.clusters, status, (part.run,), note)
    price = price_of(part.records, part.entry.metrics[part.entry.primary], graded)
    return Cell(head.value, head.low, head.high, head.n, head.clusters, status, (part.run,), note, rank, delta, price)


def _badge(protocols: Sequence[Protocol]) -> str:
    first = protocols[0]
    words = [first.name]
    if is_blind(first.mode):
        words.append("no video")
    else:
        caps = sorted({protocol.view.max_frames for protocol in protocols})
        frames = f"{caps[0]} to {caps[-1]}" if len(caps) > 1 else f"{caps[0]}"
        words += [f"{first.view.fps:g} fps", f"at most {frames} frames"]
    if first.max_tool_calls:
        words.append(f"at most {first.max_tool_calls} tool call{'s' if first.max_tool_calls > 1 else ''}")
    words.append("greedy" if first.sampling.temperature == 0 else f"temperature {first.sampling.temperature:g}")
    if first.subtitles:
        words.append("subtitles")
    return " · ".join(words)
