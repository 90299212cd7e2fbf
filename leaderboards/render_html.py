"""A board as one self-contained HTML page: no script, no network, everything escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import jinja2
from markupsafe import Markup

from vital_eval.summary import OUTCOME_NAMES

from .board import Board, Cell, Column, Kind, Row, Status
from .comparison import Comparison
from .further import ALL_PAIRS_TITLE, OUTCOME_TITLE, PAIRED_TITLE, further_tables
from .render_markdown import picture_title
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

#: Tables with more rows are folded up.
_LONG = 30

#: Pictures that a page may hold, by the end of their name.
_PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class _Whisker:
    """An interval and its middle, in percent of the drawing's width; ``zero`` is where no difference lies."""

    low: float
    high: float
    value: float
    zero: float | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    """One outcome's part of a bar, in percent of its length."""

    name: str
    start: float
    length: float


@dataclass(frozen=True, slots=True)
class _CellView:
    """A cell as the page shows it."""

    large: str
    small: tuple[str, ...]
    status: str
    hint: str
    whisker: _Whisker | None


@dataclass(frozen=True, slots=True)
class _RowView:
    """A row as the page shows it."""

    mode: str
    badge: str
    cells: tuple[_CellView, ...]


@dataclass(frozen=True, slots=True)
class _TableView:
    """A further table with one drawing per row, or none at all."""

    table: TextTable
    note: str
    whiskers: tuple[_Whisker | None, ...]
    bars: tuple[tuple[_Piece, ...], ...]
    folded: bool


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture inside the page."""

    title: str
    data: str


def render_html(board: Board, pictures: Sequence[Path] = ()) -> str:
    """Return the page.

    Labels, titles and notes are stripped of control characters and escaped. The content security policy allows
    the page's own style sheet, by its hash, and pictures that the page itself holds; nothing else.

    Args:
        board: what to show.
        pictures: PNG or SVG files to put into the page.

    Raises:
        OSError: if a picture cannot be read.
    """
    style = _file("board.css.j2")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["clean"] = clean
    groups = [(label, [_row(row, board) for row in rows]) for label, rows in _groups(board.rows)]
    return environment.from_string(_file("board.html.j2")).render(
        title=TITLE,
        board=board,
        style=Markup(style),  # noqa: S704 - our own file, not data
        policy=_policy(digest, bool(pictures)),
        pictures=[_picture(path) for path in pictures],
        interval_note=INTERVAL_NOTE,
        baseline_note=BASELINE_NOTE if any(row.kind is Kind.BASELINE for row in board.rows) else "",
        remarks=remarks(board),
        groups=groups,
        sizes=[[clean(text) for text in (c.metric, size_text(c), detectable_text(c)) if text] for c in board.columns],
        tables=_tables(board),
        outcome_names=OUTCOME_NAMES,
    )


def _policy(digest: str, pictures: bool) -> str:
    images = "img-src data:; " if pictures else ""
    return f"default-src 'none'; style-src 'sha256-{digest}'; {images}base-uri 'none'; form-action 'none'"


def _picture(path: Path) -> _Picture:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return _Picture(picture_title(path.name), f"data:{_PICTURES[path.suffix]};base64,{data}")


def _file(name: str) -> str:
    return files("vital_eval.leaderboards").joinpath(name).read_text(encoding="utf-8")


def _groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    grouped = groupby(rows, key=lambda row: "baselines" if row.kind is Kind.BASELINE else row.label)
    return [(clean(label), list(inside)) for label, inside in grouped]


def _row(row: Row, board: Board) -> _RowView:
    name = clean(row.label) if row.kind is Kind.BASELINE else mode_text(row)
    cells = tuple(_cell(row, column, cell) for column, cell in zip(board.columns, row.cells, strict=True))
    return _RowView(name, "" if row.kind is Kind.BASELINE else clean(row.badge), cells)


def _cell(row: Row, column: Column, cell: Cell) -> _CellView:
    large, *small = *cell_texts(cell), rank_text(cell), delta_text(cell)
    facts = [f"{column.title} {column.metric}", f"n {cell.n} in {cell.clusters} clusters"]
    facts += [f"protocol {row.protocols[column.title]}"] if column.title in row.protocols else []
    facts += [f"runs {', '.join(cell.runs)}"] if cell.runs else []
    facts += [cell.note] if cell.note else []
    whisker = None
    if cell.status is Status.OK and cell.value is not None and cell.low is not None and cell.high is not None:
        whisker = _Whisker(100 * cell.low, 100 * cell.high, 100 * cell.value)
    hint = "" if cell.status is Status.ABSENT else clean(" · ".join(facts))
    return _CellView(large, tuple(filter(None, small)), cell.status.value, hint, whisker)


def _tables(board: Board) -> list[_TableView]:
    views = []
    said = ""
    for table in further_tables(board):
        whiskers: tuple[_Whisker | None, ...] = ()
        bars: tuple[tuple[_Piece, ...], ...] = ()
        if table.title == PAIRED_TITLE:
            whiskers = _forest(board.comparisons)
        elif table.title == ALL_PAIRS_TITLE:
            whiskers = _forest(board.pairs)
        elif table.title == OUTCOME_TITLE:
            bars = tuple(_pieces(row) for row in board.rows if row.outcomes)
        views.append(
            _TableView(table, "" if table.note == said else table.note, whiskers, bars, len(table.rows) > _LONG)
        )
        said = table.note
    return views


def _forest(comparisons: Sequence[Comparison]) -> tuple[_Whisker | None, ...]:
    """Place every difference on one common scale around zero."""
    found = [one.difference for one in comparisons]
    ends = [abs(end) for one in found if one is not None for end in (one.low, one.high, one.value) if end is not None]
    scale = max(ends, default=0.0) or 1.0
    drawings: list[_Whisker | None] = []
    for one in found:
        if one is None or one.value is None or one.low is None or one.high is None:
            drawings.append(None)
        else:
            low, high, value = (50 + 48 * end / scale for end in (one.low, one.high, one.value))
            drawings.append(_Whisker(low, high, value, zero=50))
    return tuple(drawings)


def _pieces(row: Row) -> tuple[_Piece, ...]:
    total = sum(row.outcomes.values())
    pieces, start = [], 0.0
    for name in OUTCOME_NAMES:
        length = 100 * row.outcomes[name] / total if total else 0.0
        if length:
            pieces.append(_Piece(name, start, length))
        start += length
    return tuple(pieces)
