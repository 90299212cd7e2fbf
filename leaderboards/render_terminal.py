"""A board in the terminal: wide if it fits, turned on its side if not, a list as the last resort."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .board import Board, Row, Status
from .further import terminal_tables
from .tables import (
    INTERVAL_NOTE,
    TextTable,
    cell_texts,
    clean,
    detectable_text,
    mode_text,
    rank_text,
    remarks,
    size_text,
)

#: Room for "[38.1, 45.7]" or "incomplete" and one column of white space.
_CELL_WIDTH = 13
_HEAD_WIDTH = 17
_MAX_HEAD_WIDTH = 32
_TASK_WIDTH = 20
_LEAST_COLUMNS = 3


def print_board(board: Board, console: Console | None = None) -> None:
    """Print a board, chosen for the console's width.

    Wide (rows as on the page) needs ``17 + 13 x columns`` characters, on its side ``20 + 13 x rows``; below both
    the benchmarks are shown in parts, and where fewer than three fit the cells are listed one a line. Nothing in a
    label is taken for markup or reaches the terminal as a control sequence.
    """
    console = console or Console()
    fitting = (console.width - _HEAD_WIDTH) // _CELL_WIDTH
    if fitting < len(board.columns) and _TASK_WIDTH + _CELL_WIDTH * len(board.rows) <= console.width:
        console.print(_turned(board))
    elif fitting >= min(_LEAST_COLUMNS, len(board.columns)):
        for start in range(0, len(board.columns), fitting):
            inside = range(start, min(start + fitting, len(board.columns)))
            room = console.width - _CELL_WIDTH * len(inside)
            if start:
                console.print()
            console.print(_wide(board, min(room, _MAX_HEAD_WIDTH), inside))
    else:
        console.print(_listed(board))
    for remark in remarks(board):
        console.print(Text(remark, style="yellow"))
    console.print(Text(INTERVAL_NOTE, style="dim"))
    tables, elsewhere = terminal_tables(board)
    for table in tables:
        print_table(table, console)
    if elsewhere:
        console.print(Text(f"\nIn the files only: {', '.join(elsewhere)}.", style="dim"))
    console.print(Text(f"\n{clean(board.command)}", style="dim"))


def print_tables(tables: Sequence[TextTable], notes: Sequence[str], console: Console | None = None) -> None:
    """Print tables, and notes below them."""
    console = console or Console()
    for table in tables:
        print_table(table, console)
    for note in notes:
        console.print(Text(clean(note), style="yellow"))


def tables_text(tables: Sequence[TextTable], notes: Sequence[str], width: int | None = None) -> str:
    """Return what :func:`print_tables` prints, without colours; see :func:`render_terminal` for the width."""
    columns = shutil.get_terminal_size((160, 50)).columns if width is None else width
    out = io.StringIO()
    print_tables(tables, notes, Console(file=out, width=columns, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def print_table(table: TextTable, console: Console) -> None:
    """Print a table with its title above and its note below."""
    console.print()
    console.print(_further(table))
    if table.note:
        console.print(Text(table.note, style="dim"))


def render_terminal(board: Board, width: int | None = None) -> str:
    """Return what :func:`print_board` prints, without colours.

    Args:
        board: what to show.
        width: characters a line; the terminal's own (160 where there is none, as in a log file) if not given.
    """
    columns = shutil.get_terminal_size((160, 50)).columns if width is None else width
    out = io.StringIO()
    print_board(board, Console(file=out, width=columns, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _wide(board: Board, head: int, columns: range) -> Table:
    table = _grid()
    table.add_column(Text("checkpoint"), overflow="fold", width=head - 1)
    for column in (board.columns[index] for index in columns):
        title = Text(_broken(clean(column.title)), style="bold")
        small = filter(None, (clean(column.metric), size_text(column), detectable_text(column)))
        title.append("".join(f"\n{text}" for text in small), style="dim not bold")
        table.add_column(title, justify="right", overflow="fold", width=_CELL_WIDTH - 1)
    for index, row in enumerate(board.rows):
        last = index + 1 == len(board.rows) or board.rows[index + 1].label != row.label
        table.add_row(_name(row), *(_cell_text(row, i) for i in columns), end_section=last)
    return table


def _turned(board: Board) -> Table:
    table = _grid()
    table.add_column(Text("benchmark"), overflow="fold", min_width=_TASK_WIDTH - 1)
    for row in board.rows:
        table.add_column(_name(row), justify="right", overflow="fold", width=_CELL_WIDTH - 1)
    for index, column in enumerate(board.columns):
        title = Text(clean(column.title), style="bold")
        small = filter(None, (f"{clean(column.metric)}, {size_text(column)}", detectable_text(column)))
        title.append("".join(f"\n{text}" for text in small), style="dim not bold")
        table.add_row(title, *(_cell_text(row, index) for row in board.rows))
    return table


def _listed(board: Board) -> Table:
    table = _grid()
    for name in ("benchmark", "checkpoint", "score"):
        table.add_column(Text(name), overflow="fold", justify="right" if name == "score" else "left")
    for index, column in enumerate(board.columns):
        for position, row in enumerate(board.rows):
            title = Text(clean(column.title), style="bold") if position == 0 else Text("")
            table.add_row(title, _name(row), _cell_text(row, index), end_section=position + 1 == len(board.rows))
    return table


def _further(table: TextTable) -> Table:
    grid = _grid()
    grid.title = Text(table.title, style="bold")
    grid.title_justify = "left"
    for index, name in enumerate(table.header):
        grid.add_column(Text(name), justify="left" if table.holds_words(index) else "right", overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(text) for text in row))
    return grid


def _grid() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")


def _broken(title: str) -> str:
    """Break a title that is too long for its column after its last hyphen that fits."""
    at = title.rfind("-", 0, _CELL_WIDTH - 1)
    return title if len(title) < _CELL_WIDTH or at < 0 else f"{title[: at + 1]}\n{title[at + 1 :]}"


def _name(row: Row) -> Text:
    name = Text(clean(row.label))
    name.append(f"\n{mode_text(row)}", style="dim")
    return name


def _cell_text(row: Row, index: int) -> Text:
    cell = row.cells[index]
    large, small = cell_texts(cell)
    style = {Status.OK: "", Status.ABSENT: "dim", Status.INCOMPLETE: "yellow", Status.INVALID: "red"}[cell.status]
    text = Text(large, style=style)
    for line in filter(None, (small, rank_text(cell))):
        text.append(f"\n{line}", style="dim")
    return text
