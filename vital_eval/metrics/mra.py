"""Mean relative accuracy of VSI-Bench's numeric questions."""

from __future__ import annotations

import math

import numpy as np

# linspace's own values: its 0.9 is 0.8999999999999999, which lets an error of exactly 10 % pass. The literal 0.9
# would not.
_CONFIDENCES: tuple[float, ...] = tuple(float(value) for value in np.linspace(0.5, 0.95, 10))


def mean_relative_accuracy(predicted: float, target: float) -> float:
    """Return the share of thresholds c in linspace(.50, .95, 10) with |p - t| / t <= 1 - c, in [0, 1].

    Args:
        predicted: stated number; one that is not finite scores 0.
        target: annotated number, above 0.

    Source:
        ``mean_relative_accuracy`` of vision-x-nyu/thinking-in-space.
    """
    if not math.isfinite(predicted) or target <= 0:
        return 0.0
    error = abs(predicted - target) / target
    return sum(error <= 1 - confidence for confidence in _CONFIDENCES) / len(_CONFIDENCES)
