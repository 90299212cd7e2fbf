"""Sums by group: exact enough, and the same in any order."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vital_eval.statistics.grouping import group_sums, numbered


@pytest.mark.parametrize(
    "labels",
    [["b", "a", "b"], [("x", 1), None, ("x", 1)], np.array(["b", "a", "b"]), np.array([7, 3, 7])],
)
def test_labels_of_any_kind_are_numbered_by_first_appearance(labels: list[str]) -> None:
    numbers, count = numbered(labels)
    assert (numbers.tolist(), count) == ([0, 1, 0], 2)


_ANY = st.floats(-1e3, 1e3) | st.floats(-1e-300, 1e-300) | st.sampled_from([0.1, -0.1, 1e-17, 5e-324])


@given(st.lists(st.tuples(_ANY, st.integers(0, 2)), min_size=1, max_size=60), st.randoms())
def test_sums_have_no_order_no_names_and_no_favourite_sign(
    rows: list[tuple[float, int]], shuffler: random.Random
) -> None:
    values, groups = np.array([value for value, _ in rows]), np.array([group for _, group in rows])
    sums = group_sums(values, groups, 3)
    order = list(range(len(rows)))
    shuffler.shuffle(order)
    assert group_sums(values[order], groups[order], 3).tolist() == sums.tolist()
    assert group_sums(values, 2 - groups, 3)[::-1].tolist() == sums.tolist()
    assert (-group_sums(-values, groups, 3)).tolist() == sums.tolist()
    largest = float(np.abs(values).max())
    for group in range(3):
        exact = math.fsum(values[groups == group])
        # What is dropped lies 90 bits below the largest value of all groups.
        assert sums[group] == pytest.approx(exact, rel=1e-15, abs=largest * 2.0**-90)


def test_plain_sums_do_depend_on_the_order() -> None:
    # The control: what group_sums is for.
    values, groups = np.array([1.0, 1e-16, 1e-16, -1.0]), np.zeros(4, dtype=np.intp)
    assert np.bincount(groups, values)[0] != np.bincount(groups, values[::-1])[0]
    assert group_sums(values, groups, 1)[0] == math.fsum(values) == group_sums(values[::-1], groups, 1)[0]


def test_no_rows_sum_to_nothing() -> None:
    assert group_sums(np.zeros(0), np.zeros(0, dtype=np.intp), 2).tolist() == [0.0, 0.0]
