"""Chosen frames: enough, not too many, both ends, true to the times there are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video.sampling import choose_frames


def view(fps: float = 2.0, max_frames: int = 64) -> View:
    return View(fps=fps, max_frames=max_frames, min_pixels=1, max_pixels=10**6, clock=False)


REGULAR = [index / 25 for index in range(251)]  # 0 .. 10 s


def test_two_a_second_of_a_regular_video() -> None:
    chosen = choose_frames(REGULAR, None, view())
    assert [REGULAR[index] for index in chosen] == pytest.approx([step * 0.5 for step in range(21)], abs=0.021)
    assert len(chosen) == 21


def test_both_ends_of_a_span_are_included() -> None:
    assert [REGULAR[index] for index in choose_frames(REGULAR, Span(2.0, 4.0), view())] == [2, 2.48, 3, 3.48, 4]
    assert [REGULAR[index] for index in choose_frames(REGULAR, Span(1.99, 4.01), view(1.0))] == [2, 3, 4]


def test_the_cap_spreads_evenly() -> None:
    assert [REGULAR[index] for index in choose_frames(REGULAR, None, view(2.0, 5))] == [0, 2.48, 5, 7.48, 10]


def test_room_for_one_frame() -> None:
    assert choose_frames(REGULAR, None, view(2.0, 1)) == (250,)
    assert choose_frames(REGULAR, Span(0, 20), view(2.0, 1)) == (250,)
    assert choose_frames(REGULAR, Span(2, 4), view(2.0, 1)) == (75,)
    assert choose_frames([0.0], None, view()) == (0,)


def test_a_span_without_frames_takes_the_nearest() -> None:
    times = [0.0, 1.0, 5.0]
    assert choose_frames(times, Span(1.5, 2.0), view()) == (1,)
    assert choose_frames(times, Span(4.0, 4.5), view()) == (2,)
    assert choose_frames(times, Span(2.5, 3.5), view()) == (1,)  # equally near: the earlier
    assert choose_frames(times, Span(70, 80), view()) == (2,)
    assert choose_frames([3.0, 4.0], Span(0, 1), view()) == (0,)


def test_gaps_give_fewer_frames_not_repeated_ones() -> None:
    assert choose_frames([0.0, 0.1, 9.9, 10.0], None, view()) == (0, 1, 2, 3)


def test_a_product_just_below_a_whole_number() -> None:
    times = [index / 10 for index in range(30)]
    assert len(choose_frames(times, Span(0.1, 0.4), view(10.0))) == 4  # (0.4 - 0.1) * 10 is 3.0000000000000004


def test_a_huge_fps_takes_every_frame() -> None:
    assert choose_frames(REGULAR, None, view(1e300, 10**6)) == tuple(range(251))


def test_no_frames() -> None:
    with pytest.raises(ValueError, match="no frames"):
        choose_frames([], None, view())


TIMES = st.lists(st.floats(0.001, 30.0), min_size=0, max_size=80).map(
    lambda gaps: [0.0, *(sum(gaps[: stop + 1]) for stop in range(len(gaps)))]
)
SPANS = st.none() | st.tuples(st.floats(-5, 500), st.floats(0.01, 300)).map(lambda p: Span(p[0], p[0] + p[1]))


@given(TIMES, SPANS, st.floats(0.01, 60), st.integers(1, 50))
def test_properties(times: list[float], span: Span | None, fps: float, cap: int) -> None:
    chosen = choose_frames(times, span, view(fps, cap))
    assert 1 <= len(chosen) <= cap
    assert all(before < after for before, after in pairwise(chosen))
    inside = [index for index, time in enumerate(times) if span is None or span.start <= time <= span.end]
    if not inside:
        assert len(chosen) == 1
        assert span is not None
        away = [max(span.start - time, time - span.end) for time in times]
        assert away[chosen[0]] == min(away)
        return
    assert set(chosen) <= set(inside)
    if len(inside) == len(times):
        assert chosen[-1] == len(times) - 1
    length = times[-1] - times[0] if span is None else min(span.end, times[-1]) - max(span.start, times[0])
    wanted = min(cap, int(length * fps + 1e-9) + 1)
    assert len(chosen) <= wanted
    if wanted >= 2 and len(inside) >= 2:
        assert {inside[0], inside[-1]} <= set(chosen)
        spacing = (times[inside[-1]] - times[inside[0]]) / (wanted - 1)
        if spacing < min(times[after] - times[before] for before, after in pairwise(inside)) * 0.999:
            assert list(chosen) == inside
