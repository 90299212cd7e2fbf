"""How long at least one of many overlapping stretches of time was under way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.intervals import Intervals


def of(*stretches: tuple[float, float]) -> Intervals:
    intervals = Intervals()
    for start, seconds in stretches:
        intervals.add(start, seconds)
    return intervals


def test_overlaps_count_once_and_gaps_not_at_all() -> None:
    intervals = of((10.0, 2.0), (0.0, 4.0), (1.0, 1.0), (3.0, 2.0), (12.0, 0.5))
    assert intervals.covered() == 5.0 + 2.5
    assert intervals.span == 12.5


def test_nothing_and_nothing_at_all() -> None:
    assert (of().covered(), of().span) == (0.0, 0.0)
    assert (of((5.0, 0.0)).covered(), of((5.0, -1.0)).span) == (0.0, 0.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=30))
def test_it_is_the_number_of_seconds_that_lie_in_any(stretches: list[tuple[int, int]]) -> None:
    seconds = {second for start, length in stretches for second in range(start, start + length)}
    # As UNIX times: a difference of such large numbers must still be right.
    assert of(*((1_700_000_000.0 + start, length) for start, length in stretches)).covered() == len(seconds)
