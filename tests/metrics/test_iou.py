"""Overlap of spans, by hand-computed cases and by what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.metrics.iou import best_hull_iou, best_iop, hull_iou, iop, merge, overlap, set_iou

WINDOWS = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda pair: (float(min(pair)), float(max(pair))))
MANY = st.lists(WINDOWS, max_size=5)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 10), (0, 10), 1.0),
        ((0, 10), (5, 15), 5 / 15),
        ((0, 10), (10, 20), 0.0),
        ((0, 10), (20, 30), 0.0),
        ((2, 4), (0, 8), 0.25),
        ((1, 1), (1, 1), 0.0),
        ((0, 2), (1, 1), 0.0),
    ],
)
def test_hull_iou(one, other, expected) -> None:
    assert hull_iou(one, other) == pytest.approx(expected)


def test_iop_is_zero_for_a_prediction_without_length() -> None:
    assert iop((5, 5), (0, 10)) == 0.0
    assert iop((4, 6), (5, 10)) == 0.5
    assert iop((4, 6), (0, 10)) == 1.0


def test_best_takes_the_maximum_and_nothing_from_nothing() -> None:
    assert best_hull_iou((0, 10), [(0, 1), (0, 5)]) == 0.5
    assert best_iop((0, 10), [(0, 1), (0, 5)]) == 0.5
    assert best_hull_iou((0, 10), []) == best_iop((0, 10), []) == 0.0


def test_merge_joins_what_overlaps_or_touches() -> None:
    assert merge([(5, 8), (0, 2), (2, 4), (6, 7)]) == ((0, 4), (5, 8))


def test_set_iou_counts_no_second_twice() -> None:
    assert set_iou([(0, 4), (2, 6)], [(0, 6)]) == 1.0
    assert set_iou([(0, 10)], [(0, 2), (8, 10)]) == pytest.approx(0.4)
    assert set_iou([], [(0, 1)]) == 0.0
    assert set_iou([], []) == 0.0


@given(WINDOWS, WINDOWS)
@settings(max_examples=60, deadline=None)
def test_one_pair_agrees_in_both_forms_and_stays_in_range(one, other) -> None:
    value = hull_iou(one, other)
    assert 0.0 <= value <= 1.0
    assert value == hull_iou(other, one)
    if overlap(one, other) > 0:
        assert set_iou([one], [other]) == pytest.approx(value)


@given(MANY, MANY)
@settings(max_examples=60, deadline=None)
def test_set_iou_is_symmetric_and_in_range(left, right) -> None:
    assert 0.0 <= set_iou(left, right) <= 1.0
    assert set_iou(left, right) == pytest.approx(set_iou(right, left))
