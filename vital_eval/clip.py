"""Frames and the times they were really decoded at. Every frame a model sees came through a Clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vital_eval.span import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Decoded frames of one span of one video.

    Attributes:
        frames: uint8, shape (frames, height, width, 3), RGB, already resized and, if the view asks for it,
            with the clock drawn.
        timestamps: presentation time of each decoded frame, seconds in the original video, strictly
            increasing, one per frame.
        span: the span that was asked for, after clamping to the video.
    """

    frames: NDArray[np.uint8]
    timestamps: tuple[float, ...]
    span: Span

    def __post_init__(self) -> None:
        """Check the shape and that every frame has its own time."""
        shape = self.frames.shape
        if len(shape) != 4 or shape[3] != 3 or shape[0] != len(self.timestamps) or shape[0] == 0:
            raise ValueError(f"frames of shape {shape} do not fit {len(self.timestamps)} timestamps")
        if any(b <= a for a, b in zip(self.timestamps, self.timestamps[1:], strict=False)):
            raise ValueError("frame timestamps must increase strictly")

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.timestamps)
