"""What a board says, as plain text: the words that all renderers share. Escaping is theirs."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from vital_eval.statistics.means import Estimate
from vital_eval.summary import OUTCOME_NAMES

from .board import Board, Cell, Column, Row, Status

TITLE = "vital-eval board"
PAIRED_TITLE = "Tool minus text-only chain of thought"
OUTCOME_TITLE = "Outcomes"

#: Shown where there is nothing to show.
NOTHING = "–"  # noqa: RUF001

INTERVAL_NOTE = (
    "Scores are percent of the benchmark's headline metric over all n samples; a missing or unusable answer counts 0 "
    "(n 24 in 12: 24 samples about 12 videos or scenes). "
    "Brackets hold the 95 % interval, clustered by video (t with clusters - 1 degrees of freedom; near 0 and 100 "
    "Wilson's interval with the effective sample size). Overlapping intervals do not test a difference: the paired "
    "table does."
)

PAIRED_NOTE = (
    "Tool minus text-only chain of thought in points, over the same samples, with the 95 % interval clustered by "
    "video. Intervals are not adjusted for the number of benchmarks."
)

OUTCOME_NOTE = (
    "Every attempt has exactly one outcome and the counts add up to n. Only answered attempts can score; infra-failed "
    "and owed ones are neither right nor wrong and hold the number back."
)

TOOL_NOTE = "Calls over all attempts that ended. A run is INVALID when more than half of its tool calls fail."

COST_NOTE = (
    "Means per attempt. Seconds are from question to answer while episodes share a batch, so they tell waiting time, "
    "not machine time. Visual tokens are those in the last turn's context."
)

BASELINE_NOTE = "Baselines look at no video: they show what a number is worth."


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table below the main one.

    Attributes:
        title: heading.
        note: what the numbers mean.
        header: column names.
        rows: texts, as many per row as the header has.
        words: how many leading columns hold words; the others hold numbers, remarks apart.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int

    def holds_words(self, index: int) -> bool:
        """Tell whether a column is read as text (and set flush left)."""
        return index < self.words or self.header[index] in ("remark", "errors", "verdict")


def clean(text: str) -> str:
    """Replace what could act on a terminal or a page: control, direction, surrogate and private characters."""
    return "".join(
        "\ufffd" if unicodedata.category(character)[0] == "C" or character in "\u2028\u2029" else character
        for character in text
    )


def percent(value: float | None) -> str:
    """Write a score in [0, 1] as percent with one decimal."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def interval(low: float | None, high: float | None) -> str:
    """Write an interval on the scale of :func:`percent`."""
    return "not estimable" if low is None or high is None else f"[{percent(low)}, {percent(high)}]"


