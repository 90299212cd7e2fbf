"""Differences between two sides: paired over the same samples, tested, or refused with the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from vital_eval.manifest import Entry
from vital_eval.statistics.means import Estimate, minimum_detectable, nested_weights, paired_difference
from vital_eval.statistics.permutation import SignFlip, discordant, sign_flip
from vital_eval.summary import Item

from .rules import obstacle
from .sides import Side

__all__ = ["POOLED_TITLE", "Comparison", "PairedTest", "Side", "adjust", "compare", "compare_pooled", "paired_test"]

#: Adjusted p below which a difference is called one.
LEVEL = 0.05

#: Random sign patterns of a test where there are too many to go through.
DRAWS = 9_999

#: Score key of the intersection over union that grounding tasks report.
_IOU = "iou"

POOLED_TITLE = "mIoU over grounding tasks"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Difference of two sides.

    Attributes:
        label: checkpoint, or what is compared with what.
        title: benchmark, or :data:`POOLED_TITLE`.
        metric: what is compared.
        difference: first side minus second side, in [-1, 1]; ``None`` if the two may not be compared.
        dropped: samples that count on one side only.
        note: why there is no difference, how it was pooled, or that the tools were never used.
        task: registry name; ``""`` for the pooled line.
        one: name of the first side.
        other: name of the second side.
        values: score of each side over the shared samples, in [0, 1].
        p: two-sided p of the cluster sign-flip test; ``None`` if it cannot be tested.
        adjusted: p within its family of tests.
        exact: whether p goes through all sign patterns.
        only_one: samples that only the first side has right; ``None`` unless every score is 0 or 1.
        only_other: samples that only the second side has right, likewise.
    """

    label: str
    title: str
    metric: str
    difference: Estimate | None
    dropped: int
    note: str = ""
    task: str = ""
    one: str = ""
    other: str = ""
    values: tuple[float, float] | None = None
    p: float | None = None
    adjusted: float | None = None
    exact: bool = False
    only_one: int | None = None
    only_other: int | None = None

    @property
    def detectable(self) -> float | None:
        """Smallest true difference that a test at 5 % finds in four of five cases."""
        if self.difference is None or self.difference.se is None:
            return None
        return minimum_detectable(self.difference.se)

    @property
    def verdict(self) -> str:
        """What the adjusted p says about the first side."""
        if self.difference is None:
            return "not compared"
        if self.adjusted is None or self.difference.value is None:
            return "not testable"
        if self.adjusted >= LEVEL:
            return "no difference shown"
        return "better" if self.difference.value > 0 else "worse"


def compare(
    label: str,
    title: str,
    one: Side,
    other: Side,
    *,
    names: tuple[str, str] = ("", ""),
    allowed: Collection[str] = (),
    strict: bool = True,
    draws: int = DRAWS,
) -> Comparison:
    """Compare the headline metric of one task.

    Args:
        label: what is compared.
        title: benchmark as printed.
        one: the side whose gain it is.
        other: the side it is held against.
        names: of both sides.
        allowed: see :func:`~vital_eval.leaderboards.rules.obstacle`.
        strict: likewise.
        draws: random sign patterns where there are too many to go through.
    """
    plain = Comparison(label, title, one.entry.primary, None, 0, task=one.entry.task, one=names[0], other=names[1])
    reason = obstacle(one, other, allowed, strict=strict)
    if reason:
        return dataclasses.replace(plain, note=f"not compared: {reason}")
    pairs, dropped = _pairs(one, other, one.entry.primary)
    if not pairs:
        return dataclasses.replace(plain, dropped=dropped, note="not compared: they share no sample")
    return _tested(dataclasses.replace(plain, dropped=dropped, note=_warnings(one, other)), pairs, draws)


