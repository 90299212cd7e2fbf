"""p values of several tests read together, adjusted so that each can be held against one level.

``None`` stands for a test that could not be made (fewer than two videos). It stays ``None`` and does not count.
"""

from __future__ import annotations

from collections.abc import Sequence


def holm(ps: Sequence[float | None]) -> tuple[float | None, ...]:
    """Adjust by Holm's step-down method, for a few planned comparisons.

    Rejecting where the result is at most 5 % gives a chance of at most 5 % for any false claim in the family, however
    the tests depend on each other.

    Args:
        ps: raw p values in [0, 1].

    Returns:
        Adjusted values in the same order: never below the raw ones, never above 1, and in the same ranking.

    Raises:
        ValueError: if a p value is not in [0, 1].

    Source:
        Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statist. 6, 1979.
    """
    order = _ascending(ps)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for place, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - place)))
        adjusted[index] = highest
    return tuple(adjusted)


def benjamini_hochberg(ps: Sequence[float | None]) -> tuple[float | None, ...]:
    """Adjust by Benjamini and Hochberg's step-up method, for looking through many comparisons.

    Rejecting where the result is at most 5 % keeps the expected share of false claims among the claims at 5 % or
    below, for tests that are independent or positively dependent.

    Args:
        ps: raw p values in [0, 1].

    Returns:
        Adjusted values in the same order: never below the raw ones, never above 1, and in the same ranking.

    Raises:
        ValueError: if a p value is not in [0, 1].

    Source:
        Benjamini and Hochberg, "Controlling the False Discovery Rate", J. R. Statist. Soc. B 57, 1995.
    """
    order = _ascending(ps)
    adjusted: list[float | None] = [None] * len(ps)
    lowest = 1.0
    for place, (p, index) in reversed(list(enumerate(order, start=1))):
        lowest = min(lowest, p * (len(order) / place))
        adjusted[index] = lowest
    return tuple(adjusted)


def _ascending(ps: Sequence[float | None]) -> list[tuple[float, int]]:
    for p in ps:
        if p is not None and not 0 <= p <= 1:
            raise ValueError(f"p value {p} is not in [0, 1]")
    return sorted((p, index) for index, p in enumerate(ps) if p is not None)
