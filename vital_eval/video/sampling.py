"""Which frames of a span are shown. Pure: real frame times in, indices out."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from vital_eval.protocol import View
from vital_eval.span import Span

#: Guards ``length * fps`` against a product such as 2.9999999999999996 that means 3.
_ROUNDING = 1e-9


def choose_frames(frame_times: Sequence[float], span: Span | None, view: View) -> tuple[int, ...]:
    """Choose the frames of a span, evenly in time.

    ``n = min(view.max_frames, floor(length * view.fps) + 1)`` target times spread evenly from the first frame
    inside the span to the last one, both included; each takes the nearest real frame (the earlier of two
    equally near) and a frame is taken once. ``length`` is that of the span within the video.

    With room for one frame only, a span shows its middle and the whole video shows its very last frame,
    because some questions are about that frame (Video-MMMU). A span without any frame shows the nearest one.

    Args:
        frame_times: seconds, strictly increasing, not empty.
        span: seconds, both ends included; ``None`` is the whole video.
        view: only ``fps`` and ``max_frames`` are used.

    Returns:
        Indices into ``frame_times``, strictly increasing, between 1 and ``view.max_frames`` of them.

    Raises:
        ValueError: if there are no frames.
    """
    if not frame_times:
        raise ValueError("no frames to choose from")
    final = len(frame_times) - 1
    first, last = 0, final
    begin, end = frame_times[0], frame_times[-1]
    if span is not None:
        first = bisect_left(frame_times, span.start)
        last = bisect_right(frame_times, span.end) - 1
        if first > last:
            return (_nearest_outside(frame_times, span, last, first),)
        begin, end = max(begin, span.start), min(end, span.end)

    # min() before floor() keeps an enormous fps from overflowing.
    count = math.floor(min(float(view.max_frames), (end - begin) * view.fps + 1 + _ROUNDING))
    if count == 1:
        if (first, last) == (0, final):
            return (final,)
        return (_nearest(frame_times, (frame_times[first] + frame_times[last]) / 2, first, last),)
    start, length = frame_times[first], frame_times[last] - frame_times[first]
    inner = (_nearest(frame_times, start + length * step / (count - 1), first, last) for step in range(1, count - 1))
    return tuple(sorted({first, *inner, last}))


def _nearest(times: Sequence[float], target: float, first: int, last: int) -> int:
    """Return the index in [first, last] whose time is nearest; of two equally near ones the earlier."""
    right = bisect_left(times, target, first, last + 1)
    if right > last:
        return last
    if right == first:
        return first
    return right if times[right] - target < target - times[right - 1] else right - 1


def _nearest_outside(times: Sequence[float], span: Span, before: int, after: int) -> int:
    """Return whichever neighbour of a span without frames is nearer to it."""
    if before < 0:
        return after
    if after >= len(times):
        return before
    return after if times[after] - span.end < span.start - times[before] else before
