"""The relative gain against its definition and a bootstrap of videos."""

from __future__ import annotations

import numpy as np
import pytest

from vital_eval.statistics.gains import relative_gain
from vital_eval.statistics.means import Estimate


def _lectures(videos: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores after and before, 0/1 and correlated within a lecture; the true gain is 1/3."""
    generator = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(videos), 3)
    easy = np.repeat(generator.beta(2, 2, videos), 3)
    after = (generator.random(3 * videos) < (1 + 2 * easy) / 3).astype(float)
    before = (generator.random(3 * videos) < easy).astype(float)
    return after, before, clusters


def test_is_the_official_quotient() -> None:
    result = relative_gain([1, 1, 1, 0], [1, 0, 0, 0], list("abcd"))
    # 75 after, 25 before: (75 - 25) / (100 - 25) * 100.
    assert result.value == pytest.approx(50 / 75)
    assert (result.n, result.clusters) == (4, 4)


def test_interval_agrees_with_a_bootstrap_of_videos() -> None:
    after, before, clusters = _lectures(200, 1)
    result = relative_gain(after, before, clusters)
    generator = np.random.default_rng(2)
    counts = generator.multinomial(200, np.full(200, 1 / 200), 4000)
    mean_after, mean_before = (counts @ scores.reshape(200, 3).sum(1) / 600 for scores in (after, before))
    gains = (mean_after - mean_before) / (1 - mean_before)
    assert result.se == pytest.approx(gains.std(ddof=1), rel=0.05)
    low, high = np.quantile(gains, (0.025, 0.975))
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.03)


def test_interval_covers() -> None:
    hits = 0
    for seed in range(600):
        result = relative_gain(*_lectures(100, seed))
        assert result.low is not None
        assert result.high is not None
        hits += result.low <= 1 / 3 <= result.high
    assert 0.93 <= hits / 600 <= 0.97


def test_nothing_gained_is_certain() -> None:
    scores = np.random.default_rng(3).random(30)
    assert relative_gain(scores, scores, np.arange(30) // 3) == Estimate(0.0, 0.0, 0.0, 0.0, 30, 10)


def test_nothing_to_gain_is_no_value() -> None:
    assert relative_gain([1.0, 0.0], [1.0, 1.0], ["a", "b"]) == Estimate(None, None, None, None, 2, 2)
    assert relative_gain([], [], []) == Estimate(None, None, None, None, 0, 0)


def test_one_cluster_has_no_interval() -> None:
    result = relative_gain([1.0, 0.0], [0.0, 0.0], ["a", "a"])
    assert result == Estimate(0.5, None, None, None, 2, 1)


def test_a_loss_is_below_zero() -> None:
    assert relative_gain([0.0, 0.0], [0.5, 0.5], ["a", "b"]).value == -1.0


def test_order_and_names_do_not_matter() -> None:
    after, before, clusters = _lectures(50, 4)
    order = np.random.default_rng(0).permutation(150)
    assert relative_gain(after[order], before[order], 999 - clusters[order]) == relative_gain(after, before, clusters)


@pytest.mark.parametrize(("after", "before"), [([2.0], [0.0]), ([0.5], [-1.0]), ([0.5], [0.5, 0.5])])
def test_nonsense_is_refused(after: list[float], before: list[float]) -> None:
    with pytest.raises(ValueError, match=r"not in|before"):
        relative_gain(after, before, ["a"])
