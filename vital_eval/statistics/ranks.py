"""Between which ranks a row of a board may lie, by drawing the videos again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vital_eval.statistics.grouping import Labels, Scores, group_sums, numbered

#: Share of the draws that lies below the lower and above the upper rank.
_TAIL = 0.025

#: Means of equal scores in two orders differ by rounding; that makes no row better.
_TIE = 1e-11

#: Numbers held at a time: the counts of a chunk of draws (32 MiB).
_HELD = 2**22


@dataclass(frozen=True, slots=True)
class RankRange:
    """The ranks of one row in 95 % of the draws; 1 is the best.

    Attributes:
        low: the better end.
        high: the worse end.
    """

    low: int
    high: int


def rank_ranges(
    scores: Sequence[Scores] | npt.NDArray[np.float64],
    clusters: Labels,
    paths: Sequence[tuple[str, ...]],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[RankRange | None, ...]:
    """Return the 95 % range of every row's rank under a bootstrap of clusters.

    Each draw takes as many videos as there are, with replacement, the same for all rows; so what videos have in
    common cancels, as in a paired comparison. It computes every row's mean anew, over strata before samples
    (:func:`vital_eval.statistics.means.nested_weights`); a stratum none of whose videos was drawn takes no part.
    A rank is 1 + the number of rows that are strictly better, so equal rows share a rank.

    Args:
        scores: one row per entry of the board, each with one score per sample, the same samples in the same order.
        clusters: the unit of every sample that shares context.
        paths: strata of every sample, outermost first; ``()`` everywhere is the plain mean.
        draws: number of resamples.
        seed: of the resamples. The result depends on neither the order of the samples nor the names of the clusters.

    Returns:
        One range per row; ``None`` for all with fewer than two clusters, where there is nothing to draw.

    Raises:
        ValueError: if lengths differ, a score is not finite, or ``draws`` is below 1.
    """
    n = len(clusters)
    if len(paths) != n or any(len(row) != n for row in scores):
        raise ValueError(f"{n} clusters, {len(paths)} paths and rows of {[len(row) for row in scores]} scores")
    if draws < 1:
        raise ValueError(f"{draws} draws")
    cluster, count = numbered(clusters)
    rows = len(scores)
    if rows == 0 or count < 2:
        return (None,) * rows
    leaves = sorted(set(paths))
    sums = _sums(scores, cluster, count, paths, leaves)
    order = _row_order(sums[:, :, :rows])
    sums = sums[:, :, [*order, rows]]
    flat = sums.reshape(count, -1)
    # Which cluster a random number stands for must not depend on labels, so clusters are put in order of content.
    flat = flat[np.lexsort(flat.T[::-1])]
    generator = np.random.default_rng(seed)
    times = np.zeros((rows, rows + 1), dtype=np.int64)
    chunk = max(1, min(draws, _HELD // max(count, rows * rows)))
    taken = np.empty((chunk, count))
    for start in range(0, draws, chunk):
        part = taken[: min(chunk, draws - start)]
        for counts in part:
            counts[:] = np.bincount(generator.integers(0, count, count), minlength=count)
        drawn = (part @ flat).reshape(len(part), len(leaves), rows + 1)
        means = _nested_means(drawn, leaves)
        ranks = 1 + (means[:, None, :] > means[:, :, None] + _TIE).sum(axis=2)
        for row in range(rows):
            times[row] += np.bincount(ranks[:, row], minlength=rows + 1)
    ranges: list[RankRange | None] = [None] * rows
    for row, seen in zip(order, times, strict=True):
        reached = np.cumsum(seen) / draws
        low, high = np.searchsorted(reached, (_TAIL, 1 - _TAIL))
        ranges[row] = RankRange(int(low), int(high))
    return tuple(ranges)


def _sums(
    scores: Sequence[Scores] | npt.NDArray[np.float64],
    cluster: npt.NDArray[np.intp],
    count: int,
    paths: Sequence[tuple[str, ...]],
    leaves: Sequence[tuple[str, ...]],
) -> npt.NDArray[np.float64]:
    """Return sums of scores by cluster, leaf and row; the last "row" counts samples."""
    places = {leaf: place for place, leaf in enumerate(leaves)}
    leaf = np.fromiter(map(places.__getitem__, paths), dtype=np.intp, count=len(paths))
    cells = cluster * len(leaves) + leaf
    sums = np.empty((count, len(leaves), len(scores) + 1))
    for place, row in enumerate((*scores, np.ones(len(paths)))):
        values = np.asarray(row, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"score {values[~np.isfinite(values)][0]} of row {place} is not finite")
        sums[:, :, place] = group_sums(values, cells, count * len(leaves)).reshape(count, len(leaves))
    return sums


def _row_order(sums: npt.NDArray[np.float64]) -> list[int]:
    """Put rows in an order that depends on what they score, so that the draws do not depend on how they are listed.

    A row is known by its sums beside the total of all rows, cluster by cluster. Rows that this cannot tell apart
    mirror each other and keep their order.
    """
    totals = np.sort(sums, axis=2).sum(axis=2)
    keys = []
    for row in range(sums.shape[2]):
        columns = np.concatenate((totals, sums[:, :, row]), axis=1).T
        keys.append((columns[:, np.lexsort(columns)].tobytes(), row))
    return [row for _, row in sorted(keys)]


def _nested_means(drawn: npt.NDArray[np.float64], leaves: Sequence[tuple[str, ...]]) -> npt.NDArray[np.float64]:
    """Return means by draw and row, from sums and sample counts by draw, leaf and row."""
    sizes = drawn[:, :, -1:]
    means = np.divide(drawn[:, :, :-1], sizes, out=np.zeros_like(drawn[:, :, :-1]), where=sizes > 0)
    return _average(list(range(len(leaves))), 0, leaves, means, sizes > 0)[0]


def _average(
    members: Sequence[int],
    depth: int,
    leaves: Sequence[tuple[str, ...]],
    means: npt.NDArray[np.float64],
    present: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Average over the children that a draw has; also say in which draws there are any, shape ``(draws, 1)``."""
    children: defaultdict[str | None, list[int]] = defaultdict(list)
    for member in members:
        path = leaves[member]
        children[path[depth] if depth < len(path) else None].append(member)
    total = np.zeros_like(means[:, 0, :])
    number = np.zeros((len(means), 1))
    for name, inside in children.items():
        if name is None:
            mean, there = means[:, inside[0], :], present[:, inside[0], :]
        else:
            mean, there = _average(inside, depth + 1, leaves, means, present)
        total += np.where(there, mean, 0.0)
        number += there
    return np.divide(total, number, out=np.zeros_like(total), where=number > 0), number > 0
