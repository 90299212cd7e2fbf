"""The arithmetic of VUE-TR, case by case; the published table is checked in tests/tasks/test_vue_tr.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.metrics.vue_tr import iou_area, precision_area, recall_area, whole_seconds

RAW = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), max_size=4)
TRUTH = [(10.0, 20.0), (30.0, 40.0)]


def test_predictions_widen_to_whole_seconds() -> None:
    assert whole_seconds([(1.2, 3.1), (4, 5)]) == ((1.0, 4.0), (4.0, 5.0))


def test_a_perfect_answer_misses_the_last_strict_threshold() -> None:
    assert iou_area(TRUTH, TRUTH) == pytest.approx(0.995)
    assert precision_area(TRUTH, TRUTH) == 1.0
    assert recall_area(TRUTH, TRUTH) == 1.0


def test_no_prediction() -> None:
    assert iou_area([], TRUTH) == 0.0
    assert precision_area([], TRUTH) is None
    # The official curve starts at recall >= 0, which holds for nothing as well.
    assert recall_area([], TRUTH) == pytest.approx(0.005)
    assert recall_area(TRUTH, []) is None


def test_overlapping_predictions_merge_for_iou_only() -> None:
    # Merged [5, 20]: IoU 10/15. Unmerged: 10 and 5 shared seconds of 20 predicted.
    overlapping = [(10.0, 20.0), (5.0, 15.0)]
    assert iou_area(overlapping, [(10.0, 20.0)]) == pytest.approx(0.665)
    assert precision_area(overlapping, [(10.0, 20.0)]) == pytest.approx(0.755)


def test_reversed_predictions_count_for_precision_only() -> None:
    assert iou_area([(20.0, 10.0)], TRUTH) == 0.0
    assert precision_area([(20.0, 10.0)], TRUTH) == 1.0


def test_unsorted_predictions_are_under_counted_officially() -> None:
    assert recall_area([(30.0, 40.0), (10.0, 20.0)], TRUTH) == pytest.approx(0.505)


@given(RAW, RAW)
@settings(max_examples=60, deadline=None)
def test_areas_are_trapezoids_in_range(predicted, annotated) -> None:
    value = iou_area(predicted, annotated)
    assert 0.0 <= value <= 1.0
    for area in (precision_area(predicted, annotated), recall_area(predicted, annotated)):
        assert area is None or 0.0 <= area <= 1.0


@pytest.mark.parametrize("shared", range(0, 21, 3))
def test_area_equals_the_trapezoid_rule(shared) -> None:
    thresholds = np.linspace(0.0, 1.0, 101)
    truth, predicted = [(0.0, 20.0)], [(0.0, float(shared))] if shared else [(30.0, 50.0)]
    curve = (shared / 20 >= thresholds).astype(float)
    assert recall_area(predicted, truth) == pytest.approx(float(np.trapezoid(curve, thresholds)))
