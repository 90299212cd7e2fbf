"""Where decoding starts and what it passes over, chosen by cost before a file is opened. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames that are decoded in one go.

    Attributes:
        start: index of the keyframe that decoding starts at.
        first: place of the first frame wanted among those asked for.
        last: place after the last one.
        cost: what reading it takes, in frames decoded.
    """

    start: int
    first: int
    last: int
    cost: int


@dataclass(frozen=True, slots=True)
class Costs:
    """What reading takes besides decoding a frame, measured in decoded frames (``benchmarks/decode.py``).

    Attributes:
        restart: draining the decoder, seeking and starting again at a keyframe.
        keep: turning a decoded frame into the pixels handed out.
    """

    restart: int
    keep: int


def plan_stretches(indices: Sequence[int], keyframes: Sequence[int], costs: Costs) -> tuple[Stretch, ...]:
    """Choose where to start anew and where to decode on.

    A frame needs everything from the keyframe before it. From one frame wanted to the next, decoding goes on if
    that keyframe is not ahead, or if passing over the frames up to it costs less than starting again there.

    Args:
        indices: frames wanted, strictly increasing, at least one.
        keyframes: indices of frames that decoding can start at, increasing; frames before the first one are
            reached from it, for it stands at the head of the file.
        costs: of this decoder.

    Returns:
        Stretches in order; together they hold every place of ``indices`` once.
    """
    starts = [_keyframe(keyframes, index) for index in indices]
    breaks = [
        place
        for place, (before, start) in enumerate(zip(indices, starts[1:], strict=False), start=1)
        if start - before - 1 > costs.restart
    ]
    bounds = pairwise((0, *breaks, len(indices)))
    return tuple(
        Stretch(starts[first], first, last, _cost(starts[first], indices[first:last], costs)) for first, last in bounds
    )


def share_out(
    indices: Sequence[int], keyframes: Sequence[int], costs: Costs, readers: int, least: int
) -> tuple[tuple[Stretch, ...], ...]:
    """Split a plan into parts of about equal cost for readers that work side by side.

    Cuts are made at keyframes only, so that nothing is decoded twice.

    Args:
        indices: frames wanted, strictly increasing, at least one.
        keyframes: see :func:`plan_stretches`.
        costs: of this decoder.
        readers: at most so many parts.
        least: cost below which opening the file once more does not pay.

    Returns:
        One plan a reader, at least one; together they hold every place of ``indices`` once.
    """
    whole = plan_stretches(indices, keyframes, costs)
    parts = min(readers, sum(stretch.cost for stretch in whole) // max(1, least))
    if parts < 2:
        return (whole,)
    # Frames of one keyframe stay together: a cut may only lie before the first frame of its group.
    groups = plan_stretches(indices, keyframes, Costs(restart=-1, keep=costs.keep))
    total = sum(group.cost for group in groups)
    shares: list[tuple[int, int]] = []
    done = first = 0
    for group in groups:
        if done * parts >= total * (len(shares) + 1) and group.first > first:
            shares.append((first, group.first))
            first = group.first
        done += group.cost
    shares.append((first, len(indices)))
    return tuple(_moved(plan_stretches(indices[a:b], keyframes, costs), a) for a, b in shares)


def _keyframe(keyframes: Sequence[int], index: int) -> int:
    return keyframes[max(0, bisect_right(keyframes, index) - 1)]


def _cost(start: int, indices: Sequence[int], costs: Costs) -> int:
    return costs.restart + max(0, indices[-1] - start) + 1 + costs.keep * len(indices)


def _moved(stretches: Sequence[Stretch], by: int) -> tuple[Stretch, ...]:
    return tuple(Stretch(each.start, each.first + by, each.last + by, each.cost) for each in stretches)
