"""A board as CSV, one line per cell, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io

from .board import Board
from .tables import clean, mode_text

HEADER = (
    "checkpoint",
    "kind",
    "mode",
    "protocol",
    "task",
    "metric",
    "percent",
    "percent_low",
    "percent_high",
    "n",
    "clusters",
    "status",
    "runs",
    "note",
    "command",
)

#: A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@")


def render_csv(board: Board) -> str:
    """Return the cells of the board; numbers are percent with full precision, empty where there is none.

    Texts that a spreadsheet would take for a formula get an apostrophe in front.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")  # RFC 4180
    writer.writerow(HEADER)
    for row in board.rows:
        for column, cell in zip(board.columns, row.cells, strict=True):
            texts = (row.label, row.kind.value, mode_text(row), row.badge, column.task, column.metric)
            numbers = ("" if value is None else repr(100 * value) for value in (cell.value, cell.low, cell.high))
            rest = (cell.status.value, " ".join(cell.runs), cell.note, board.command)
            writer.writerow((*map(_guard, texts), *numbers, str(cell.n), str(cell.clusters), *map(_guard, rest)))
    return out.getvalue()


def _guard(text: str) -> str:
    text = clean(text)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
