"""A board as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from .board import Board, Row
from .further import further_tables
from .tables import (
    BASELINE_NOTE,
    INTERVAL_NOTE,
    TITLE,
    TextTable,
    cell_texts,
    clean,
    delta_text,
    detectable_text,
    mode_text,
    rank_text,
    remarks,
    size_text,
)

#: Everything that starts a construct inside a table cell or a paragraph. Left alone: - and ., which act only at the
#: start of a line, where no cell stands.
_SPECIAL = frozenset("\\`*_{}[]|~$#@")


def render_markdown(board: Board, pictures: Sequence[str] = ()) -> str:
    """Return the page; labels and notes are escaped, so they can bring neither markup nor HTML.

    Args:
        board: what to show.
        pictures: where pictures lie, relative to the page.
    """
    lines = [f"# {TITLE}", "", markdown_text(INTERVAL_NOTE), "", f"Written by `{_code(board.command)}`.", ""]
    lines += [f"- {markdown_text(remark)}" for remark in remarks(board)]
    header = ["checkpoint", "mode"]
    for column in board.columns:
        parts = (column.title, column.metric, size_text(column), detectable_text(column))
        header.append("<br>".join(markdown_text(clean(part)) for part in parts if part))
    lines += ["", *_grid(header, [_main_row(row) for row in board.rows], [index < 2 for index in range(len(header))])]
    if any(row.mode is None for row in board.rows):
        lines += ["", markdown_text(BASELINE_NOTE)]
    for picture in pictures:
        lines += ["", f"![{markdown_text(picture_title(picture))}]({quote(picture)})"]
    lines += markdown_tables(further_tables(board))
    return "\n".join(lines) + "\n"


def markdown_tables(tables: Sequence[TextTable]) -> list[str]:
    """Return lines that show tables under their titles; a note that the table before had is not said again."""
    lines, said = [], ""
    for table in tables:
        lines += ["", f"## {markdown_text(table.title)}", ""]
        if table.note != said:
            lines += [markdown_text(table.note), ""]
        said = table.note
        lines += _further(table)
    return lines


def picture_title(path: str) -> str:
    """Return what a picture shows, from the name of its file."""
    return clean(path.rpartition("/")[2].rpartition(".")[0].replace("_", " "))


def _main_row(row: Row) -> list[str]:
    cells = []
    for cell in row.cells:
        large, *small = *cell_texts(cell), rank_text(cell), delta_text(cell)
        cells.append(
            "<br>".join([markdown_text(large), *(f"<sub>{markdown_text(text)}</sub>" for text in small if text)])
        )
    return [markdown_text(clean(row.label)), mode_text(row), *cells]


def _further(table: TextTable) -> list[str]:
    rows = [[markdown_text(text) for text in row] for row in table.rows]
    return _grid(
        [markdown_text(name) for name in table.header],
        rows,
        [table.holds_words(index) for index in range(len(table.header))],
    )


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[bool]) -> list[str]:
    rule = [":--" if flag else "--:" for flag in words]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def markdown_text(text: str) -> str:
    """Escape everything that could start markup or HTML."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in _SPECIAL else character for character in text)


def _code(text: str) -> str:
    # Nothing can be escaped inside a code span.
    return clean(text).replace("`", "'")
