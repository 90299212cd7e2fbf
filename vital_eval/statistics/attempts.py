"""Several answers per sample: the best of k, the answer given most often, and how much answers vary.

The headline of a run with several answers is the mean over them (:mod:`vital_eval.summary`); these figures stand
beside it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance


@dataclass(frozen=True, slots=True)
class Spread:
    """Where the variance of scores comes from.

    The variance of a run's item scores, each the mean of K answers, is ``between + within / K``.

    Attributes:
        between: variance of the items' true means. An unbiased estimate; where items hardly differ it may come out
            below 0, and is not cut there because cutting would bias it.
        within: variance of the answers to one item, averaged over items.
    """

    between: float
    within: float


def best_of(scores: Sequence[float], k: int) -> float:
    """Return the expected best of k answers drawn without replacement from those given.

    The best is at most the m-th smallest score with probability C(m, k) / C(n, k); binomials are whole numbers here,
    so nothing overflows or cancels. For 0/1 scores with c right ones this is the unbiased pass@k,
    1 - C(n - c, k) / C(n, k).

    Args:
        scores: scores of the n answers to one sample.
        k: answers drawn, from 1 to n.

    Raises:
        ValueError: if ``k`` is below 1 or above n.

    Source:
        Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374, equation 1 (pass@k).
    """
    if not 1 <= k <= len(scores):
        raise ValueError(f"the best of {k} out of {len(scores)} answers")
    every = math.comb(len(scores), k)
    parts = []
    below = reached = 0
    for score, times in sorted(Counter(scores).items()):
        reached += times
        parts.append(score * ((math.comb(reached, k) - math.comb(below, k)) / every))
        below = reached
    return math.fsum(parts)


def majority(votes: Sequence[str | None], scores: Sequence[float]) -> float:
    """Return the score of the answer given most often (maj@K, self-consistency).

    Args:
        votes: the answer in comparable form, one per attempt; ``None`` is no answer, which wins only if there is
            no other.
        scores: score of each attempt.

    Returns:
        The mean score of the attempts that gave the answer; over all tied answers if several are given most often,
        which is the expectation of drawing lots.

    Raises:
        ValueError: if lengths differ or there is no attempt.

    Source:
        Wang et al., "Self-Consistency Improves Chain of Thought Reasoning", arXiv 2203.11171.
    """
    if len(votes) != len(scores) or not votes:
        raise ValueError(f"{len(votes)} votes with {len(scores)} scores")
    by_answer: defaultdict[str | None, list[float]] = defaultdict(list)
    for vote, score in zip(votes, scores, strict=True):
        by_answer[vote].append(score)
    given = [inside for vote, inside in by_answer.items() if vote is not None] or list(by_answer.values())
    most = max(map(len, given))
    winners = [score for inside in given if len(inside) == most for score in inside]
    return math.fsum(winners) / len(winners)


def spread(items: Sequence[Sequence[float]]) -> Spread | None:
    """Split the variance of scores into that between items and that between answers to one item.

    ``within`` is the mean of the items' variances, each with K - 1 in the denominator. The variance of the items'
    observed means, with the number of items less 1 in the denominator, exceeds that of their true means by the
    average of (item's variance) / K; ``between`` has that taken off. Both are unbiased, for unequal K too.

    Args:
        items: the scores of each item's answers. Items with fewer than two answers say nothing about ``within`` and
            are left out.

    Returns:
        ``None`` with fewer than two items that have at least two answers.
    """
    usable = [scores for scores in items if len(scores) > 1]
    if len(usable) < 2:
        return None
    inside = [variance(scores) for scores in usable]
    noise = fmean(one / len(scores) for one, scores in zip(inside, usable, strict=True))
    return Spread(between=variance([fmean(scores) for scores in usable]) - noise, within=fmean(inside))
