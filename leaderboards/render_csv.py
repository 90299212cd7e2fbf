"""A board as CSV for spreadsheets and scripts: a line per cell, a line per comparison, a line per part."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from .board import Board
from .comparison import Comparison
from .sides import Side
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
    "rank_best",
    "rank_worst",
    "delta_points",
    "delta_low",
    "delta_high",
    "delta_p",
    "delta_p_holm",
    "price_unit",
    "price_seconds",
    "price_frames",
    "price_visual_tokens",
)

PAIR_HEADER = (
    "family",
    "checkpoint",
    "first",
    "second",
    "task",
    "title",
    "metric",
    "first_percent",
    "second_percent",
    "points",
    "points_low",
    "points_high",
    "p",
    "p_exact",
    "p_adjusted",
    "verdict",
    "detectable_points",
    "n",
    "clusters",
    "dropped",
    "only_first_right",
    "only_second_right",
    "note",
)

METRIC_HEADER = (
    "checkpoint",
    "mode",
    "protocol",
    "task",
    "metric",
    "percent",
    "percent_low",
    "percent_high",
    "n",
    "clusters",
    "run",
)

PART_HEADER = (
    *("title", "metric", "attribute", "value", "checkpoint", "mode"),
    *("percent", "percent_low", "percent_high", "n", "clusters"),
)

#: A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@")


def render_csv(board: Board) -> str:
    """Return the cells of the board; numbers are percent with full precision, empty where there is none.

    Texts that a spreadsheet would take for a formula get an apostrophe in front.
    """
    rows = []
    for row in board.rows:
        for column, cell in zip(board.columns, row.cells, strict=True):
            delta = None if cell.delta is None else cell.delta.difference
            change = (None,) * 3 if delta is None else (delta.value, delta.low, delta.high)
            ps = ("", "") if cell.delta is None else (_number(cell.delta.p), _number(cell.delta.adjusted))
            price = cell.price
            spent = ("",) * 4
            if price is not None:
                spent = (price.unit, repr(price.seconds), repr(price.frames), repr(price.visual_tokens))
            rows.append(
                (
                    *map(_guard, (row.label, row.kind.value, mode_text(row), row.badge, column.task, column.metric)),
                    *map(_percent, (cell.value, cell.low, cell.high)),
                    str(cell.n),
                    str(cell.clusters),
                    *map(_guard, (cell.status.value, " ".join(cell.runs), cell.note, board.command)),
                    *(("", "") if cell.rank is None else map(str, cell.rank)),
                    *map(_percent, change),
                    *ps,
                    *spent,
                )
            )
    return csv_text(HEADER, rows)


def render_pairs_csv(board: Board) -> str:
    """Return every comparison of the board, the families apart."""
    families = (("tool minus text, Holm", board.comparisons), ("all pairs, Benjamini-Hochberg", board.pairs))
    return comparisons_csv(families)


def comparisons_csv(families: Iterable[tuple[str, Sequence[Comparison]]]) -> str:
    """Return comparisons, one a line, each with the name of its family."""
    return csv_text(PAIR_HEADER, [_pair(name, one) for name, inside in families for one in inside])


def render_parts_csv(board: Board) -> str:
    """Return the break-downs of the board."""
    rows = []
    for one in board.parts:
        found = one.part.estimate
        texts = (one.title, one.metric, one.part.attribute, one.part.value, one.label, one.mode)
        numbers = map(_percent, (found.value, found.low, found.high))
        rows.append((*map(_guard, texts), *numbers, str(found.n), str(found.clusters)))
    return csv_text(PART_HEADER, rows)


def render_metrics_csv(sides: Sequence[Side]) -> str:
    """Return every metric of every side whose figures may be read, the headline and all others."""
    rows = []
    for side in sides:
        if not side.readable:
            continue
        entry = side.entry
        texts = (side.manifest.label, entry.protocol.mode.value, entry.protocol.hash, entry.task)
        for name, found in side.cell.metrics.items():
            numbers = map(_percent, (found.value, found.low, found.high))
            rows.append((*map(_guard, (*texts, name)), *numbers, str(found.n), str(found.clusters), _guard(side.run)))
    return csv_text(METRIC_HEADER, rows)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write lines as RFC 4180 wants them; texts from outside must be guarded already."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def _pair(family: str, one: Comparison) -> tuple[str, ...]:
    delta = one.difference
    ends = (None,) * 3 if delta is None else (delta.value, delta.low, delta.high)
    sizes = (None, None) if delta is None else (delta.n, delta.clusters)
    return (
        *map(_guard, (family, one.label, one.one, one.other, one.task, one.title, one.metric)),
        *map(_percent, one.values or (None, None)),
        *map(_percent, ends),
        _number(one.p),
        "" if one.p is None else str(one.exact).lower(),
        _number(one.adjusted),
        one.verdict,
        _percent(one.detectable),
        *map(_number, (*sizes, one.dropped, one.only_one, one.only_other)),
        _guard(one.note),
    )


def _percent(value: float | None) -> str:
    return "" if value is None else repr(100 * value)


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _guard(text: str) -> str:
    text = clean(text)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
