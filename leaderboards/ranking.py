"""Which ranks a column's sampling error leaves open to its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vital_eval.statistics.ranks import rank_ranges

from .lines import Line

#: Enough for the ends of a 95 % range of small whole numbers, few enough for a board in seconds.
DRAWS = 2_000


def ranks_of(lines: Sequence[Line], task: str) -> Mapping[int, tuple[int, int]]:
    """Return the index of a row to its best and worst rank on one benchmark.

    Only rows with a number that may be read take part; baselines, which answer nothing, do not. With fewer than two
    such rows, or fewer than two clusters, there is no rank.

    Args:
        lines: measured rows.
        task: the benchmark.
    """
    sides = {index: line.parts[task] for index, line in enumerate(lines) if task in line.parts}
    whole = {index: side for index, side in sides.items() if side.readable}
    if len(whole) < 2:
        return {}
    first = next(iter(whole.values()))
    shared = [name for name in first.items if all(name in side.items for side in whole.values())]
    found = rank_ranges(
        [[side.items[name].value for name in shared] for side in whole.values()],
        [first.items[name].cluster for name in shared],
        [first.items[name].path for name in shared],
        draws=DRAWS,
    )
    return {index: (place.low, place.high) for index, place in zip(whole, found, strict=True) if place is not None}
