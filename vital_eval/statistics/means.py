"""Weighted means of per-sample scores with intervals clustered by video.

Every headline number of every benchmark is a weighted mean of per-sample scores in [0, 1], so one estimator serves
the whole board. Scores of questions about the same video are correlated; the standard error adds up residuals
within a video before squaring (Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 2.2).

All sums are exact before they are rounded (:func:`math.fsum`, :func:`~vital_eval.statistics.grouping.group_sums`), so
no result depends on the order of the samples or on the names of clusters and strata.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vital_eval.statistics.grouping import Labels, Scores, group_sums, numbered

#: Two-sided level of every interval.
LEVEL = 0.95

#: Standard errors between no effect and the smallest effect found with 80 % power at :data:`LEVEL` (1.96 + 0.84).
_DETECTABLE = 2.8

#: Below this many effective successes or failures a symmetric interval is not trusted near 0 and 1.
_FEW = 10.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A weighted mean with its uncertainty, on the scale of the scores ([0, 1]; differences: [-1, 1]).

    Attributes:
        value: the weighted mean; ``None`` if no sample counts (``n`` is 0) or a quotient has no denominator.
        se: clustered standard error; ``None`` if it cannot be estimated (fewer than two clusters).
        low: lower end of the 95 % interval; ``None`` if it cannot be estimated.
        high: upper end, likewise.
        n: samples that count.
        clusters: distinct clusters among them.
    """

    value: float | None
    se: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int


def nested_weights(paths: Sequence[tuple[str, ...]]) -> npt.NDArray[np.float64]:
    """Return weights that average over strata before samples.

    At every level the weight is split equally among the distinct children, and in the innermost stratum equally
    among its samples. Samples whose path ends where others go on count together as one child.

    Args:
        paths: one path per sample, outermost stratum first; ``()`` everywhere is the plain mean.

    Returns:
        Shape ``(n,)``, adding up to 1; strata without samples take no part.
    """
    sizes = Counter(paths)
    shares: dict[tuple[str, ...], float] = {}
    open_groups = [(list(sizes), 0, 1.0)]
    while open_groups:
        members, depth, share = open_groups.pop()
        children: defaultdict[str | None, list[tuple[str, ...]]] = defaultdict(list)
        for path in members:
            children[path[depth] if depth < len(path) else None].append(path)
        for name, inside in children.items():
            part = share / len(children)
            if name is None:
                shares[inside[0]] = part / sizes[inside[0]]
            else:
                open_groups.append((inside, depth + 1, part))
    return np.fromiter(map(shares.__getitem__, paths), dtype=np.float64, count=len(paths))


def estimate(
    values: Scores,
    weights: Scores,
    clusters: Labels,
    strata: Labels | None = None,
) -> Estimate:
    r"""Estimate a weighted mean of scores in [0, 1] and its clustered 95 % interval.

    With residuals :math:`u_i = w_i (s_i - \bar s_{stratum(i)})` and C clusters c,
    :math:`SE^2 = \frac{C}{C-1} \sum_c (\sum_{i \in c} u_i)^2`, and the interval is the mean
    :math:`\pm t_{C-1} SE`. A stratum that lies in one cluster does not show its own spread; its residuals are taken
    from the overall mean, which errs on the wide side.

    Near 0 and 1 that interval is too short (of width 0 if all samples agree) or leaves [0, 1]. So where there are
    fewer than ten effective successes or failures, or the interval would leave [0, 1], it is Wilson's score interval
    with the same t quantile and the effective sample size :math:`n_{eff} = p (1 - p) / SE^2`, which for 0/1 scores
    is n divided by the design effect. For 0/1 scores it is never above n. Where 0/1 scores do not vary (all agree, or
    all within each stratum do) the design effect cannot be estimated; then a cluster counts as one observation
    (:math:`n_{eff} = 1 / \sum_c W_c^2` with the clusters' weights :math:`W_c`; C for clusters of equal weight).

    Args:
        values: one score in [0, 1] per sample.
        weights: one weight per sample, adding up to 1 (see :func:`nested_weights`).
        clusters: the unit of every sample that shares context.
        strata: the stratum of every sample, if the weights average over strata.

    Raises:
        ValueError: if lengths differ, a score is not in [0, 1], or the weights do not add up to 1.
    """
    scores = np.asarray(values, dtype=np.float64)
    outside = ~((scores >= 0) & (scores <= 1))
    if outside.any():
        raise ValueError(f"score {scores[outside][0]} is not in [0, 1]")
    result, effective = _mean(scores, weights, clusters, strata)
    mean, se = result.value, result.se
    if mean is None or se is None:
        return result
    quantile = _t_quantile(result.clusters - 1)
    low, high = mean - quantile * se, mean + quantile * se
    binary = bool(np.isin(scores, (0.0, 1.0)).all())
    if se == 0 and not binary:
        # Scores between 0 and 1 that never vary (the expected score of a guess, say) leave nothing to be unsure of.
        return Estimate(mean, se, mean, mean, result.n, result.clusters)
    if se > 0:
        effective = mean * (1 - mean) / se**2
        if binary:
            effective = min(effective, float(result.n))
    if low < 0 or high > 1 or effective * min(mean, 1 - mean) < _FEW:
        low, high = _wilson(mean, effective, quantile)
    return Estimate(mean, se, low, high, result.n, result.clusters)


