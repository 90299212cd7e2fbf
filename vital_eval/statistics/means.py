"""Weighted means of per-sample scores with intervals clustered by video.

Every headline number of every benchmark is a weighted mean of per-sample scores in [0, 1], so one estimator serves
the whole board. Scores of questions about the same video are correlated; the standard error adds up residuals
within a video before squaring (Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 2.2).

All sums are exactly rounded (:func:`math.fsum`), so no result depends on the order of the samples.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Two-sided level of every interval.
LEVEL = 0.95

#: Below this many effective successes or failures a symmetric interval is not trusted near 0 and 1.
_FEW = 10.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A weighted mean with its uncertainty, on the scale of the scores ([0, 1]; differences: [-1, 1]).

    Attributes:
        value: the weighted mean; ``None`` only if no sample counts (``n`` is 0).
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
    weights = np.zeros(len(paths), dtype=np.float64)
    open_groups = [(list(range(len(paths))), 0, 1.0)]
    while open_groups:
        members, depth, share = open_groups.pop()
        children: defaultdict[str | None, list[int]] = defaultdict(list)
        for index in members:
            path = paths[index]
            children[path[depth] if depth < len(path) else None].append(index)
        for name, inside in children.items():
            part = share / len(children)
            if name is None:
                weights[inside] = part / len(inside)
            else:
                open_groups.append((inside, depth + 1, part))
    return weights


def estimate(
    values: Sequence[float],
    weights: Sequence[float] | npt.NDArray[np.float64],
    clusters: Sequence[Hashable],
    strata: Sequence[Hashable] | None = None,
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
    for value in values:
        if not 0 <= value <= 1:
            raise ValueError(f"score {value} is not in [0, 1]")
    result, effective = _mean(values, weights, clusters, strata)
    mean, se = result.value, result.se
    if mean is None or se is None:
        return result
    quantile = _t_quantile(result.clusters - 1)
    low, high = mean - quantile * se, mean + quantile * se
    binary = set(values) <= {0, 1}
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
    a: Sequence[float],
    b: Sequence[float],
    weights: Sequence[float] | npt.NDArray[np.float64],
    clusters: Sequence[Hashable],
    strata: Sequence[Hashable] | None = None,
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
        ValueError: if lengths differ or the weights do not add up to 1.
    """
    return _mean([one - other for one, other in zip(a, b, strict=True)], weights, clusters, strata)[0]


def _mean(
    values: Sequence[float],
    weights: Sequence[float] | npt.NDArray[np.float64],
    clusters: Sequence[Hashable],
    strata: Sequence[Hashable] | None,
) -> tuple[Estimate, float]:
    """Return the estimate with its t interval, and the effective number of clusters by weight."""
    n = len(values)
    if n == 0:
        return Estimate(None, None, None, None, 0, 0), 0.0
    plain = [float(weight) for weight in weights]
    groups: Sequence[Hashable] = [()] * n if strata is None else strata
    if not len(plain) == len(clusters) == len(groups) == n:
        raise ValueError(f"{n} values, {len(plain)} weights, {len(clusters)} clusters and {len(groups)} strata")
    if not math.isclose(math.fsum(plain), 1, rel_tol=1e-9):
        raise ValueError(f"weights add up to {math.fsum(plain)}, not to 1")
    weighted = [weight * value for weight, value in zip(plain, values, strict=True)]
    agree = all(value == values[0] for value in values)
    # Weights add up to 1 only up to rounding; that must make neither 0.9999999999999999 of all ones nor spread.
    mean = float(values[0]) if agree else math.fsum(weighted)
    count = len(set(clusters))
    if count < 2:
        return Estimate(mean, None, None, None, n, count), 0.0
    centre = _centres(groups, clusters, plain, weighted, mean)
    residuals = [weight * (value - centre[group]) for weight, value, group in zip(plain, values, groups, strict=True)]
    spread = math.fsum(total**2 for total in _sums(clusters, residuals).values())
    if agree:
        spread = 0.0
    se = math.sqrt(count / (count - 1) * spread)
    reach = _t_quantile(count - 1) * se
    kish = 1 / math.fsum(total**2 for total in _sums(clusters, plain).values())
    return Estimate(mean, se, mean - reach, mean + reach, n, count), kish


def _centres(
    strata: Sequence[Hashable],
    clusters: Sequence[Hashable],
    weights: Sequence[float],
    weighted: Sequence[float],
    mean: float,
) -> dict[Hashable, float]:
    """Return the mean of every stratum; the overall mean for a stratum in one cluster, whose spread is unknown."""
    inside: defaultdict[Hashable, set[Hashable]] = defaultdict(set)
    for group, cluster in zip(strata, clusters, strict=True):
        inside[group].add(cluster)
    totals, sizes = _sums(strata, weighted), _sums(strata, weights)
    return {group: totals[group] / sizes[group] if len(inside[group]) > 1 else mean for group in totals}


def _sums(groups: Sequence[Hashable], values: Sequence[float]) -> dict[Hashable, float]:
    parts: defaultdict[Hashable, list[float]] = defaultdict(list)
    for group, value in zip(groups, values, strict=True):
        parts[group].append(value)
    return {group: math.fsum(inside) for group, inside in parts.items()}


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
