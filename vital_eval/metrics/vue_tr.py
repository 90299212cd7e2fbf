"""VUE-TR's three areas under a curve, with the arithmetic of the official ``qa_eval.py``.

The official figure is the trapezoid area under the share of queries that pass each of 101 thresholds. Both the share
and the area are linear, so the figure is the mean over queries of each query's own area, which is what the functions
here return. Windows are raw: reversed, overlapping and unsorted ones are legal input, as in the released predictions.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np

from vital_eval.metrics.iou import merge
from vital_eval.span import Window

_THRESHOLDS: tuple[float, ...] = tuple(float(value) for value in np.linspace(0.0, 1.0, 101))


def whole_seconds(predicted: Sequence[Window]) -> tuple[Window, ...]:
    """Widen predictions to whole seconds: starts down, ends up. The official script does so before it scores."""
    return tuple((float(math.floor(start)), float(math.ceil(end))) for start, end in predicted)


def official_iou(predicted: Sequence[Window], annotated: Sequence[Window]) -> float:
    """Return the official IoU of one query, in [0, 1]; 0 without a prediction.

    Both sides are sorted and merged, then reversed windows are dropped. The intersection is taken by a walk in order.
    """
    if not predicted:
        return 0.0
    left = _forward(merge(whole_seconds(predicted)))
    right = _forward(merge(annotated))
    shared = _walk(left, right)
    return min(1.0, max(0.0, shared / (_total(left) + _total(right) - shared + 1e-16)))


def area_above(iou: float) -> float:
    """Return the area under [IoU > t] for one query's IoU.

    Strictly above: a perfect answer fails the last threshold and gets 0.995.
    """
    return _area(bisect_left(_THRESHOLDS, iou))


def iou_area(predicted: Sequence[Window], annotated: Sequence[Window]) -> float:
    """Return the area under [IoU > t] for one query; 0 without a prediction."""
    return area_above(official_iou(predicted, annotated))


def precision_area(predicted: Sequence[Window], annotated: Sequence[Window]) -> float | None:
    """Return the area under [precision >= t] for one query; ``None`` if the predicted length is 0.

    The official script leaves such queries out, so answering less raises it: never read it alone.
    """
    left = _ordered_bounds(whole_seconds(predicted))
    return _ratio_area(_walk(left, _ordered_bounds(annotated)), _total(left))


def recall_area(predicted: Sequence[Window], annotated: Sequence[Window]) -> float | None:
    """Return the area under [recall >= t] for one query; ``None`` if the annotated length is 0."""
    right = _ordered_bounds(annotated)
    return _ratio_area(_walk(_ordered_bounds(whole_seconds(predicted)), right), _total(right))


def _ratio_area(shared: float, length: float) -> float | None:
    return _area(bisect_right(_THRESHOLDS, shared / length)) if length > 0 else None


def _area(passed: int) -> float:
    # Trapezoid under a curve that is 1 at the first `passed` thresholds and 0 after them.
    if passed == 0:
        return 0.0
    steps = len(_THRESHOLDS) - 1
    return 1.0 if passed > steps else (passed - 0.5) / steps


def _forward(windows: Sequence[Window]) -> tuple[Window, ...]:
    return tuple(window for window in windows if window[0] < window[1])


def _ordered_bounds(windows: Sequence[Window]) -> tuple[Window, ...]:
    return tuple((min(window), max(window)) for window in windows)


def _walk(left: Sequence[Window], right: Sequence[Window]) -> float:
    # Two pointers in the order given: unsorted lists are under-counted, as officially. Where both end together the
    # prediction (left) moves on first; with the other order seven published rows differ in their printed digit.
    shared, i, j = 0.0, 0, 0
    while i < len(left) and j < len(right):
        shared += max(0.0, min(left[i][1], right[j][1]) - max(left[i][0], right[j][0]))
        if left[i][1] <= right[j][1]:
            i += 1
        else:
            j += 1
    return shared


def _total(windows: Sequence[Window]) -> float:
    return sum(end - start for start, end in windows)
