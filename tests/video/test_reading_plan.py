"""Plans worked out by hand, and what holds for every plan."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.video.reading_plan import Costs, Stretch, plan_stretches, share_out

KEYS = (0, 100, 200, 300)
COSTS = Costs(restart=8, keep=2)


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        # One group: no keyframe lies between the frames.
        ((3, 50, 99), [(0, 0, 3)]),
        # 195 to 200 passes over 4 frames, 250 to 300 over 49.
        ((195, 250, 310), [(100, 0, 2), (300, 2, 3)]),
        # 91 to 100: eight frames, as much as starting again; 90 to 100: nine.
        ((91, 100), [(0, 0, 2)]),
        ((90, 100), [(0, 0, 1), (100, 1, 2)]),
        # A keyframe on the way saves the 60 frames up to it, whatever comes after it.
        ((40, 150), [(0, 0, 1), (100, 1, 2)]),
        ((399,), [(300, 0, 1)]),
    ],
)
def test_plans_worked_out_by_hand(indices: tuple[int, ...], expected: list[tuple[int, int, int]]) -> None:
    plan = plan_stretches(indices, KEYS, COSTS)
    assert [(each.start, each.first, each.last) for each in plan] == expected


def test_costs_worked_out_by_hand() -> None:
    # 8 to start, frames 100 to 150, 2 for each of two frames kept.
    assert plan_stretches((110, 150), KEYS, COSTS) == (Stretch(100, 0, 2, 8 + 51 + 4),)


def test_two_readers_meet_at_a_keyframe() -> None:
    parts = share_out(range(0, 400, 10), KEYS, COSTS, readers=2, least=50)
    assert [(part[0].start, part[0].first, part[-1].last) for part in parts] == [(0, 0, 20), (200, 20, 40)]
    assert len(share_out(range(0, 400, 10), KEYS, COSTS, readers=2, least=300)) == 1
    assert len(share_out(range(100, 200, 10), KEYS, COSTS, readers=2, least=1)) == 1  # one group cannot be cut


@settings(deadline=None)
@given(
    st.sets(st.integers(0, 500), min_size=1),
    st.sets(st.integers(0, 500)),
    st.integers(0, 30),
    st.integers(1, 5),
    st.integers(1, 200),
)
def test_every_frame_is_read_once_from_a_keyframe_before_it(
    wanted: set[int], keys: set[int], restart: int, readers: int, least: int
) -> None:
    indices, keyframes = sorted(wanted), sorted(keys | {0})
    parts = share_out(indices, keyframes, Costs(restart, 3), readers, least)
    assert 1 <= len(parts) <= readers
    stretches = [stretch for part in parts for stretch in part]
    assert [place for each in stretches for place in range(each.first, each.last)] == list(range(len(indices)))
    for each in stretches:
        assert each.start == keyframes[bisect_right(keyframes, indices[each.first]) - 1]
    for part in parts[1:]:  # no group of frames is decoded by two readers
        assert part[0].start > indices[part[0].first - 1]
