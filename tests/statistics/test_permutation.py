"""The sign-flip test against brute force, the binomial and itself under the null."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vital_eval.statistics.permutation import SignFlip, discordant, sign_flip


def _brute_force(differences: list[float], clusters: list[str]) -> float:
    """All patterns over all clusters, zeros included, by plain loops; ties within 1e-9."""
    sums: dict[str, float] = {}
    for cluster, difference in zip(clusters, differences, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + difference
    observed = abs(sum(sums.values()))
    patterns = list(itertools.product((1, -1), repeat=len(sums)))
    hits = sum(
        abs(sum(sign * total for sign, total in zip(signs, sums.values(), strict=True))) >= observed - 1e-9
        for signs in patterns
    )
    return hits / len(patterns)


_ROWS = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 1.0, 0.1, 0.3, -0.7]), st.sampled_from("abcdefgh")), min_size=1, max_size=30
)


@settings(max_examples=50)
@given(_ROWS)
def test_exact_p_is_the_share_of_all_patterns(rows: list[tuple[float, str]]) -> None:
    differences, clusters = [value for value, _ in rows], [cluster for _, cluster in rows]
    result = sign_flip(differences, [1 / len(rows)] * len(rows), clusters)
    if len(set(clusters)) < 2:
        assert result == SignFlip(None, False, 0)
    else:
        assert result.exact
        assert result.p == pytest.approx(_brute_force(differences, clusters), abs=1e-12)


def test_one_question_per_video_is_the_exact_mcnemar_test() -> None:
    a, b = [1.0] * 12 + [0.0] * 4 + [1.0] * 30, [0.0] * 12 + [1.0] * 4 + [1.0] * 30
    assert discordant(a, b) == (12, 4)
    result = sign_flip(np.subtract(a, b), [1 / 46] * 46, range(46))
    assert result.exact
    assert result.draws == 2**16
    assert result.p == pytest.approx(stats.binomtest(12, 16).pvalue)


def test_random_patterns_agree_with_the_exact_binomial() -> None:
    # 40 videos differ, 27 one way: too many to look at all patterns, but the binomial knows the answer.
    differences = [1.0] * 27 + [-1.0] * 13 + [0.0] * 60
    result = sign_flip(differences, [0.01] * 100, range(100), draws=99_999)
    expected = stats.binomtest(27, 40).pvalue
    assert not result.exact
    assert result.draws == 99_999
    assert result.p == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 99_999))


def test_random_patterns_agree_with_the_exact_ones() -> None:
    # Twenty clusters are looked at in full; beside a 21st that weighs next to nothing, patterns are drawn.
    generator = np.random.default_rng(1)
    differences = generator.normal(0.2, 0.5, 20)
    exact = sign_flip(differences, np.ones(20), range(20))
    drawn = sign_flip([*differences, 1e-6], np.ones(21), range(21), draws=99_999)
    assert exact.exact
    assert not drawn.exact
    assert drawn.p == pytest.approx(exact.p, abs=0.006)


@pytest.mark.parametrize("videos", [2, 8, 500])
def test_identical_runs_have_p_one(videos: int) -> None:
    scores = np.random.default_rng(0).random(2 * videos)
    result = sign_flip(scores - scores, np.full(2 * videos, 0.5 / videos), [index // 2 for index in range(2 * videos)])
    assert result.p == 1.0


def test_runs_that_only_differ_by_rounding_within_a_video_have_p_one() -> None:
    # 0.1 + 0.2 - 0.3 is not 0 in floating point, beside a real difference that cancels over two videos.
    differences = [0.1, 0.2, -0.3, 0.5, -0.5]
    assert sign_flip(differences, [0.2] * 5, list("aaabc")) == SignFlip(1.0, True, 4)


@pytest.mark.parametrize("clusters", [[], ["a"], ["a", "a"]])
def test_fewer_than_two_clusters_are_not_testable(clusters: list[str]) -> None:
    assert sign_flip([1.0] * len(clusters), [1.0] * len(clusters), clusters).p is None


@pytest.mark.parametrize("videos", [6, 60])
def test_order_names_sides_and_scale_do_not_matter(videos: int) -> None:
    generator = np.random.default_rng(3)
    differences = generator.normal(0.1, 1, 3 * videos)
    weights = generator.random(3 * videos)
    clusters = [f"v{index // 3}" for index in range(3 * videos)]
    before = sign_flip(differences, weights, clusters, draws=999)
    order = generator.permutation(3 * videos)
    shuffled = sign_flip(differences[order], weights[order], [f"{clusters[index]} new" for index in order], draws=999)
    assert shuffled == before
    assert sign_flip(-differences, weights, clusters, draws=999) == before
    assert sign_flip(differences, 4 * weights, clusters, draws=999) == before


def test_other_seeds_draw_other_patterns() -> None:
    differences = np.random.default_rng(5).normal(0, 1, 100)
    found = {sign_flip(differences, np.ones(100), range(100), draws=999, seed=seed).p for seed in range(5)}
    assert len(found) > 1


@pytest.mark.parametrize("videos", [10, 40])
def test_p_is_uniform_under_the_null(videos: int) -> None:
    generator = np.random.default_rng(11)
    clusters = np.repeat(np.arange(videos), 3)
    weights = np.full(len(clusters), 1 / len(clusters))
    ps = []
    for draw in range(600):
        # Correlated within a video and of unlike sizes, but as often above 0 as below.
        shared = generator.normal(0, 1, videos) * np.linspace(0.5, 2, videos)
        values = shared[clusters] + generator.normal(0, 0.5, len(clusters))
        p = sign_flip(values, weights, clusters, draws=499, seed=draw).p
        assert p is not None
        ps.append(p)
    assert stats.kstest(ps, "uniform").pvalue > 0.01
    # The control: flipping question by question is not a valid test here.
    naive = [
        sign_flip(generator.normal(0, 1, videos)[clusters], weights, range(len(clusters)), draws=499).p or 0.0
        for _ in range(200)
    ]
    assert np.mean(np.array(naive) < 0.05) > 0.1


def test_a_real_difference_is_found() -> None:
    assert (sign_flip([1.0] * 10, [0.1] * 10, range(10)).p or 1) == 2 / 2**10
    assert (sign_flip([1.0] * 50, [0.02] * 50, range(50)).p or 1) == 1 / 10_000


@pytest.mark.parametrize(
    ("differences", "weights", "draws"), [([1.0], [1.0, 1.0], 9), ([float("nan")] * 2, [0.5] * 2, 9), ([], [], 0)]
)
def test_nonsense_is_refused(differences: list[float], weights: list[float], draws: int) -> None:
    with pytest.raises(ValueError, match=r"weights|finite|draws"):
        sign_flip(differences, weights, range(len(differences)), draws=draws)


@pytest.mark.parametrize(("a", "b"), [([0.5], [1.0]), ([1.0], [0.25]), ([1.0], [1.0, 0.0])])
def test_discordant_refuses_what_is_not_right_or_wrong(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match=r"neither|against"):
        discordant(a, b)
