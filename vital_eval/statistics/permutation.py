"""Is the difference between two runs more than chance? Tests on the shared samples, with videos as the unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vital_eval.statistics.grouping import Labels, Scores, group_sums, numbered

#: Up to this many clusters that differ, every pattern of signs is looked at.
EXACT_CLUSTERS = 20

#: Sums of one multiset of numbers in two orders differ by rounding; relative to the sum of all magnitudes.
_TIE = 1e-10

#: Clusters whose signs are drawn together, as the bits of one random byte.
_BITS = 8

#: Groups of eight clusters whose tables of 256 sums are held at a time (8 MiB).
_TABLES = 4096


@dataclass(frozen=True, slots=True)
class SignFlip:
    """What a sign-flip permutation test found.

    Attributes:
        p: two-sided p value in (0, 1]; ``None`` if it cannot be told (fewer than two clusters).
        exact: every pattern of signs was looked at, so ``p`` has no Monte Carlo error.
        draws: patterns of signs looked at.
    """

    p: float | None
    exact: bool
    draws: int


def sign_flip(differences: Scores, weights: Scores, clusters: Labels, *, draws: int = 9_999, seed: int = 0) -> SignFlip:
    """Test whether a weighted mean of paired differences is 0, by flipping the signs of whole clusters.

    If neither run is better, a video's weighted sum of differences is as likely to be this as its negative,
    independently of the other videos. The p value is the share of sign patterns whose total is at least as far from
    0 as the observed one. Clusters with sum 0 change nothing. With at most 20 others all patterns are looked at; else
    ``draws`` random ones, and p = (1 + hits) / (1 + draws) (Phipson and Smyth, "Permutation P-values Should Never Be
    Zero", 2010). Two runs with equal scores give exactly 1.

    Macro averages need no more than their weights: the strata enter the total through them.

    Args:
        differences: score of one run minus score of the other, one per shared sample.
        weights: one per sample, as in :func:`vital_eval.statistics.means.paired_difference`; their scale is free.
        clusters: the unit of every sample that shares context.
        draws: random patterns, where not all are looked at.
        seed: of the random patterns. The result depends on neither the order of the samples, the names of the
            clusters, nor which run comes first.

    Raises:
        ValueError: if lengths differ, a number is not finite, or ``draws`` is below 1.
    """
    if not len(differences) == len(weights) == len(clusters):
        raise ValueError(f"{len(differences)} differences, {len(weights)} weights and {len(clusters)} clusters")
    if draws < 1:
        raise ValueError(f"{draws} draws")
    weighted = np.asarray(differences, dtype=np.float64) * np.asarray(weights, dtype=np.float64)
    if not np.isfinite(weighted).all():
        raise ValueError("a difference or weight is not finite")
    numbers, count = numbered(clusters)
    if count < 2:
        return SignFlip(None, False, 0)
    sums = group_sums(weighted, numbers, count)
    magnitudes = np.sort(np.abs(sums))[::-1]
    # Differences that cancel within a cluster may leave a rounding error, which is no difference.
    magnitudes = magnitudes[magnitudes > _TIE * magnitudes[0]]
    everything = math.fsum(magnitudes.tolist())
    limit = abs(math.fsum(sums.tolist())) - _TIE * everything
    if len(magnitudes) <= EXACT_CLUSTERS:
        totals = _all_totals(magnitudes)
        return SignFlip(float(np.mean(np.abs(totals) >= limit)), True, 2 ** len(magnitudes))
    hits = int(np.count_nonzero(np.abs(_random_totals(magnitudes, draws, seed)) >= limit))
    return SignFlip((1 + hits) / (1 + draws), False, draws)


def discordant(a: Scores, b: Scores) -> tuple[int, int]:
    """Count where two runs with 0/1 scores disagree (the off-diagonal cells of McNemar's table).

    Args:
        a: 0 or 1 per shared sample.
        b: 0 or 1 for the same samples in the same order.

    Returns:
        Samples that ``a`` has right and ``b`` wrong, and the other way round.

    Raises:
        ValueError: if lengths differ or a score is neither 0 nor 1.
    """
    one, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if one.shape != other.shape:
        raise ValueError(f"{len(one)} scores against {len(other)}")
    for scores in (one, other):
        between = ~np.isin(scores, (0.0, 1.0))
        if between.any():
            raise ValueError(f"score {scores[between][0]} is neither 0 nor 1")
    return int(np.count_nonzero(one > other)), int(np.count_nonzero(one < other))


def _all_totals(magnitudes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the totals of all sign patterns whose first sign is plus; the others are their negatives."""
    totals = magnitudes[:1] if len(magnitudes) else np.zeros(1)
    for magnitude in magnitudes[1:]:
        totals = np.concatenate((totals + magnitude, totals - magnitude))
    return totals


def _random_totals(magnitudes: npt.NDArray[np.float64], draws: int, seed: int) -> npt.NDArray[np.float64]:
    """Return the totals of random sign patterns, shape ``(draws,)``.

    Eight clusters have 256 patterns of signs. One table holds their sums, and one random byte per draw picks from it:
    an eighth of the random numbers and none of the multiplications of a product with a matrix of signs.
    """
    generator = np.random.default_rng(seed)
    padded = np.zeros(-(-len(magnitudes) // _BITS) * _BITS)
    padded[: len(magnitudes)] = magnitudes
    groups = padded.reshape(-1, _BITS)
    patterns = np.unpackbits(np.arange(256, dtype=np.uint8)[None, :], axis=0)
    signs = 2.0 * patterns - 1.0
    totals = np.zeros(draws)
    for start in range(0, len(groups), _TABLES):
        for table in groups[start : start + _TABLES] @ signs:
            totals += table[np.frombuffer(generator.bytes(draws), dtype=np.uint8)]
    return totals
