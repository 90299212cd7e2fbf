"""The time of each frame, drawn into its lower right corner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RED = (255, 0, 0)
_MARGIN = 10


def draw_clock(frames: NDArray[np.uint8], times: Sequence[float]) -> NDArray[np.uint8]:
    """Draw ``"12.34s"`` in red into the lower right corner of each frame.

    It is drawn after resizing, so that its size does not depend on the source: the font size is
    ``int(40 * sqrt(height * width) / 336)`` and the margin 10 pixels, as in the released VITAL recipe. The
    font is the one built into Pillow (Aileron), not that of the release (DejaVuSans-Bold), because it is the
    same on every machine.

    Args:
        frames: uint8, shape (n, height, width, 3), RGB; not changed.
        times: true time of each decoded frame, seconds in the original video.

    Returns:
        A copy with the times drawn.
    """
    drawn = np.empty_like(frames)
    height, width = frames.shape[1:3]
    font = _font(max(1, int(40 * math.sqrt(height * width) / 336)))
    for index, (frame, time) in enumerate(zip(frames, times, strict=True)):
        image = Image.fromarray(frame)
        corner = (width - _MARGIN, height - _MARGIN)
        ImageDraw.Draw(image).text(corner, f"{time:.2f}s", fill=_RED, font=font, anchor="rb")
        drawn[index] = np.asarray(image)
    return drawn


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
