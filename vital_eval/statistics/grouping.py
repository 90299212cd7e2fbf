"""Labels as numbers, and sums by group that are the same in whatever order the rows come."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

#: One number per sample.
Scores: TypeAlias = Sequence[float] | npt.NDArray[np.float64]

#: One label per sample; anything that can be a key of a dictionary.
Labels: TypeAlias = Sequence[Hashable] | npt.NDArray[Any]

#: Each part keeps 53 bits less the logarithm of n; three hold every bit that could matter in a double.
_PARTS = 3


def numbered(labels: Labels) -> tuple[npt.NDArray[np.intp], int]:
    """Number labels from 0 in the order of their first appearance.

    Args:
        labels: one label per row.

    Returns:
        The number of each row's label, shape ``(n,)``, and how many distinct labels there are.
    """
    plain = labels.tolist() if isinstance(labels, np.ndarray) else labels
    numbers = {label: number for number, label in enumerate(dict.fromkeys(plain))}
    return np.fromiter(map(numbers.__getitem__, plain), dtype=np.intp, count=len(plain)), len(numbers)


def group_sums(values: npt.NDArray[np.float64], groups: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.float64]:
    """Add up values by group; the result depends on neither the order of the rows nor the numbers of the groups.

    Every value is cut into parts that are multiples of one power of two, so coarse that adding up n of them never
    rounds (error-free extraction: Rump, Ogita and Oishi, "Accurate Floating-Point Summation Part I", SIAM J. Sci.
    Comput. 31, 2008). What is exact has no order. The sum of negated values is the negated sum.

    Args:
        values: finite, shape ``(n,)``.
        groups: the group of each value, in ``range(count)``.
        count: number of groups.

    Returns:
        Shape ``(count,)``, correct to the last digit or two; 0 for groups without rows.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0:
        return np.zeros(count)
    exponent = math.frexp(largest)[1]
    sums = []
    rest = values
    for _ in range(_PARTS):
        exponent += len(values).bit_length()
        # One and a half powers of two: numbers around it are equally spaced on both sides, so signs do not matter.
        anchor = math.ldexp(1.5, exponent)
        part = (rest + anchor) - anchor
        rest = rest - part
        sums.append(np.bincount(groups, part, minlength=count))
        exponent -= 53
    return np.asarray(sums[0] + (sums[1] + sums[2]), dtype=np.float64)
