"""Figures of a board: accuracy against grounding, score by duration of the video, tool minus text.

Equal boards give equal files, whatever the reader's matplotlib settings: the defaults of matplotlib are used, ids in
SVG files come from a fixed salt, and no file holds a date.
"""

from __future__ import annotations

import io
import math
import textwrap
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vital_eval.atomic import sync_folder
from vital_eval.errors import RunLogError
from vital_eval.protocol import Mode
from vital_eval.statistics.means import Estimate
from vital_eval.summary import Item, estimate_items, metric_items

from .board import Board
from .cells import Cell, Column, Kind, Row, Status
from .comparison import Comparison
from .rules import MODE_ORDER
from .sides import Side
from .tables import clean, interval, points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Seconds at which one bucket of durations ends and the next begins; a duration on a cut belongs to the longer one.
DURATION_CUTS = (30, 60, 180, 600, 1800, 3600)

#: Names of the buckets, in order.
DURATION_NAMES = (
    "0\u201330 s",
    "30\u201360 s",
    "1\u20133 min",
    "3\u201310 min",
    "10\u201330 min",
    "30\u201360 min",
    "> 60 min",
)

#: Buckets with fewer samples are drawn hollow.
FEW_SAMPLES = 10

_DPI, _WIDTH = 150, 10.4

#: Okabe and Ito's colours without yellow, which is too light for thin marks on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREY = "#666666"

#: Comes with matplotlib, so figures look the same everywhere.
_FONT = "DejaVu Sans"
_MARKERS = {"blind": "D", "direct": "s", "cot": "o", "tool": "^"}
_MODE_NAMES = {
    "blind": "no video",
    "direct": "direct answer",
    "cot": "text-only chain of thought",
    "tool": "chain of thought with tools",
}

#: Score keys of the two figures that a grounded question answering task has.
_RIGHT, _IOU = "accuracy", "iou"

#: Characters of a label that a legend has room for.
_LABEL_LENGTH = 60


@dataclass(frozen=True, slots=True)
class _Point:
    """A cell of the board with what it was worked out from."""

    row: Row
    column: Column
    cell: Cell
    side: Side


def write_plots(board: Board, sides: Sequence[Side], folder: Path) -> tuple[Path, ...]:
    """Write the figures of a board, each as PNG (150 dpi) and SVG.

    * ``accuracy_iou``: accuracy against mIoU, for tasks that have both, with 95 % intervals on both axes.
    * ``duration``: the headline score by duration of the video, with tools and as text only, a panel per task.
    * ``forest``: tool minus text with 95 % intervals, per task and pooled.

    Only cells that show a number on the board are drawn. A figure with nothing to show is not written.

    Args:
        board: what the tables show.
        sides: the entries of the runs that the board was built from.
        folder: made if it does not exist; other files in it are left alone.

    Returns:
        The paths written.

    Raises:
        RunLogError: if they cannot be written.
    """
    shown = _shown(board, sides)
    written = []
    with _own_settings():
        figures = {
            "accuracy_iou": _accuracy_iou(board, shown),
            "duration": _duration(shown),
            "forest": _forest(board.comparisons),
        }
        for name, figure in figures.items():
            if figure is None:
                continue
            _keep_dollars(figure)
            for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                buffer = io.BytesIO()
                figure.savefig(buffer, format=ending, dpi=_DPI, metadata=metadata)
                written.append(_write(folder / f"{name}.{ending}", buffer.getvalue()))
    return tuple(written)


def duration_bucket(seconds: float) -> int:
    """Return the index into :data:`DURATION_NAMES` of a duration."""
    return bisect_right(DURATION_CUTS, seconds)


def scores_by_duration(side: Side) -> Mapping[int, Estimate]:
    """Estimate the headline metric within every bucket of durations that has samples.

    Returns:
        Index into :data:`DURATION_NAMES` to the estimate, clustered as the whole is. Samples whose duration is not
        known (0 or less) are left out.
    """
    durations = {record.sample_id: record.trajectory.duration for record in side.records}
    groups: defaultdict[int, list[Item]] = defaultdict(list)
    for item in metric_items(side.entry, side.entry.primary, side.records, side.cell.attempts):
        seconds = durations.get(item.sample_id, 0.0)
        if seconds > 0:
            groups[duration_bucket(seconds)].append(item)
    return {bucket: estimate_items(groups[bucket]) for bucket in sorted(groups)}


