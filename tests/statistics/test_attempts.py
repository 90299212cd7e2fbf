"""Several answers per sample: best of k, majority, and the two variances."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vital_eval.statistics.attempts import best_of, majority, spread


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_best_of_is_the_mean_over_all_choices(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    choices = [max(choice) for choice in itertools.combinations(scores, k)]
    assert best_of(scores, k) == pytest.approx(sum(choices) / len(choices), abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(10, 3, 1), (10, 3, 5), (10, 0, 5), (10, 10, 5), (1000, 7, 100)])
def test_best_of_right_or_wrong_is_pass_at_k(n: int, c: int, k: int) -> None:
    scores = [1.0] * c + [0.0] * (n - c)
    # The numerically stable product of the paper's own code.
    chen = 1.0 if n - c < k else 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))
    assert best_of(scores, k) == pytest.approx(chen, abs=1e-12)
    assert best_of(scores, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


def test_best_of_a_thousand() -> None:
    scores = np.random.default_rng(0).random(1000).tolist()
    assert best_of(scores, 1) == pytest.approx(sum(scores) / 1000)
    assert best_of(scores, 1000) == max(scores)
    # The best of k uniform scores is k / (k + 1) on average.
    assert best_of(scores, 500) == pytest.approx(500 / 501, abs=0.002)
    assert best_of([1.0] * 1000, 500) == 1.0


@pytest.mark.parametrize("k", [0, 3])
def test_best_of_more_than_there_are_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="best of"):
        best_of([1.0, 0.0], k)


@pytest.mark.parametrize(
    ("votes", "scores", "expected"),
    [
        (["A", "B", "A"], [0.0, 1.0, 0.0], 0.0),
        (["A", "B"], [0.0, 1.0], 0.5),
        (["A", "B", "C", "C", "B"], [1.0, 0.0, 1.0, 1.0, 0.0], 0.5),
        ([None, None, "B"], [0.0, 0.0, 1.0], 1.0),
        ([None, None], [0.0, 0.0], 0.0),
        (["A"], [0.25], 0.25),
        (["A", "A", "B"], [0.5, 1.0, 0.0], 0.75),
    ],
)
def test_majority(votes: list[str | None], scores: list[float], expected: float) -> None:
    assert majority(votes, scores) == expected
    assert majority(votes[::-1], scores[::-1]) == expected


@pytest.mark.parametrize(("votes", "scores"), [([], []), (["A"], [1.0, 0.0])])
def test_majority_of_nothing_is_refused(votes: list[str | None], scores: list[float]) -> None:
    with pytest.raises(ValueError, match="votes"):
        majority(votes, scores)


def test_spread_by_hand() -> None:
    found = spread([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert found is not None
    # Variances 0.5, 0, 0; means 0.5, 1, 0 with variance 0.25, of which 0.5 / 2 / 3 is noise of two answers.
    assert found.within == pytest.approx(0.5 / 3)
    assert found.between == pytest.approx(0.25 - 0.25 / 3)


def test_spread_is_unbiased_for_unequal_numbers_of_answers() -> None:
    generator = np.random.default_rng(6)
    found = []
    for _ in range(1500):
        means = generator.normal(0.5, 0.2, 12)
        items = [generator.normal(mean, 0.3, 2 + index % 4).tolist() for index, mean in enumerate(means)]
        one = spread(items)
        assert one is not None
        found.append((one.between, one.within))
    between, within = np.mean(found, axis=0)
    margin = 4 * np.std(found, axis=0) / math.sqrt(1500)
    assert between == pytest.approx(0.04, abs=margin[0])
    assert within == pytest.approx(0.09, abs=margin[1])
    # The control: with the noise left in, the figure is off by far more than that.
    assert 0.09 * np.mean([1 / (2 + index % 4) for index in range(12)]) > 3 * margin[0]


@pytest.mark.parametrize("items", [[], [[1.0, 0.0]], [[1.0], [0.0]], [[1.0, 0.0], [1.0]]])
def test_spread_needs_two_items_with_two_answers(items: list[list[float]]) -> None:
    assert spread(items) is None
