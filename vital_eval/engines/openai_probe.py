"""Before a run: does the server show the model every frame, at the size it was sent?

Servers thin, cut and resize videos by their own settings and say nothing. Their count of prompt tokens gives it away.
"""

from __future__ import annotations

import numpy as np

from vital_eval.clip import Clip
from vital_eval.engine import FrameGeometry
from vital_eval.engines.openai_messages import Transport, visual_tokens
from vital_eval.span import Span

#: Faster than the 2 frames a second to which servers thin videos.
_RATE = 4.0
#: More than the 32 frames at which they cut them.
_FEW, _MANY = 8, 40
#: Fewer by one than ``_FEW``; some servers drop the last frame of an odd number.
_ODD = 7
#: Sides that hold whole numbers of 28 and of 32 pixels, so that one size tells the families apart.
_SIDE = 224
#: Most tokens of marks and of a written time around one block of pixels.
_MOST_BESIDES = 24


def probe_clips(geometry: FrameGeometry) -> tuple[Clip, Clip, Clip]:
    """Return clips to be shown one by one: short, twice as wide, and with more frames."""
    factor = geometry.spatial_factor
    side = _SIDE if _SIDE % factor == 0 else 8 * factor
    return _clip(_FEW, side, side), _clip(_FEW, side, 2 * side), _clip(_MANY, side, side)


def odd_clip(geometry: FrameGeometry) -> Clip:
    """Return a clip that must cost as much as the first of :func:`probe_clips`, one frame shorter."""
    few, _, _ = probe_clips(geometry)
    return Clip(few.frames[:_ODD], few.timestamps[:_ODD], few.span)


def find_fault(counts: tuple[int, int, int], geometry: FrameGeometry, transport: Transport) -> str:
    """Compare the server's counts of prompt tokens with what the clips must cost.

    Args:
        counts: prompt tokens with each of :func:`probe_clips`.
        geometry: the one that they were made for.
        transport: how they were sent.

    Returns:
        What is wrong, ``""`` if nothing.
    """
    few, wide, many = (visual_tokens([clip], geometry, transport) for clip in probe_clips(geometry))
    short, broad, long = counts
    if broad - short != wide - few:
        return (
            f"{_FEW} frames twice as wide cost {broad - short} prompt tokens more, not {wide - few}: frames are "
            f"dropped or resized, or {geometry.spatial_factor} is not the model's spatial factor"
        )
    temporal = 1 if transport is Transport.IMAGES else geometry.temporal_patch
    most = many - few + _MOST_BESIDES * ((_MANY - _FEW) // temporal)
    if not many - few <= long - short <= most:
        return f"{_MANY - _FEW} frames more cost {long - short} prompt tokens, not {many - few} to {most}"
    return ""


def _clip(count: int, height: int, width: int) -> Clip:
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    # Neighbours differ, or a server that prunes frames which repeat would be told nothing.
    frames[:] = (np.arange(count) * 37 % 256).astype(np.uint8)[:, None, None, None]
    return Clip(frames, tuple(index / _RATE for index in range(count)), Span(0.0, count / _RATE))