def _shown(board: Board, sides: Sequence[Side]) -> list[_Point]:
    """Find the row and column of every side whose cell shows a number, in the order of the board."""
    by_place = {(side.run, *side.entry.key): side for side in sides}
    found = []
    for row in board.rows:
        for column, cell in zip(board.columns, row.cells, strict=True):
            if row.kind is not Kind.MEASURED or cell.status is not Status.OK or column.title not in row.protocols:
                continue
            places = [(run, column.task, row.protocols[column.title]) for run in cell.runs]
            found += [_Point(row, column, cell, by_place[place]) for place in places if place in by_place]
    return found


def _accuracy_iou(board: Board, shown: Sequence[_Point]) -> Figure | None:
    from matplotlib.figure import Figure

    panels: list[tuple[Column, list[tuple[_Point, Estimate, Estimate]]]] = []
    for column in board.columns:
        drawn = []
        for point in shown:
            right, overlap = _metric(point.side, _RIGHT), _metric(point.side, _IOU)
            if point.column == column and right is not None and overlap is not None:
                drawn.append((point, right, overlap))
        if drawn:
            panels.append((column, drawn))
    if not panels:
        return None
    everyone = [point for _, drawn in panels for point, _, _ in drawn]
    colours = _colours(everyone)
    handles = _legend_handles(everyone, colours)
    wide = min(len(panels), 2)
    tall = math.ceil(len(panels) / wide)
    floors = [_iou_floor(board, column, drawn[0][0].side) for column, drawn in panels]
    dashed = (
        " Dashed: answering with the whole video, where mIoU is the headline."
        if any(floor is not None for floor in floors)
        else ""
    )
    note = f"Bars are 95 % intervals, clustered by video.{dashed}{_caution(everyone)}"
    figure = Figure(figsize=(5.2 * wide, 4.1 * tall + _legend_height(handles, 5.2 * wide) + 0.3), layout="constrained")
    axes = figure.subplots(tall, wide, squeeze=False).flat
    for axis, floor, (column, drawn) in zip(axes, floors, panels, strict=False):
        for point, right, overlap in drawn:
            axis.errorbar(
                100 * _value(right),
                100 * _value(overlap),
                xerr=_reach(right),
                yerr=_reach(overlap),
                fmt=_marker(point.row),
                color=colours[point.row.label],
                ecolor=(colours[point.row.label], 0.6),
                markersize=6.5,
                markeredgecolor="white",
                markeredgewidth=0.6,
                elinewidth=1.0,
                capsize=0,
            )
        entry = drawn[0][0].side.entry
        names = {score: name for name, score in entry.metrics.items()}
        axis.set_xlabel(f"{_plain(names[_RIGHT])} (%)")
        axis.set_ylabel(f"{_plain(names[_IOU])} (%)")
        axis.set_title(_plain(column.title), loc="left", fontweight="bold")
        if floor is not None:
            axis.axhline(100 * floor, color=_GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
            axis.annotate(
                "whole video",
                (1, 100 * floor),
                xycoords=axis.get_yaxis_transform(),
                xytext=(-2, 2),
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
                color=_GREY,
            )
        _within_percent(axis)
    for axis in list(axes)[len(panels) :] if len(panels) % wide else []:
        axis.set_axis_off()
    _head(figure, "Accuracy against grounding", note, 5.2 * wide)
    _add_legend(figure, handles, 5.2 * wide)
    return figure


def _duration(shown: Sequence[_Point]) -> Figure | None:
    from matplotlib.figure import Figure

    wanted = [point for point in shown if point.row.mode in (Mode.COT, Mode.TOOL)]
    columns = list(dict.fromkeys(point.column for point in wanted))
    parts = [(point, scores_by_duration(point.side)) for point in wanted]
    panels = [(column, [part for part in parts if part[0].column == column and part[1]]) for column in columns]
    panels = [(column, drawn) for column, drawn in panels if drawn]
    if not panels:
        return None
    colours = _colours(wanted)
    handles = _legend_handles(wanted, colours)
    tall = math.ceil(len(panels) / 2)
    height = 2.35 * tall + _legend_height(handles, _WIDTH) + 0.7
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    grid = figure.subplots(tall, 2, squeeze=False)
    for axis, (column, drawn) in zip(grid.flat, panels, strict=False):
        _duration_panel(axis, column, drawn, colours)
    for axis in list(grid.flat)[len(panels) :]:
        axis.set_axis_off()
    note = (
        f"Headline score by duration of the video. Cut points: {', '.join(map(str, DURATION_CUTS))} s; a duration on a "
        "cut counts as longer. n: samples. Bars are 95 % intervals, clustered by video; none where the samples are of "
        f"one video. Hollow and not joined: fewer than {FEW_SAMPLES} samples or interval not estimable."
        f"{_caution(wanted)}"
    )
    _head(figure, "Score by duration", note, _WIDTH)
    _add_legend(figure, handles, _WIDTH)
    return figure


def _duration_panel(
    axis: Axes,
    column: Column,
    drawn: Sequence[tuple[_Point, Mapping[int, Estimate]]],
    colours: Mapping[str, str],
) -> None:
    used = sorted({bucket for _, buckets in drawn for bucket in buckets})
    places = list(range(used[0], used[-1] + 1))
    step = min(0.09, 0.6 / len(drawn))
    top = 0.0
    for index, (point, buckets) in enumerate(drawn):
        colour, tool = colours[point.row.label], point.row.mode is Mode.TOOL
        offset = (index - (len(drawn) - 1) / 2) * step
        # Lines join what can be told apart from chance only; a few samples would draw peaks and valleys.
        joined = [
            100 * _value(buckets[place]) if place in buckets and not _hollow(buckets[place]) else math.nan
            for place in places
        ]
        style = "-" if tool else (0, (3, 2))
        axis.plot([place + offset for place in places], joined, color=colour, linewidth=1.0, linestyle=style, zorder=1)
        for place, found in buckets.items():
            hollow, value = _hollow(found), 100 * _value(found)
            axis.errorbar(
                place + offset,
                value,
                yerr=_reach(found),
                fmt=_marker(point.row),
                color=colour,
                markerfacecolor="white" if hollow else colour,
                ecolor=(colour, 0.3 if hollow else 1.0),
                markersize=5,
                elinewidth=1.0,
                capsize=0,
                clip_on=False,  # A score of 0 is a whole mark, too.
            )
            top = max(top, value, 100 * found.high if found.high is not None else 0.0)
    labels = []
    for place in places:
        counts = sorted({buckets[place].n for _, buckets in drawn if place in buckets})
        size = "n 0" if not counts else f"n {counts[0]}" if len(counts) == 1 else f"n {counts[0]}\u2013{counts[-1]}"
        labels.append(f"{DURATION_NAMES[place]}\n{size}")
    axis.set_xticks(places, labels, fontsize=7.5)
    axis.set_xlim(places[0] - 0.5, places[-1] + 0.5)
    axis.set_ylim(0, min(102.0, max(10.0, 1.06 * top)))
    axis.set_ylabel(f"{_plain(column.metric)} (%)", fontsize=8)
    axis.set_title(_plain(column.title), loc="left", fontweight="bold")
    axis.grid(visible=False, axis="x")


def _hollow(found: Estimate) -> bool:
    return found.n < FEW_SAMPLES or found.low is None


def _forest(comparisons: Sequence[Comparison]) -> Figure | None:
    from matplotlib.figure import Figure

    if not any(one.difference is not None and one.difference.value is not None for one in comparisons):
        return None
    groups: defaultdict[str, list[Comparison]] = defaultdict(list)
    for one in comparisons:
        groups[one.label].append(one)
    lines: list[Comparison | str] = []
    for label, inside in groups.items():
        lines += [*([""] if lines else []), label, *sorted(inside, key=lambda one: not one.task)]
    height = 0.27 * (len(lines) + 1) + 1.35
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axis, words = figure.subplots(1, 2, sharey=True, width_ratios=(5, 4))
    for column, text in zip(_FOREST_COLUMNS, ("points [95 %]", "n", "p", "adjusted p"), strict=True):
        words.text(column, -1, text, ha="right", va="center", fontsize=8.5, color=_GREY)
    for place, line in enumerate(lines):
        if isinstance(line, Comparison):
            _forest_line(axis, words, place, line)
        else:
            # Inside the axes, where the line is empty: a long label must not push the plot aside.
            head = axis.text(
                0, place, _short(line), transform=axis.get_yaxis_transform(), va="center", backgroundcolor="white"
            )
            head.set(fontweight="bold", in_layout=False)
    axis.axvline(0, color="black", linewidth=0.9, zorder=0)
    named = {place: _plain(line.title) for place, line in enumerate(lines) if isinstance(line, Comparison)}
    axis.set_yticks(list(named), list(named.values()))
    axis.set_ylim(len(lines) - 0.4, -1.6)
    axis.set_xlabel("tool minus text-only chain of thought (points)")
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_visible(False)
    words.set_axis_off()
    words.set_xlim(0, 1)
    note = (
        "Paired over the same samples; 95 % intervals, clustered by video and not adjusted for the number of "
        "benchmarks. Adjusted p: Holm over the benchmarks of a checkpoint; the pooled line is not part of the family."
    )
    _head(figure, "Tool minus text", note, _WIDTH)
    return figure


#: Right edges of the columns of words beside a forest plot, in parts of their width.
_FOREST_COLUMNS = (0.47, 0.62, 0.78, 1.0)


def _forest_line(axis: Axes, words: Axes, place: int, one: Comparison) -> None:
    delta = one.difference
    if delta is None or delta.value is None:
        words.text(0.0, place, _short(one.note or "not compared"), va="center", fontsize=7.5, color=_GREY)
        return
    pooled = not one.task
    axis.errorbar(
        100 * delta.value,
        place,
        xerr=_reach(delta),
        fmt="D" if pooled else "s",
        color="#D55E00" if pooled else "#0072B2",
        markersize=6 if pooled else 5,
        elinewidth=1.4,
        capsize=0,
    )
    texts = (f"{points(delta)} {interval(delta.low, delta.high)}", str(delta.n), _p(one.p), _p(one.adjusted))
    # The pooled line sums up the family and is no member: there is nothing to adjust.
    for column, text in zip(_FOREST_COLUMNS, texts[: 3 if pooled else 4], strict=False):
        words.text(column, place, text, ha="right", va="center", fontsize=8.5)


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _caution(drawn: Sequence[_Point]) -> str:
    if not any(point.cell.note for point in drawn):
        return ""
    return " Some scores are marked on the board (limited runs, tools hardly used): read its remarks."


def _metric(side: Side, score: str) -> Estimate | None:
    """Return the estimate of the metric that is the mean of a score, ``None`` where no sample has it."""
    name = next((name for name, key in side.entry.metrics.items() if key == score), "")
    found = side.cell.metrics.get(name)
    return found if found is not None and found.value is not None else None


def _iou_floor(board: Board, column: Column, side: Side) -> float | None:
    """Return the mIoU of answering with the whole video; ``None`` where the board's column is not of mIoU."""
    if side.entry.metrics[side.entry.primary] != _IOU:
        return None
    place = board.columns.index(column)
    cells: Iterator[Cell] = (row.cells[place] for row in board.rows if _is_whole_video(row))
    return next((cell.value for cell in cells), None)


def _is_whole_video(row: Row) -> bool:
    return row.kind is Kind.BASELINE and row.label == "whole video"


def _value(estimate: Estimate) -> float:
    return math.nan if estimate.value is None else estimate.value


def _reach(estimate: Estimate) -> list[list[float]] | None:
    """Return how far the interval reaches to both sides, in percent, shape ``(2, 1)``."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    # Wilson's interval may leave out the value itself by a rounding error.
    return [[100 * max(0.0, estimate.value - estimate.low)], [100 * max(0.0, estimate.high - estimate.value)]]


def _within_percent(axis: Axes) -> None:
    """Leave no room for scores that do not exist."""
    for low, high, limit in ((*axis.get_xlim(), axis.set_xlim), (*axis.get_ylim(), axis.set_ylim)):
        limit(max(low, -2.0), min(high, 102.0))


def _marker(row: Row) -> str:
    return _MARKERS[_mode(row)]


def _mode(row: Row) -> str:
    if row.mode is None:
        raise ValueError(f"row {row.label} has no mode")
    return row.mode.value


def _colours(drawn: Sequence[_Point]) -> dict[str, str]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    labels = list(dict.fromkeys(point.row.label for point in drawn))
    if len(labels) <= len(_COLOURS):
        return dict(zip(labels, _COLOURS, strict=False))
    scale = colormaps["cividis"]
    return {label: to_hex(scale(0.95 * place / (len(labels) - 1))) for place, label in enumerate(labels)}


def _legend_handles(drawn: Sequence[_Point], colours: Mapping[str, str]) -> list[Artist]:
    from matplotlib.lines import Line2D

    labels = dict.fromkeys(point.row.label for point in drawn)
    modes = sorted({_mode(point.row) for point in drawn}, key=MODE_ORDER.index)
    return [
        *(Line2D([], [], color=colours[label], linewidth=4, label=_short(label)) for label in labels),
        *(
            Line2D([], [], color=_GREY, marker=_MARKERS[mode], linestyle="none", markersize=6, label=_MODE_NAMES[mode])
            for mode in modes
        ),
    ]


def _legend_columns(handles: Sequence[Artist], width: float) -> int:
    longest = max(len(str(handle.get_label())) for handle in handles)
    # About 0.075 inches a character, and half an inch for the mark and the gap.
    return max(1, min(len(handles), int(width / (0.075 * longest + 0.5))))


def _legend_height(handles: Sequence[Artist], width: float) -> float:
    return 0.21 * math.ceil(len(handles) / _legend_columns(handles, width)) + 0.15


def _add_legend(figure: Figure, handles: Sequence[Artist], width: float) -> None:
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=_legend_columns(handles, width), frameon=False
    )


def _head(figure: Figure, title: str, note: str, width: float) -> None:
    lines = textwrap.wrap(note, int(width * 15))
    figure.suptitle("\n".join([title, *lines]), x=0.01, ha="left", fontsize=8.5)


def _short(text: str) -> str:
    words = _plain(text)
    return words if len(words) <= _LABEL_LENGTH else f"{words[: _LABEL_LENGTH - 3]}..."


def _plain(text: str) -> str:
    """Return a text without what the font cannot draw."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont(_FONT)).get_charmap()
    return "".join(character if ord(character) in known else "\ufffd" for character in clean(text))


def _keep_dollars(figure: Figure) -> None:
    """Stop names of checkpoints and tasks from being read as formulas: a ``$`` is a ``$``."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)


@contextmanager
def _own_settings() -> Iterator[None]:
    """Draw with matplotlib's defaults and ours, not with the reader's; theirs come back afterwards."""
    import matplotlib

    ours: dict[str, Any] = {
        "svg.hashsalt": "vital-eval",
        "font.family": _FONT,
        "font.size": 9.0,
        "axes.titlesize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.edgecolor": "#444444",
        "grid.color": "#dddddd",
        "grid.linewidth": 0.6,
        "legend.fontsize": 8.5,
    }
    # The backend is left alone: figures made without pyplot have none to choose.
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}
    with matplotlib.rc_context({**defaults, **ours}):
        yield


def _write(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise RunLogError(f"cannot write {path}: {error.strerror}") from error
    return path
