"""The estimator against independent formulas, invariances and coverage."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vital_eval.statistics.means import (
    Estimate,
    clustered_mean,
    estimate,
    minimum_detectable,
    nested_weights,
    paired_difference,
)


def _plain(values: list[float], clusters: list[str]) -> Estimate:
    return estimate(values, nested_weights([()] * len(values)), clusters)


def test_nested_weights_split_equally_at_every_level() -> None:
    paths = [("direction", "easy"), ("direction", "easy"), ("direction", "hard"), ("count",)]
    assert nested_weights(paths).tolist() == [0.125, 0.125, 0.25, 0.5]


def test_nested_weights_of_plain_means() -> None:
    assert nested_weights([()] * 4).tolist() == [0.25] * 4
    assert nested_weights([]).shape == (0,)


def test_samples_whose_path_ends_early_count_as_one_child() -> None:
    assert nested_weights([("a",), ("a",), ("a", "x"), ("a", "y")]).tolist() == pytest.approx(
        [1 / 6, 1 / 6, 1 / 3, 1 / 3]
    )


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=3).map(tuple), min_size=1, max_size=30))
def test_nested_weights_add_up_to_one(paths: list[tuple[str, ...]]) -> None:
    weights = nested_weights(paths)
    assert math.fsum(weights) == pytest.approx(1)
    assert (weights > 0).all()


def _sandwich_intercept_se(values: np.ndarray, clusters: np.ndarray) -> float:
    """Liang-Zeger sandwich of an OLS fit on a constant, CR1 with the factor C/(C-1) alone, in matrix form."""
    x = np.ones((len(values), 1))
    bread = np.linalg.inv(x.T @ x)
    residuals = values - (x @ (bread @ x.T @ values))
    meat = np.zeros((1, 1))
    names = np.unique(clusters)
    for name in names:
        score = x[clusters == name].T @ residuals[clusters == name]
        meat += np.outer(score, score)
    return float(np.sqrt(len(names) / (len(names) - 1) * (bread @ meat @ bread)[0, 0]))


def test_agrees_with_cluster_robust_least_squares() -> None:
    generator = np.random.default_rng(3)
    values, clusters = generator.random(200), generator.integers(0, 23, 200)
    result = _plain(values.tolist(), [str(cluster) for cluster in clusters])
    assert result.value == pytest.approx(values.mean())
    assert result.se == pytest.approx(_sandwich_intercept_se(values, clusters), rel=1e-12)
    assert result.se is not None
    assert result.high == pytest.approx(values.mean() + stats.t.ppf(0.975, 22) * result.se)
    assert (result.n, result.clusters) == (200, 23)


def test_singleton_clusters_give_the_textbook_standard_error() -> None:
    values = np.random.default_rng(0).random(50)
    result = _plain(values.tolist(), [str(index) for index in range(50)])
    assert result.se == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_clustering_widens_correlated_scores() -> None:
    values = [float(video % 2) for video in range(20) for _ in range(10)]
    clustered = _plain(values, [str(video) for video in range(20) for _ in range(10)])
    alone = _plain(values, [str(index) for index in range(200)])
    assert clustered.se is not None
    assert alone.se is not None
    assert clustered.se > 3 * alone.se


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abcd")), min_size=1, max_size=40), st.randoms())
def test_order_and_names_of_clusters_do_not_matter(rows: list[tuple[float, str]], shuffler: random.Random) -> None:
    before = _plain([value for value, _ in rows], [cluster for _, cluster in rows])
    shuffler.shuffle(rows)
    assert before == _plain([value for value, _ in rows], [f"other {cluster}" for _, cluster in rows])


def test_scaled_scores_scale_the_standard_error() -> None:
    values = np.random.default_rng(1).random(60)
    clusters = [str(index // 3) for index in range(60)]
    whole, half = _plain(values.tolist(), clusters), _plain((values / 2).tolist(), clusters)
    assert whole.value is not None
    assert whole.se is not None
    assert half.value == pytest.approx(whole.value / 2)
    assert half.se == pytest.approx(whole.se / 2)


def test_strata_take_their_means_out_of_the_residuals() -> None:
    # Two types of question, one easy and one hard: the difference between the types is not sampling error.
    values = [0.9, 0.8, 0.9, 0.8, 0.1, 0.2, 0.1, 0.2]
    paths = [("easy",)] * 4 + [("hard",)] * 4
    clusters = [str(index) for index in range(8)]
    weights = nested_weights(paths)
    with_strata = estimate(values, weights, clusters, paths)
    assert with_strata.value == pytest.approx(0.5)
    assert with_strata.se == pytest.approx(math.sqrt(8 / 7 * 8 * (0.05 / 8) ** 2))


def test_a_stratum_in_one_cluster_does_not_pass_for_certain() -> None:
    paths = [("a",), ("b",), ("c",)]
    result = estimate([0.2, 0.5, 0.9], nested_weights(paths), ["x", "y", "z"], paths)
    assert result.se is not None
    assert result.se > 0.1


def test_strata_that_are_each_constant_do_not_pass_for_certain() -> None:
    paths = [("a",)] * 2 + [("b",)] * 6
    result = estimate([1.0] * 2 + [0.0] * 6, nested_weights(paths), list(range(8)), paths)
    assert (result.value, result.se) == (0.5, 0.0)
    assert result.low is not None
    assert result.high is not None
    assert result.high - result.low > 0.5


@pytest.mark.parametrize("clusters", [["a"], ["a", "a", "a"]])
def test_one_cluster_is_not_estimable(clusters: list[str]) -> None:
    result = _plain([1.0] * len(clusters), clusters)
    assert result == Estimate(1.0, None, None, None, len(clusters), 1)


def test_no_samples_have_no_value() -> None:
    assert _plain([], []) == Estimate(None, None, None, None, 0, 0)


@pytest.mark.parametrize("n", [2, 3, 7, 49, 100])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_right_or_all_wrong_is_wilson_and_never_certain(n: int, value: float) -> None:
    result = _plain([value] * n, [str(index) for index in range(n)])
    assert (result.value, result.se) == (value, 0.0)
    assert result.low is not None
    assert result.high is not None
    reach = stats.t.ppf(0.975, n - 1) ** 2 / (n + stats.t.ppf(0.975, n - 1) ** 2)
    assert (result.low, result.high) == pytest.approx((0, reach) if value == 0 else (1 - reach, 1))


def test_all_right_counts_videos_not_questions() -> None:
    few = _plain([1.0] * 100, [str(index // 20) for index in range(100)])
    many = _plain([1.0] * 100, [str(index) for index in range(100)])
    assert few.low is not None
    assert many.low is not None
    assert few.low < many.low


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abcdef")), min_size=1, max_size=40))
def test_intervals_stay_inside_and_hold_the_mean(rows: list[tuple[float, str]]) -> None:
    result = _plain([value for value, _ in rows], [cluster for _, cluster in rows])
    if result.low is not None and result.high is not None and result.value is not None:
        assert -1e-12 <= result.low <= result.value + 1e-12
        assert result.value - 1e-12 <= result.high <= 1 + 1e-12


def test_common_scores_take_the_t_interval() -> None:
    values = [float(index % 2) for index in range(100)]
    result = _plain(values, [str(index) for index in range(100)])
    assert result.se is not None
    assert result.high == pytest.approx(0.5 + stats.t.ppf(0.975, 99) * result.se)


@pytest.mark.parametrize(("chance", "correlated"), [(0.5, True), (0.5, False), (0.03, False), (0.95, True)])
def test_intervals_cover(chance: float, correlated: bool) -> None:
    """Nominal 95 % over 600 seeded draws of 60 videos with 4 questions each."""
    generator = np.random.default_rng(7)
    hits = 0
    clusters = [str(index // 4) for index in range(240)]
    for _ in range(600):
        if correlated:
            concentration = 2.0
            videos = generator.beta(chance * concentration, (1 - chance) * concentration, 60)
        else:
            videos = np.full(60, chance)
        values = (generator.random(240) < np.repeat(videos, 4)).astype(float)
        result = _plain(values.tolist(), clusters)
        assert result.low is not None
        assert result.high is not None
        hits += result.low <= chance <= result.high
    assert 0.93 <= hits / 600 <= 0.985


def test_identical_runs_differ_by_nothing() -> None:
    values = np.random.default_rng(2).random(30).tolist()
    clusters = [str(index // 3) for index in range(30)]
    assert paired_difference(values, values, nested_weights([()] * 30), clusters) == Estimate(0, 0, 0, 0, 30, 10)


def test_paired_difference_is_the_one_sample_t_of_the_differences() -> None:
    generator = np.random.default_rng(5)
    a, b = generator.random(40), generator.random(40)
    result = paired_difference(a.tolist(), b.tolist(), nested_weights([()] * 40), list(range(40)))
    expected = stats.ttest_rel(a, b).confidence_interval()
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    swapped = paired_difference(b.tolist(), a.tolist(), nested_weights([()] * 40), list(range(40)))
    assert (swapped.value, swapped.se) == (-(result.value or 0), result.se)


@pytest.mark.parametrize(
    ("values", "weights"), [([1.5], [1.0]), ([math.nan], [1.0]), ([0.5], [0.5]), ([0.5, 0.5], [1.0])]
)
def test_nonsense_is_refused(values: list[float], weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"not in|add up|weights"):
        estimate(values, weights, ["a"] * len(values))


def test_scores_between_0_and_1_that_never_vary_have_no_width() -> None:
    # The expected score of a guess among four options is 0.25 for every question.
    flat = estimate([0.25] * 8, [1 / 8] * 8, list("aabbccdd"))
    assert (flat.value, flat.low, flat.high) == (0.25, 0.25, 0.25)
    certain = estimate([1.0] * 8, [1 / 8] * 8, list("aabbccdd"))
    assert certain.low is not None
    assert certain.low < 1


def _many() -> tuple[list[float], list[float], list[str], list[tuple[str, ...]]]:
    generator = np.random.default_rng(9)
    values, others = generator.random(300), generator.random(300)
    clusters = [f"v{number}" for number in generator.integers(0, 40, 300)]
    paths: list[tuple[str, ...]] = [("a",) if number else ("b", "c") for number in generator.integers(0, 3, 300)]
    return values.tolist(), others.tolist(), clusters, paths


def test_strata_and_pairs_have_no_order_and_no_names_either() -> None:
    values, others, clusters, paths = _many()
    weights = nested_weights(paths).tolist()
    single = estimate(values, weights, clusters, paths)
    pair = paired_difference(values, others, weights, clusters, paths)
    order = np.random.default_rng(1).permutation(300)
    v, o, w, c, p = ([column[index] for index in order] for column in (values, others, weights, clusters, paths))
    renamed = [f"other {cluster}" for cluster in c]
    assert nested_weights(p).tolist() == w
    assert estimate(v, w, renamed, [("z", *path) for path in p]) == single
    assert paired_difference(v, o, w, renamed, p) == pair


def test_lists_and_arrays_give_the_same() -> None:
    values, others, clusters, paths = _many()
    weights = nested_weights(paths)
    numbers = np.array([int(cluster[1:]) for cluster in clusters])
    kinds = np.array([len(path) for path in paths])
    assert estimate(np.array(values), weights, np.array(clusters), kinds) == estimate(
        values, weights.tolist(), clusters, paths
    )
    assert paired_difference(np.array(values), np.array(others), weights, numbers) == paired_difference(
        values, others, weights.tolist(), clusters
    )


def test_the_mean_is_exactly_rounded() -> None:
    values, _, clusters, paths = _many()
    weights = nested_weights(paths)
    assert estimate(values, weights, clusters).value == math.fsum(np.multiply(values, weights))


def test_minimum_detectable_difference_is_found_four_times_in_five() -> None:
    assert minimum_detectable(None) is None
    effect = minimum_detectable(0.01)
    assert effect is not None
    assert effect == pytest.approx(0.028)
    power = stats.norm.sf(1.959964 - effect / 0.01) + stats.norm.cdf(-1.959964 - effect / 0.01)
    assert power == pytest.approx(0.8, abs=0.001)


def test_clustered_mean_takes_numbers_outside_0_and_1() -> None:
    result = clustered_mean([-3.0, 5.0, 4.0], [1 / 3] * 3, list("abc"))
    expected = stats.ttest_1samp([-3.0, 5.0, 4.0], 0).confidence_interval()
    assert result.value == pytest.approx(2)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))


def test_pairs_of_unlike_length_or_without_a_score_are_refused() -> None:
    with pytest.raises(ValueError, match="against"):
        paired_difference([1.0], [1.0, 0.0], [1.0], ["a"])
    with pytest.raises(ValueError, match="finite"):
        paired_difference([1.0, math.nan], [1.0, 0.0], [0.5, 0.5], ["a", "b"])
