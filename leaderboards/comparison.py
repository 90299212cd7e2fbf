"""Tool use against text-only chain of thought: paired over the same samples, or refused with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vital_eval.manifest import Entry, Manifest, differing
from vital_eval.protocol import differing_fields
from vital_eval.record import Record
from vital_eval.statistics.means import Estimate, nested_weights, paired_difference
from vital_eval.summary import CellSummary, Item, metric_items

#: What the comparison is about; a difference in any other field makes it a comparison of something else.
COMPARED_FIELDS = ("mode", "prompt", "tools", "max_tool_calls", "max_turns")

#: Score key of the intersection over union that grounding tasks report.
_IOU = "iou"

POOLED_TITLE = "mIoU over grounding tasks"


@dataclass(frozen=True, slots=True)
class Side:
    """What one run says about one task under one protocol: a cell of the board, a side of a comparison."""

    run: str
    manifest: Manifest
    entry: Entry
    cell: CellSummary
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Difference tool minus text chain of thought.

    Attributes:
        label: checkpoint.
        title: benchmark, or :data:`POOLED_TITLE`.
        metric: what is compared.
        difference: in [-1, 1]; ``None`` if the two may not be compared.
        dropped: samples that count on one side only.
        note: why there is no difference, how it was pooled, or that the tools were never used.
    """

    label: str
    title: str
    metric: str
    difference: Estimate | None
    dropped: int
    note: str = ""


def compare(label: str, title: str, tool: Side, text: Side) -> Comparison:
    """Compare the headline metric of one task."""
    metric = tool.entry.primary
    obstacle = _obstacle(tool, text)
    if obstacle:
        return Comparison(label, title, metric, None, 0, f"not compared: {obstacle}")
    pairs, dropped = _pairs(tool, text, metric)
    return Comparison(label, title, metric, _difference(pairs), dropped, _warning(tool))


def compare_pooled(label: str, sides: Sequence[tuple[Side, Side]]) -> Comparison | None:
    """Compare the mean IoU over all tasks that report one, every task with equal weight.

    Returns:
        ``None`` with fewer than two such tasks: there is nothing to pool.
    """
    metrics = [_iou_metric(tool.entry) for tool, _ in sides]
    grounding = [(tool, text, metric) for (tool, text), metric in zip(sides, metrics, strict=True) if metric]
    if len(grounding) < 2:
        return None
    pairs: list[tuple[Item, Item]] = []
    dropped = 0
    notes = [f"{len(grounding)} tasks of equal weight"]
    for tool, text, metric in grounding:
        task = tool.entry.task
        obstacle = _obstacle(tool, text)
        if obstacle:
            return Comparison(label, POOLED_TITLE, "mIoU", None, 0, f"not compared: {task}: {obstacle}")
        more, missing = _pairs(tool, text, metric)
        dropped += missing
        # Equal names of videos in two benchmarks do not mean equal videos.
        pairs += [(_within(task, a), _within(task, b)) for a, b in more]
        warning = _warning(tool)
        notes += [f"{task}: {warning}"] if warning else []
    return Comparison(label, POOLED_TITLE, "mIoU", _difference(pairs), dropped, "; ".join(notes))


def _warning(tool: Side) -> str:
    """Return what a reader of a difference must know about the tool side: it may never have used its tools."""
    health = tool.cell.tools
    return health.verdict if health is not None and health.verdict.startswith("WARNING") else ""


def _iou_metric(entry: Entry) -> str:
    return next((name for name, score in entry.metrics.items() if score == _IOU), "")


def _within(task: str, item: Item) -> Item:
    return Item(item.sample_id, f"{task}/{item.cluster}", item.value, (task, *item.path))


def _obstacle(tool: Side, text: Side) -> str:
    for side in (tool, text):
        if not side.cell.complete:
            return f"{side.cell.mode} run incomplete, {side.cell.missing} owed"
        if side.cell.tools is not None and side.cell.tools.invalid:
            return side.cell.tools.verdict
    fields = [
        f"protocol.{name}"
        for name in differing_fields(tool.entry.protocol, text.entry.protocol)
        if name.split(".")[0] not in COMPARED_FIELDS
    ]
    # Labels may differ, entries are compared above and by the column; what remains is who answered.
    fields += [
        name
        for name in differing(tool.manifest, text.manifest)
        if name.split(".")[0] in ("engine", "attempts", "vital_eval")
    ]
    return f"they also differ in {', '.join(fields)}" if fields else ""


def _pairs(tool: Side, text: Side, metric: str) -> tuple[list[tuple[Item, Item]], int]:
    a = {item.sample_id: item for item in metric_items(tool.entry, metric, tool.records, tool.cell.attempts)}
    b = {item.sample_id: item for item in metric_items(text.entry, metric, text.records, text.cell.attempts)}
    return [(a[name], b[name]) for name in a if name in b], len(a.keys() ^ b.keys())


def _difference(pairs: Sequence[tuple[Item, Item]]) -> Estimate:
    paths = [a.path for a, _ in pairs]
    return paired_difference(
        [a.value for a, _ in pairs],
        [b.value for _, b in pairs],
        nested_weights(paths),
        [a.cluster for a, _ in pairs],
        paths,
    )
