"""The standard error against statsmodels' clustered covariance of least squares on a constant."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from vital_eval.statistics.means import estimate, paired_difference

_GENERATOR = np.random.default_rng(12)
_N, _VIDEOS = 400, 37
_CLUSTERS = _GENERATOR.integers(0, _VIDEOS, _N)
_VALUES = np.clip(_GENERATOR.random(_N) * 0.5 + _GENERATOR.random(_VIDEOS)[_CLUSTERS] * 0.5, 0, 1)
_OTHERS = _GENERATOR.random(_N)
_WEIGHTS = _GENERATOR.random(_N) + 0.1
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def _reference(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    # Its small-sample factor is C / (C - 1) * (n - 1) / (n - k) with k = 1 constant, which is ours: C / (C - 1).
    fit = sm.WLS(values, np.ones(len(values)), weights=weights).fit(
        cov_type="cluster", cov_kwds={"groups": _CLUSTERS, "use_correction": True}
    )
    return float(fit.params[0]), float(fit.bse[0])


@pytest.mark.parametrize("weights", [np.full(_N, 1 / _N), _WEIGHTS], ids=["even", "weighted"])
def test_mean_and_standard_error(weights: np.ndarray) -> None:
    result = estimate(_VALUES, weights, _CLUSTERS)
    assert (result.value, result.se) == pytest.approx(_reference(_VALUES, weights), rel=1e-10)
    # The control: without clusters the figure is another.
    assert estimate(_VALUES, weights, np.arange(_N)).se != pytest.approx(result.se, rel=0.05)


@pytest.mark.parametrize("weights", [np.full(_N, 1 / _N), _WEIGHTS], ids=["even", "weighted"])
def test_paired_difference(weights: np.ndarray) -> None:
    result = paired_difference(_VALUES, _OTHERS, weights, _CLUSTERS)
    assert (result.value, result.se) == pytest.approx(_reference(_VALUES - _OTHERS, weights), rel=1e-10)


def test_strata_are_constants_of_their_own() -> None:
    # A macro average is the mean of the coefficients of one constant per stratum.
    kinds = np.arange(_N) % 3
    sizes = np.bincount(kinds)
    design = (kinds[:, None] == np.arange(3)).astype(float)
    fit = sm.OLS(_VALUES, design).fit(cov_type="cluster", cov_kwds={"groups": _CLUSTERS, "use_correction": False})
    mix = np.full(3, 1 / 3)
    raw = np.sqrt(mix @ fit.cov_params() @ mix)
    count = len(np.unique(_CLUSTERS))
    result = estimate(_VALUES, 1 / (3 * sizes[kinds]), _CLUSTERS, kinds)
    assert result.value == pytest.approx(fit.params.mean(), rel=1e-10)
    assert result.se == pytest.approx(raw * np.sqrt(count / (count - 1)), rel=1e-10)
