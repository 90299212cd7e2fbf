"""Rank ranges against all resamples of a few videos, with every mean computed by nested_weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vital_eval.statistics.means import nested_weights
from vital_eval.statistics.ranks import RankRange, rank_ranges

_Paths = list[tuple[str, ...]]


def _rows(count: int, videos: int, seed: int = 0) -> tuple[np.ndarray, list[str], _Paths]:
    """Scores of ``count`` rows over three questions a video, in strata of which one is rare."""
    generator = np.random.default_rng(seed)
    clusters = [f"v{index // 3}" for index in range(3 * videos)]
    kinds: _Paths = [("count",), ("direction", "easy"), ("direction", "easy")]
    paths = [("direction", "rare") if index == 1 else kinds[index % 3] for index in range(3 * videos)]
    hardness = np.repeat(generator.random(videos), 3)
    scores = generator.random((count, 3 * videos)) < 0.6 * hardness + 0.06 * np.arange(count)[:, None]
    return scores.astype(float), clusters, paths


def _rank_shares(scores: np.ndarray, clusters: list[str], paths: _Paths) -> np.ndarray:
    """The share of all equally likely resamples in which each row's rank is at most 0, 1, 2, ..."""
    names = sorted(set(clusters))
    inside = [[index for index, cluster in enumerate(clusters) if cluster == name] for name in names]
    times = np.zeros((len(scores), len(scores) + 1))
    for videos in itertools.product(range(len(names)), repeat=len(names)):
        chosen = [index for video in videos for index in inside[video]]
        means = scores[:, chosen] @ nested_weights([paths[index] for index in chosen])
        for row, mean in enumerate(means):
            times[row, 1 + int((means > mean + 1e-9).sum())] += 1
    return np.asarray(times.cumsum(axis=1) / len(names) ** len(names))


def _all_within(found: tuple[RankRange | None, ...], shares: np.ndarray) -> bool:
    """Whether all ends are the ranks at 2.5 % and 97.5 %, give or take four Monte Carlo errors of 10,000 draws."""
    margin = 4 * np.sqrt(0.025 * 0.975 / 10_000)
    return all(
        span is not None
        and span.low in np.searchsorted(share, (0.025 - margin, 0.025 + margin))
        and span.high in np.searchsorted(share, (0.975 - margin, 0.975 + margin))
        for span, share in zip(found, shares, strict=True)
    )


def test_agrees_with_all_resamples() -> None:
    # The rare stratum lies in one of five videos, so a third of the resamples lose it.
    without_strata = []
    for seed in range(6):
        scores, clusters, paths = _rows(4, 5, seed)
        shares = _rank_shares(scores, clusters, paths)
        assert _all_within(rank_ranges(scores, clusters, paths, seed=seed), shares)
        without_strata.append(_all_within(rank_ranges(scores, clusters, [()] * 15, seed=seed), shares))
    # The control: leaving the strata out does not pass.
    assert not all(without_strata)


def test_order_of_samples_and_names_of_clusters_do_not_matter() -> None:
    scores, clusters, paths = _rows(6, 30)
    before = rank_ranges(scores, clusters, paths, draws=200)
    order = np.random.default_rng(1).permutation(90)
    after = rank_ranges(
        scores[:, order], [f"x{clusters[index]}" for index in order], [paths[index] for index in order], draws=200
    )
    assert after == before


def test_ranges_follow_their_rows() -> None:
    scores, clusters, paths = _rows(6, 30)
    before = rank_ranges(scores, clusters, paths, draws=200)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(6)
        assert rank_ranges(scores[order], clusters, paths, draws=200) == tuple(before[row] for row in order)


def test_a_clear_order_is_certain_and_equal_rows_share_their_rank() -> None:
    easy = np.random.default_rng(0).random(40) * 0.5
    clusters = [str(index // 2) for index in range(40)]
    ranges = rank_ranges([easy, easy + 0.3, easy, easy + 0.4], clusters, [()] * 40)
    assert ranges == (RankRange(3, 3), RankRange(2, 2), RankRange(3, 3), RankRange(1, 1))


def test_rounding_makes_no_row_better() -> None:
    # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point.
    paths: _Paths = [(kind,) for _ in range(10) for kind in "abc"]
    up, down = [0.1, 0.2, 0.3] * 10, [0.3, 0.2, 0.1] * 10
    ranges = rank_ranges([up, down], [index // 3 for index in range(30)], paths, draws=100)
    assert ranges == (RankRange(1, 1), RankRange(1, 1))


def test_rows_of_equal_strength_cannot_be_told_apart() -> None:
    scores = (np.random.default_rng(8).random((4, 200)) < 0.5).astype(float)
    ranges = [found for found in rank_ranges(scores, range(200), [()] * 200) if found is not None]
    assert sum(found.high - found.low for found in ranges) >= 8


def test_resamples_are_shared_by_the_rows() -> None:
    # Rows that differ by a little on every video keep their order, however much the videos differ.
    videos = np.repeat([0.0, 0.9], 20)
    ranges = rank_ranges([videos, videos + 0.01], range(40), [()] * 40)
    assert ranges == (RankRange(2, 2), RankRange(1, 1))


@pytest.mark.parametrize("clusters", [[], ["a", "a"]])
def test_fewer_than_two_clusters_give_no_range(clusters: list[str]) -> None:
    assert rank_ranges([[0.5] * len(clusters)] * 3, clusters, [()] * len(clusters)) == (None,) * 3


def test_no_rows_have_no_ranges() -> None:
    assert rank_ranges([], ["a", "b"], [(), ()]) == ()


def test_chunks_of_draws_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, clusters, paths = _rows(4, 30)
    whole = rank_ranges(scores, clusters, paths, draws=300)
    monkeypatch.setattr("vital_eval.statistics.ranks._HELD", 30 * 7)
    assert rank_ranges(scores, clusters, paths, draws=300) == whole


@pytest.mark.parametrize(
    ("row", "paths", "draws"), [([0.5], [(), ()], 9), ([0.5, 0.5], [()], 9), ([0.5, float("nan")], [(), ()], 9)]
)
def test_nonsense_is_refused(row: list[float], paths: _Paths, draws: int) -> None:
    with pytest.raises(ValueError, match=r"rows of|finite"):
        rank_ranges([row], ["a", "b"], paths, draws=draws)
