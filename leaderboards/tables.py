"""What a board says, as plain text: the words that all renderers share. Escaping is theirs."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vital_eval.statistics.means import Estimate

from .board import Board, Cell, Column, Row, Status

TITLE = "vital-eval board"

#: Shown where there is nothing to show.
NOTHING = "–"  # noqa: RUF001

INTERVAL_NOTE = (
    "Scores are percent of the benchmark's headline metric over all n samples that it counts; a missing or unusable "
    "answer counts 0 (n 24 in 12: 24 samples about 12 videos or scenes). "
    "Brackets hold the 95 % interval, clustered by video (t with clusters - 1 degrees of freedom; near 0 and 100 "
    "Wilson's interval with the effective sample size). Overlapping intervals do not test a difference: the paired "
    "table does. MDE is the smallest difference between tool use and text that the benchmark's samples would show in "
    "four of five cases (2.8 standard errors of the paired difference), in points. Ranks are 95 % ranges under a "
    "bootstrap of videos over the measured rows; rows that share a rank are not told apart. Δ is the paired difference "
    "to the same checkpoint's text-only chain of thought in points, with Holm's p over the benchmarks of the row."
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


def text_table(title: str, note: str, header: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> TextTable:
    """Return a table whose texts are cleaned."""
    return TextTable(title, note, tuple(header), tuple(tuple(clean(text) for text in row) for row in rows), words)


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


def p_text(p: float | None) -> str:
    """Write a p value with three decimals."""
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


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


def rank_text(cell: Cell) -> str:
    """Return the range of a cell's rank, ``""`` if it has none."""
    if cell.rank is None:
        return ""
    best, worst = cell.rank
    return f"rank {best}" if best == worst else f"rank {best}{NOTHING}{worst}"


def delta_text(cell: Cell) -> str:
    """Return a cell's difference to its text-only sibling with Holm's p, ``""`` if it has none."""
    if cell.delta is None or cell.delta.difference is None:
        return ""
    return f"\u0394 {points(cell.delta.difference)} (p {p_text(cell.delta.adjusted)})"


def mode_text(row: Row) -> str:
    """Return the mode of a row, or ``baseline``."""
    return "baseline" if row.mode is None else row.mode.value


def size_text(column: Column) -> str:
    """Return how many samples in how many clusters a column has."""
    return f"n {column.n} in {column.clusters}"


def detectable_text(column: Column) -> str:
    """Return the smallest detectable difference of a column, ``""`` if nothing is compared."""
    return "" if column.detectable is None else f"MDE {percent(column.detectable)}"


def _conclusions(board: Board) -> list[str]:
    """Say in one sentence a checkpoint on how many benchmarks tool use was shown to be better or worse than text."""
    said = []
    for label in dict.fromkeys(one.label for one in board.comparisons):
        own = [one for one in board.comparisons if one.label == label and one.task and one.adjusted is not None]
        if own:
            counts = [sum(one.verdict == word for one in own) for word in ("better", "worse")]
            said.append(
                f"{label}: tool use against text-only chain of thought is better on {counts[0]} of {len(own)} "
                f"benchmarks, worse on {counts[1]}, and no difference is shown on {len(own) - sum(counts)}."
            )
    return said


def remarks(board: Board) -> tuple[str, ...]:
    """Return what every reader must know, cells marked † included."""
    gathered: dict[tuple[str, str, str], list[str]] = {}
    for row in board.rows:
        for column, cell in zip(board.columns, row.cells, strict=True):
            if cell.note and cell.status is Status.OK:
                gathered.setdefault((row.label, mode_text(row), cell.note), []).append(column.title)
    marked = [f"† {label}, {mode}: {note} ({', '.join(titles)})" for (label, mode, note), titles in gathered.items()]
    return tuple(clean(text) for text in (*_conclusions(board), *board.notes, *marked))