def compare_pooled(
    label: str,
    sides: Sequence[tuple[Side, Side]],
    *,
    names: tuple[str, str] = ("", ""),
    allowed: Collection[str] = (),
    strict: bool = True,
    draws: int = DRAWS,
) -> Comparison | None:
    """Compare the mean IoU over all tasks that report one, every task with equal weight.

    Args:
        label: what is compared.
        sides: both sides of every task.
        names: as for :func:`compare`, and so are the rest.
        allowed: see :func:`compare`.
        strict: see :func:`compare`.
        draws: see :func:`compare`.

    Returns:
        ``None`` with fewer than two such tasks: there is nothing to pool.
    """
    metrics = [_iou_metric(one.entry) for one, _ in sides]
    grounding = [(one, other, metric) for (one, other), metric in zip(sides, metrics, strict=True) if metric]
    if len(grounding) < 2:
        return None
    plain = Comparison(label, POOLED_TITLE, "mIoU", None, 0, one=names[0], other=names[1])
    pairs: list[tuple[Item, Item]] = []
    dropped = 0
    notes = [f"{len(grounding)} tasks of equal weight: {', '.join(tool.entry.task for tool, _, _ in grounding)}"]
    for one, other, metric in grounding:
        task = one.entry.task
        reason = obstacle(one, other, allowed, strict=strict)
        if reason:
            return dataclasses.replace(plain, note=f"not compared: {task}: {reason}")
        more, missing = _pairs(one, other, metric)
        if not more:
            return dataclasses.replace(plain, note=f"not compared: {task}: they share no sample")
        dropped += missing
        pairs += [(within_task(task, a), within_task(task, b)) for a, b in more]
        warning = _warnings(one, other)
        notes += [f"{task}: {warning}"] if warning else []
    return _tested(dataclasses.replace(plain, dropped=dropped, note="; ".join(notes)), pairs, draws)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """What pairs of items say about two sides.

    Attributes:
        difference: first side minus second side.
        values: score of each side.
        test: sign flips of whole clusters.
    """

    difference: Estimate
    values: tuple[float, float]
    test: SignFlip


def paired_test(pairs: Sequence[tuple[Item, Item]], draws: int = DRAWS) -> PairedTest:
    """Compare two sides over the samples they share.

    Args:
        pairs: the items of both sides for each sample, at least one pair; strata and cluster are those of the first.
        draws: random sign patterns where there are too many to go through.
    """
    paths = [a.path for a, _ in pairs]
    clusters = [a.cluster for a, _ in pairs]
    ones, others = [a.value for a, _ in pairs], [b.value for _, b in pairs]
    weights = nested_weights(paths)
    return PairedTest(
        difference=paired_difference(ones, others, weights, clusters, paths),
        values=(float(np.dot(weights, ones)), float(np.dot(weights, others))),
        test=sign_flip([a - b for a, b in zip(ones, others, strict=True)], weights, clusters, draws=draws),
    )


def adjust(
    comparisons: Sequence[Comparison], method: Callable[[Sequence[float | None]], Sequence[float | None]]
) -> tuple[Comparison, ...]:
    """Adjust the p values of one family of tests.

    The pooled line sums up tests of the family and is none of its members: its p stays as it is.

    Args:
        comparisons: the family, refused members and pooled lines among them.
        method: of :mod:`vital_eval.statistics.families`.
    """
    family = [one for one in comparisons if one.task]
    adjusted = dict(zip(map(id, family), method([one.p for one in family]), strict=True))
    return tuple(dataclasses.replace(one, adjusted=adjusted.get(id(one), one.p)) for one in comparisons)


def _warnings(*sides: Side) -> str:
    """Return what a reader of a difference must know about a tool side: it may never have used its tools."""
    verdicts = [side.cell.tools.verdict for side in sides if side.cell.tools is not None]
    return "; ".join(dict.fromkeys(verdict for verdict in verdicts if verdict.startswith("WARNING")))


def _iou_metric(entry: Entry) -> str:
    return next((name for name, score in entry.metrics.items() if score == _IOU), "")


def within_task(task: str, item: Item) -> Item:
    """Return an item as part of a mean over benchmarks: equal names of videos in two of them are not equal videos."""
    return Item(item.sample_id, f"{task}/{item.cluster}", item.value, (task, *item.path))


def _pairs(one: Side, other: Side, metric: str) -> tuple[list[tuple[Item, Item]], int]:
    a = one.items if metric == one.entry.primary else one.items_of(metric)
    b = other.items if metric == other.entry.primary else other.items_of(metric)
    shared = [(item, b[name]) for name, item in a.items() if name in b]
    return shared, len(a.keys() ^ b.keys())


def _tested(plain: Comparison, pairs: Sequence[tuple[Item, Item]], draws: int) -> Comparison:
    found = paired_test(pairs, draws)
    ones, others = [a.value for a, _ in pairs], [b.value for _, b in pairs]
    only = discordant(ones, others) if {*ones, *others} <= {0.0, 1.0} else (None, None)
    return dataclasses.replace(
        plain,
        difference=found.difference,
        values=found.values,
        p=found.test.p,
        adjusted=found.test.p,
        exact=found.test.exact,
        only_one=only[0],
        only_other=only[1],
    )
