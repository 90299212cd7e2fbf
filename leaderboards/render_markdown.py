"""A board as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .board import Board, Row
from .tables import (
    BASELINE_NOTE,
    INTERVAL_NOTE,
    TITLE,
    TextTable,
    cell_texts,
    clean,
    further_tables,
    mode_text,
    remarks,
    size_text,
)

#: Everything that starts a construct inside a table cell or a paragraph. Left alone: - and ., which act only at the
#: start of a line, where no cell stands.
_SPECIAL = frozenset("\\`*_{}[]|~$#@")


def render_markdown(board: Board) -> str:
    """Return the page; labels and notes are escaped, so they can bring neither markup nor HTML."""
    lines = [f"# {TITLE}", "", _escape(INTERVAL_NOTE), "", f"Written by `{_code(board.command)}`.", ""]
    lines += [f"- {_escape(remark)}" for remark in remarks(board)]
    header = ["checkpoint", "mode"]
    header += [f"{column.title}<br>{column.metric}<br>{size_text(column)}" for column in board.columns]
    escaped = [*header[:2], *("<br>".join(_escape(clean(part)) for part in name.split("<br>")) for name in header[2:])]
    lines += ["", *_grid(escaped, [_main_row(row) for row in board.rows], [index < 2 for index in range(len(header))])]
    if any(row.mode is None for row in board.rows):
        lines += ["", _escape(BASELINE_NOTE)]
    for table in further_tables(board):
        lines += ["", f"## {_escape(table.title)}", "", _escape(table.note), "", *_further(table)]
    return "\n".join(lines) + "\n"


def _main_row(row: Row) -> list[str]:
    cells = []
    for cell in row.cells:
        large, small = cell_texts(cell)
        cells.append(_escape(large) + (f"<br><sub>{_escape(small)}</sub>" if small else ""))
    return [_escape(clean(row.label)), mode_text(row), *cells]


def _further(table: TextTable) -> list[str]:
    rows = [[_escape(text) for text in row] for row in table.rows]
    return _grid(
        [_escape(name) for name in table.header], rows, [table.holds_words(index) for index in range(len(table.header))]
    )


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[bool]) -> list[str]:
    rule = [":--" if flag else "--:" for flag in words]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def _escape(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in _SPECIAL else character for character in text)


def _code(text: str) -> str:
    # Nothing can be escaped inside a code span.
    return clean(text).replace("`", "'")
