"""Mean relative accuracy and right-or-wrong scores."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.metrics.choice import letter_accuracy, option_text_accuracy
from vital_eval.metrics.mra import mean_relative_accuracy


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [
        (9, 10, 0.9),
        (9.5, 10, 1.0),
        (8.5, 10, 0.8),
        (11, 10, 0.9),
        (5, 10, 0.1),
        (15, 10, 0.1),
        (10, 10, 1),
        (30, 10, 0),
    ],
)
def test_golden_values(predicted, target, expected) -> None:
    assert mean_relative_accuracy(predicted, target) == expected


@pytest.mark.parametrize("predicted", [float("nan"), float("inf"), -10.0, 0.0])
def test_what_is_no_estimate_scores_zero(predicted) -> None:
    assert mean_relative_accuracy(predicted, 10.0) == 0.0


@given(st.floats(-1e300, 1e300), st.floats(1e-3, 1e6))
@settings(max_examples=60, deadline=None)
def test_in_range(predicted, target) -> None:
    assert 0.0 <= mean_relative_accuracy(predicted, target) <= 1.0


def test_nothing_never_equals_nothing() -> None:
    assert letter_accuracy(None, None) == 0.0
    assert letter_accuracy("B", "B") == 1.0
    assert letter_accuracy("B", "A") == 0.0
    assert option_text_accuracy(None, ["x"], "x") == 0.0


def test_equal_texts_are_equally_right() -> None:
    assert [option_text_accuracy(letter, ["x", "y", "x"], "x") for letter in "ABC"] == [1.0, 0.0, 1.0]
