"""A decoded frame as the pixels that are handed out: RGB, upright, of one size."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.reformatter import VideoReformatter

from vital_eval.video.resize import resize_frame

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray


class Painter:
    """Turns decoded frames into pixels. For one thread; its tables are made once, not for each frame.

    Args:
        height: of the video as shown, pixels.
        width: of the video as shown, pixels.
        size: height and width to resize to, or ``None``.
    """

    def __init__(self, height: int, width: int, size: tuple[int, int] | None = None) -> None:
        self._height, self._width = height, width
        self._size = size or (height, width)
        self._reformatter = VideoReformatter()

    def paint(self, frame: VideoFrame, out: NDArray[np.uint8]) -> None:
        """Write a frame as RGB, turned and mirrored as its display matrix says, of the size wanted.

        A stream may change its size on the way; like players, such frames are first scaled to the video's size.

        Args:
            frame: as decoded.
            out: uint8, shape (height, width, 3) of the size wanted; overwritten.
        """
        pose = _pose(frame)
        height, width = (self._height, self._width) if pose.turns % 2 == 0 else (self._width, self._height)
        # More threads than one would be started for every frame, to convert it in half a millisecond.
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        pixels = _upright(_pixels(rgb), pose)
        out[...] = pixels if pixels.shape[:2] == self._size else resize_frame(pixels, self._size)


def _pixels(rgb: VideoFrame) -> NDArray[np.uint8]:
    """Return the pixels of a frame in RGB without copying them; rows may lie apart."""
    plane = rgb.planes[0]
    rows: NDArray[np.uint8] = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
    return rows[: rgb.height, : rgb.width * 3].reshape(rgb.height, rgb.width, 3)


def upright_size(frame: VideoFrame) -> tuple[int, int]:
    """Return height and width as shown."""
    sides = (frame.height, frame.width)
    return sides if _pose(frame).turns % 2 == 0 else sides[::-1]


@dataclass(frozen=True, slots=True)
class _Pose:
    """How a stored frame is put upright: mirrored left to right first, then turned.

    Attributes:
        mirrored: whether it is mirrored.
        turns: quarter turns counter-clockwise, 0 to 3.
    """

    mirrored: bool
    turns: int


def _pose(frame: VideoFrame) -> _Pose:
    """Read a frame's display matrix, which says where a stored point (x, y) is shown.

    It is shown at (a x + c y, b x + d y), y pointing down; the matrix is stored as a, b, u, c, d, v, x, y, w. Any part
    of a turn is rounded to a quarter.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return _Pose(mirrored=False, turns=0)
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b
    return _Pose(mirrored, round(-math.degrees(math.atan2(b, a)) / 90) % 4)


def _upright(pixels: NDArray[np.uint8], pose: _Pose) -> NDArray[np.uint8]:
    return np.rot90(pixels[:, ::-1] if pose.mirrored else pixels, pose.turns)