def paired_difference(
    a: Scores,
    b: Scores,
    weights: Scores,
    clusters: Labels,
    strata: Labels | None = None,
) -> Estimate:
    """Estimate the mean of ``a - b`` over the same samples, with its clustered 95 % t interval.

    Args:
        a: scores in [0, 1], one per shared sample.
        b: scores of the same samples in the same order.
        weights: as in :func:`estimate`.
        clusters: as in :func:`estimate`.
        strata: as in :func:`estimate`.

    Returns:
        The difference in [-1, 1]. The interval is not cut to that range.

    Raises:
        ValueError: if lengths differ, a score is not finite, or the weights do not add up to 1.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} scores against {len(b)}")
    return clustered_mean(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), weights, clusters, strata)


def clustered_mean(values: Scores, weights: Scores, clusters: Labels, strata: Labels | None = None) -> Estimate:
    """Estimate a weighted mean of any finite numbers, with its clustered 95 % t interval.

    Args:
        values: one number per sample.
        weights: as in :func:`estimate`.
        clusters: as in :func:`estimate`.
        strata: as in :func:`estimate`.

    Raises:
        ValueError: if lengths differ, a value is not finite, or the weights do not add up to 1.
    """
    return _mean(np.asarray(values, dtype=np.float64), weights, clusters, strata)[0]


def minimum_detectable(se: float | None) -> float | None:
    """Return the smallest true difference that a two-sided 5 % test finds with 80 % power: 2.8 standard errors.

    Args:
        se: standard error of the difference (:func:`paired_difference`); ``None`` if it cannot be estimated.

    Returns:
        On the scale of the scores; ``None`` for ``None``.
    """
    return None if se is None else _DETECTABLE * se


def _mean(
    values: npt.NDArray[np.float64], weights: Scores, clusters: Labels, strata: Labels | None
) -> tuple[Estimate, float]:
    """Return the estimate with its t interval, and the effective number of clusters by weight."""
    n = len(values)
    if n == 0:
        return Estimate(None, None, None, None, 0, 0), 0.0
    groups = n if strata is None else len(strata)
    if not len(weights) == len(clusters) == groups == n:
        raise ValueError(f"{n} values, {len(weights)} weights, {len(clusters)} clusters and {groups} strata")
    if not np.isfinite(values).all():
        raise ValueError(f"value {values[~np.isfinite(values)][0]} is not finite")
    plain = np.asarray(weights, dtype=np.float64)
    total = math.fsum(plain.tolist())
    if not math.isclose(total, 1, rel_tol=1e-9):
        raise ValueError(f"weights add up to {total}, not to 1")
    weighted = plain * values
    agree = bool((values == values[0]).all())
    # Weights add up to 1 only up to rounding; that must make neither 0.9999999999999999 of all ones nor spread.
    # Adding 0.0 makes one zero of the two.
    mean = (float(values[0]) if agree else math.fsum(weighted.tolist())) + 0.0
    cluster, count = numbered(clusters)
    if count < 2:
        return Estimate(mean, None, None, None, n, count), 0.0
    stratum, strata_count = (np.zeros(n, dtype=np.intp), 1) if strata is None else numbered(strata)
    centres = _centres(stratum, strata_count, cluster, plain, weighted, mean)
    residuals = plain * (values - centres[stratum])
    spread = 0.0 if agree else math.fsum((group_sums(residuals, cluster, count) ** 2).tolist())
    se = math.sqrt(count / (count - 1) * spread)
    reach = _t_quantile(count - 1) * se
    kish = 1 / math.fsum((group_sums(plain, cluster, count) ** 2).tolist())
    return Estimate(mean, se, mean - reach, mean + reach, n, count), kish


def _centres(
    stratum: npt.NDArray[np.intp],
    strata: int,
    cluster: npt.NDArray[np.intp],
    weights: npt.NDArray[np.float64],
    weighted: npt.NDArray[np.float64],
    mean: float,
) -> npt.NDArray[np.float64]:
    """Return the mean of every stratum; the overall mean for a stratum in one cluster, whose spread is unknown."""
    some_cluster = np.empty(strata, dtype=np.intp)
    some_cluster[stratum] = cluster
    several = np.bincount(stratum, cluster != some_cluster[stratum], minlength=strata) > 0
    sizes = group_sums(weights, stratum, strata)
    means = np.divide(group_sums(weighted, stratum, strata), sizes, out=np.full(strata, mean), where=sizes != 0)
    return np.where(several, means, mean)


def _wilson(mean: float, n: float, quantile: float) -> tuple[float, float]:
    square = quantile**2
    centre = (mean + square / (2 * n)) / (1 + square / n)
    reach = quantile / (1 + square / n) * math.sqrt(mean * (1 - mean) / n + square / (4 * n * n))
    # At 0 and 1 the ends are exactly 0 and 1; rounding must not push them outside.
    return (0.0 if mean == 0 else centre - reach), (1.0 if mean == 1 else centre + reach)


def _t_quantile(df: int) -> float:
    # Imported here: scipy costs a tenth of a second, and the command line must answer sooner.
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + LEVEL / 2))
