"""The size a frame is shown at, and the resizing itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PIL import Image

from vital_eval.errors import MediaError
from vital_eval.protocol import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

import numpy as np

#: Above this ratio of the sides a frame is refused, as Qwen's own processor does.
MAX_ASPECT_RATIO = 200


def target_size(height: int, width: int, view: View, factor: int) -> tuple[int, int]:
    """Return the size a frame is resized to, by Qwen's smart-resize rule.

    Both sides become the nearest multiple of ``factor``. If that is more than ``view.max_pixels``, both are
    shrunk by ``sqrt(height * width / max_pixels)`` and rounded down; if less than ``view.min_pixels``,
    enlarged likewise and rounded up. The arithmetic is that of ``smart_resize`` in transformers'
    ``qwen2_vl`` image processor, so that resizing there again changes nothing.

    Args:
        height: pixels.
        width: pixels.
        view: ``min_pixels`` and ``max_pixels`` of one frame.
        factor: pixels on a side of what becomes one visual token (28 for Qwen2.5-VL, 32 for Qwen3-VL).

    Returns:
        Height and width in pixels, positive multiples of ``factor``.

    Raises:
        MediaError: ``unreadable`` if one side is more than 200 times the other.
    """
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise MediaError("unreadable", f"a frame of {height} x {width} pixels is too narrow to be shown")
    rows = max(factor, round(height / factor) * factor)
    columns = max(factor, round(width / factor) * factor)
    if rows * columns > view.max_pixels:
        shrink = math.sqrt(height * width / view.max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < view.min_pixels:
        enlarge = math.sqrt(view.min_pixels / (height * width))
        rows = math.ceil(height * enlarge / factor) * factor
        columns = math.ceil(width * enlarge / factor) * factor
    return rows, columns


def resize_frames(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize frames with Pillow's bicubic filter.

    Pillow widens the filter when it shrinks (antialiasing), which is what the released recipe did for decoded
    files; frames already of the wanted size are returned as they are.

    Args:
        frames: uint8, shape (n, height, width, 3).
        size: height and width wanted, pixels.

    Returns:
        uint8, shape (n, *size, 3).
    """
    if frames.shape[1:3] == size:
        return frames
    resized = np.empty((len(frames), *size, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        resized[index] = resize_frame(frame, size)
    return resized


def resize_frame(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize one frame; see :func:`resize_frames`.

    Args:
        frame: uint8, shape (height, width, 3); its rows may lie apart in memory.
        size: height and width wanted, pixels.

    Returns:
        uint8, shape (*size, 3).
    """
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BICUBIC))
