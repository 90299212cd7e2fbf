"""Overlap of time spans. Ground truth is used as annotated: it is never clipped, reordered or dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vital_eval.span import Window


def overlap(one: Window, other: Window) -> float:
    """Return the length in seconds that two windows share, 0 where they do not meet."""
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def hull_iou(predicted: Window, annotated: Window) -> float:
    """Return intersection / (latest end - earliest start), in [0, 1].

    This is the form of the Charades-STA, ActivityNet, NExT-GQA and ReXTime scripts. It equals the usual IoU for
    windows that meet; windows that do not meet score 0 either way. A hull of length 0 scores 0.
    """
    hull = max(predicted[1], annotated[1]) - min(predicted[0], annotated[0])
    return overlap(predicted, annotated) / hull if hull > 0 else 0.0


def iop(predicted: Window, annotated: Window) -> float:
    """Return intersection / predicted length, in [0, 1]; 0 for a prediction of length 0.

    NExT-GQA's script gives a zero-length prediction inside a segment an IoP of 1, so that bare midpoints score
    100; such a prediction grounds nothing and scores 0 here.
    """
    length = predicted[1] - predicted[0]
    return overlap(predicted, annotated) / length if length > 0 else 0.0


def best_hull_iou(predicted: Window, annotated: Iterable[Window]) -> float:
    """Return the best :func:`hull_iou` over the annotated windows, 0 without any."""
    return max((hull_iou(predicted, window) for window in annotated), default=0.0)


def best_iop(predicted: Window, annotated: Iterable[Window]) -> float:
    """Return the best :func:`iop` over the annotated windows, 0 without any."""
    return max((iop(predicted, window) for window in annotated), default=0.0)


def merge(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Join windows that overlap or touch; the result is sorted by start."""
    merged: list[Window] = []
    for start, end in sorted(windows):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return tuple(merged)


def set_iou(predicted: Iterable[Window], annotated: Iterable[Window]) -> float:
    """Return the IoU of two sets of moments, in [0, 1]: shared time / (sum of both - shared time).

    Each side is merged first, so no second counts twice.
    """
    left, right = merge(predicted), merge(annotated)
    shared = sum(overlap(one, other) for one in left for other in right)
    union = _length(left) + _length(right) - shared
    return min(1.0, shared / union) if union > 0 else 0.0


def _length(windows: Sequence[Window]) -> float:
    return sum(end - start for start, end in windows)
