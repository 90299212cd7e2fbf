"""What a video decoder must offer: true frame times, and exactly the frames that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Largest frame that is decoded, height x width. Above it lies no benchmark, only a hostile file.
MAX_PIXELS = 8192 * 8192
#: Longest video that is decoded, seconds.
MAX_SECONDS = 24 * 3600.0
#: Most frames of one video; 12 hours at 60 frames per second.
MAX_FRAMES = 2_600_000


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a video after reading its index.

    Time zero is the moment the first frame is shown, as in every player; the container's own clock may start
    elsewhere (broadcast streams, edit lists), and ``origin`` keeps that difference.

    Attributes:
        duration: seconds from the first frame to the end of the last one, measured, not taken from a header.
        width: pixels, after rotation.
        height: pixels, after rotation.
        frame_times: presentation time of every frame in presentation order, seconds, strictly increasing,
            the first one 0. Frames that share a time with an earlier one are never shown and are left out.
        origin: time of the first frame on the container's own clock, seconds.
        keyframes: indices of frames that decoding can start at, increasing.
        ordered_only: the file has no reliable times to seek by, frames are found by counting from the start.
        packets_tell: every frame's packet bears the frame's own time, so that it can be told before decoding which
            packets hold frames that are wanted.
    """

    duration: float
    width: int
    height: int
    frame_times: tuple[float, ...]
    origin: float = 0.0
    keyframes: tuple[int, ...] = (0,)
    ordered_only: bool = False
    packets_tell: bool = False

    def __post_init__(self) -> None:
        """Refuse an index no frame could be chosen from."""
        times = self.frame_times
        if not times or any(b <= a for a, b in pairwise(times)):
            raise ValueError("a video needs frames whose times increase strictly")
        if not self.duration > 0 or self.width < 1 or self.height < 1:
            raise ValueError(f"impossible video of {self.width} x {self.height} pixels and {self.duration} s")

    @property
    def frame_count(self) -> int:
        """Number of frames that can be shown."""
        return len(self.frame_times)


class Decoder(Protocol):
    """Reads frames by their index in presentation order.

    The promise of every decoder: the right frame or a :class:`~vital_eval.errors.MediaError`, never another
    frame. A decoder is constructed without arguments, by registry name.
    """

    name: str

    def probe(self, path: Path) -> VideoInfo:
        """Read the index of a video file.

        Raises:
            MediaError: ``missing``, ``no-video-stream``, ``unreadable``, ``truncated`` or ``too-large``.
        """
        ...

    def read(self, path: Path, indices: Sequence[int], info: VideoInfo) -> NDArray[np.uint8]:
        """Decode frames.

        Args:
            path: the file ``info`` was probed from.
            indices: into ``info.frame_times``, strictly increasing, at least one.
            info: what :meth:`probe` returned for this file.

        Returns:
            uint8, shape (len(indices), info.height, info.width, 3), RGB, upright.

        Raises:
            MediaError: ``truncated`` if a frame asked for cannot be decoded, or as :meth:`probe`.
            ValueError: if the indices are not strictly increasing or not of this video.
        """
        ...


@runtime_checkable
class ResizingDecoder(Decoder, Protocol):
    """A decoder that resizes frames as they come, so that no more than a few are held at their full size."""

    def read_resized(
        self, path: Path, indices: Sequence[int], info: VideoInfo, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Decode frames and resize them.

        Args:
            path: as in :meth:`Decoder.read`.
            indices: as in :meth:`Decoder.read`.
            info: as in :meth:`Decoder.read`.
            size: height and width wanted, pixels.

        Returns:
            uint8, shape (len(indices), *size, 3): what :func:`~vital_eval.video.resize.resize_frames` makes of the
            frames of :meth:`Decoder.read`, bit for bit.

        Raises:
            MediaError: as :meth:`Decoder.read`.
            ValueError: as :meth:`Decoder.read`.
        """
        ...


def check_indices(indices: Sequence[int], info: VideoInfo) -> None:
    """Refuse indices that break the contract of :meth:`Decoder.read`.

    Raises:
        ValueError: if they are empty, not strictly increasing, or outside the video.
    """
    if not indices or indices[0] < 0 or indices[-1] >= info.frame_count:
        raise ValueError(f"frame indices must be of a video of {info.frame_count} frames")
    if any(b <= a for a, b in pairwise(indices)):
        raise ValueError("frame indices must increase strictly")
