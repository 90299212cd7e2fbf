"""Stretches of time that overlap: how long at least one of them was under way."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Intervals:
    """Many stretches of time, 16 bytes each.

    Attributes:
        starts: in seconds of any clock, in any order.
        ends: on the same clock; none lies before its start.
    """

    starts: array[float] = field(default_factory=lambda: array("d"))
    ends: array[float] = field(default_factory=lambda: array("d"))

    def add(self, start: float, seconds: float) -> None:
        """Take in the stretch that begins at ``start`` and lasts ``seconds``; nothing lasts less than none."""
        self.starts.append(start)
        self.ends.append(start + max(0.0, seconds))

    @property
    def span(self) -> float:
        """Seconds from the first start to the last end; 0 without any."""
        return max(self.ends) - min(self.starts) if self.starts else 0.0

    def covered(self) -> float:
        """Return the length of the union in seconds; 0 without any."""
        if not self.starts:
            return 0.0
        starts, ends = np.frombuffer(self.starts), np.frombuffer(self.ends)
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        # A gap: the next stretch begins after everything that began before it has ended.
        gaps = starts[1:] - ends[:-1]
        return float(ends[-1] - starts[0] - gaps[gaps > 0].sum())
