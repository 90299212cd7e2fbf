"""Time spans in seconds of the original video."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: A span exactly as an annotation file gives it, in seconds. Official files hold degenerate ones
#: (ReXTime has [1, 1] and [0, 0]); they stay in the denominator, so they must be representable.
Window = tuple[float, float]


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A stretch of the original video: ``start < end``, both finite, in seconds.

    Raises:
        ValueError: if a bound is not finite or ``start >= end``.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        """Refuse what is not a span."""
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"span bounds must be finite, got {self.start} and {self.end}")
        if self.start >= self.end:
            raise ValueError(f"a span must start before it ends, got {self.start} to {self.end}")

    @property
    def length(self) -> float:
        """Length in seconds, always positive."""
        return self.end - self.start

    def as_window(self) -> Window:
        """Return ``(start, end)``."""
        return (self.start, self.end)
