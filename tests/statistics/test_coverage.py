"""Nominal 95 % intervals cover 93 to 97 % of 2,000 seeded draws whose questions share videos."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from vital_eval.statistics.means import estimate, nested_weights, paired_difference

_DRAWS = 2_000
_VIDEOS = 60
_QUESTIONS = 4
_CLUSTERS = np.repeat(np.arange(_VIDEOS), _QUESTIONS)
_EVEN = np.full(_VIDEOS * _QUESTIONS, 1 / (_VIDEOS * _QUESTIONS))
#: Three questions of a video are of one type and one of the other, which counts as much in the macro average.
_TYPES = [("many",) if index % _QUESTIONS else ("few",) for index in range(_VIDEOS * _QUESTIONS)]

_Array = npt.NDArray[np.float64]
#: One draw: whether the interval holds the true value.
_Trial = Callable[[np.random.Generator], bool]


def _coverage(trial: _Trial) -> float:
    generator = np.random.default_rng(20)
    return sum(trial(generator) for _ in range(_DRAWS)) / _DRAWS


def _videos(generator: np.random.Generator) -> _Array:
    """How easy each question's video is: mean 1/2, the same for all its questions."""
    return np.repeat(generator.beta(1.0, 1.0, _VIDEOS), _QUESTIONS)


def _holds(low: float | None, high: float | None, truth: float) -> bool:
    assert low is not None
    assert high is not None
    return low <= truth <= high


def _plain(generator: np.random.Generator) -> bool:
    values = (_videos(generator) + generator.random(len(_CLUSTERS))) / 2
    result = estimate(values, _EVEN, _CLUSTERS)
    return _holds(result.low, result.high, 0.5)


def _right_or_wrong(generator: np.random.Generator) -> bool:
    values = (generator.random(len(_CLUSTERS)) < _videos(generator)).astype(float)
    result = estimate(values, _EVEN, _CLUSTERS)
    return _holds(result.low, result.high, 0.5)


_MACRO = nested_weights(_TYPES)
_SHIFT = np.array([0.0 if kind == ("many",) else 0.4 for kind in _TYPES])


def _stratified(generator: np.random.Generator) -> bool:
    chance = 0.6 * _videos(generator) + _SHIFT
    values = (generator.random(len(_CLUSTERS)) < chance).astype(float)
    result = estimate(values, _MACRO, _CLUSTERS, _TYPES)
    return _holds(result.low, result.high, (0.3 + 0.7) / 2)


def _paired(generator: np.random.Generator) -> bool:
    videos = _videos(generator)
    better = np.repeat(generator.beta(2.0, 2.0, _VIDEOS), _QUESTIONS)
    a = (generator.random(len(_CLUSTERS)) < 0.5 * videos + 0.5 * better).astype(float)
    b = (generator.random(len(_CLUSTERS)) < 0.8 * videos).astype(float)
    result = paired_difference(a, b, _EVEN, _CLUSTERS)
    return _holds(result.low, result.high, 0.5 - 0.4)


def _without_clusters(generator: np.random.Generator) -> bool:
    values = (generator.random(len(_CLUSTERS)) < _videos(generator)).astype(float)
    result = estimate(values, _EVEN, np.arange(len(_CLUSTERS)))
    return _holds(result.low, result.high, 0.5)


@pytest.mark.parametrize("trial", [_plain, _right_or_wrong, _stratified, _paired])
def test_intervals_cover_what_they_claim(trial: _Trial) -> None:
    assert 0.93 <= _coverage(trial) <= 0.97


def test_intervals_that_ignore_videos_fail_the_same_check() -> None:
    assert _coverage(_without_clusters) < 0.93


def test_unpaired_test_misses_what_the_paired_interval_finds() -> None:
    generator = np.random.default_rng(4)
    hard = generator.random(300)
    a, b = np.clip(hard + 0.03 + generator.normal(0, 0.05, 300), 0, 1), hard
    weights, clusters = np.full(300, 1 / 300), np.arange(300)
    paired = paired_difference(a, b, weights, clusters)
    assert paired.low is not None
    assert paired.low > 0
    one, other = estimate(a, weights, clusters), estimate(b, weights, clusters)
    assert one.se is not None
    assert other.se is not None
    assert abs(a.mean() - b.mean()) < 1.96 * math.hypot(one.se, other.se)