def points(estimate: Estimate) -> str:
    """Write a difference in points with its sign."""
    if estimate.value is None:
        return NOTHING
    rounded = round(100 * estimate.value, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def cell_texts(cell: Cell) -> tuple[str, str]:
    """Return what a cell shows large, and what it shows small."""
    if cell.status is Status.ABSENT:
        return (NOTHING, "")
    if cell.status is Status.INCOMPLETE:
        return ("incomplete", clean(cell.note.split(",")[0].split(";")[0]))
    if cell.status is Status.INVALID:
        return ("INVALID", "tools fail")
    mark = " †" if cell.note else ""
    return (percent(cell.value) + mark, interval(cell.low, cell.high))


def mode_text(row: Row) -> str:
    """Return the mode of a row, or ``baseline``."""
    return "baseline" if row.mode is None else row.mode.value


def size_text(column: Column) -> str:
    """Return how many samples in how many clusters a column has."""
    return f"n {column.n} in {column.clusters}"


def remarks(board: Board) -> tuple[str, ...]:
    """Return what every reader must know, cells marked † included."""
    gathered: dict[tuple[str, str, str], list[str]] = {}
    for row in board.rows:
        for column, cell in zip(board.columns, row.cells, strict=True):
            if cell.note and cell.status is Status.OK:
                gathered.setdefault((row.label, mode_text(row), cell.note), []).append(column.title)
    marked = [f"† {label}, {mode}: {note} ({', '.join(titles)})" for (label, mode, note), titles in gathered.items()]
    return tuple(clean(text) for text in (*board.notes, *marked))


def further_tables(board: Board) -> tuple[TextTable, ...]:
    """Return the tables below the main one; tables without rows are left out."""
    tables = (_paired(board), _outcomes(board), _tools(board), _costs(board), _protocols(board))
    return tuple(table for table in tables if table.rows)


def _table(title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> TextTable:
    return TextTable(title, note, tuple(header), tuple(tuple(clean(text) for text in row) for row in rows), words)


def _paired(board: Board) -> TextTable:
    rows = []
    for one in board.comparisons:
        if one.difference is None:
            rows.append((one.label, one.title, one.metric, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, one.note))
            continue
        delta = one.difference
        counts = (str(delta.n), str(delta.clusters), str(one.dropped))
        rows.append(
            (one.label, one.title, one.metric, points(delta), interval(delta.low, delta.high), *counts, one.note)
        )
    header = ("checkpoint", "benchmark", "metric", "difference", "95 % interval", "n", "clusters", "dropped", "remark")
    return _table(PAIRED_TITLE, PAIRED_NOTE, header, rows, 3)


def _outcomes(board: Board) -> TextTable:
    rows = [
        (
            row.label,
            mode_text(row),
            *(str(row.outcomes[name]) for name in OUTCOME_NAMES),
            str(sum(row.outcomes.values())),
        )
        for row in board.rows
        if row.outcomes
    ]
    return _table(OUTCOME_TITLE, OUTCOME_NOTE, ("checkpoint", "mode", *OUTCOME_NAMES, "n"), rows, 2)


def _tools(board: Board) -> TextTable:
    rows = []
    for row in board.rows:
        for title, tools in row.tools.items():
            errors = sorted(tools.errors.items(), key=lambda pair: (-pair[1], pair[0]))
            rows.append(
                (
                    row.label,
                    title,
                    str(tools.calls),
                    f"{tools.calls_per_attempt:.2f}",
                    percent(tools.success_share),
                    percent(tools.using_share),
                    ", ".join(f"{code} {count}" for code, count in errors) or NOTHING,
                    tools.verdict,
                )
            )
    header = ("checkpoint", "benchmark", "calls", "calls per attempt", "succeeding %", "attempts using %")
    return _table("Tool health", TOOL_NOTE, (*header, "errors", "verdict"), rows, 2)


def _costs(board: Board) -> TextTable:
    rows = [
        (
            row.label,
            mode_text(row),
            f"{row.cost.seconds:.2f}",
            f"{row.cost.frames:.1f}",
            f"{row.cost.visual_tokens:.0f}",
            f"{row.cost.new_tokens:.1f}",
            f"{row.cost.turns:.2f}",
            str(row.cost.attempts),
        )
        for row in board.rows
        if row.cost is not None
    ]
    header = ("checkpoint", "mode", "seconds", "frames", "visual tokens", "new tokens", "turns", "attempts")
    return _table("Cost", COST_NOTE, header, rows, 2)


def _protocols(board: Board) -> TextTable:
    rows = []
    for row in board.rows:
        by_hash: dict[str, list[str]] = {}
        for title, value in row.protocols.items():
            by_hash.setdefault(value, []).append(title)
        runs = ", ".join(sorted({run for cell in row.cells for run in cell.runs}))
        rows += [
            (row.label, mode_text(row), row.badge, value, ", ".join(titles), runs) for value, titles in by_hash.items()
        ]
    note = "Equal hashes mean equal recipes. The whole recipe is in each run's manifest."
    return _table("Protocols", note, ("checkpoint", "mode", "protocol", "hash", "benchmarks", "runs"), rows, 6)
