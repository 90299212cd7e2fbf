"""What watching a lecture adds: the gain as a share of what there was to gain."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from vital_eval.statistics.grouping import Labels, Scores, numbered
from vital_eval.statistics.means import Estimate, clustered_mean


def relative_gain(after: Scores, before: Scores, clusters: Labels) -> Estimate:
    r"""Estimate (mean after - mean before) / (1 - mean before) with its clustered 95 % interval.

    The interval is that of the linearised quotient (delta method): with the means A and B and the gain g, each sample
    counts as :math:`g + (a_i - A - (1 - g)(b_i - B)) / (1 - B)`, whose clustered mean and t interval are taken. It
    needs 1 - B to be several standard errors away from 0.

    Args:
        after: scores in [0, 1], one per sample, with the video.
        before: scores of the same samples in the same order, without it.
        clusters: the unit of every sample that shares context.

    Returns:
        The gain, at most 1 and without lower bound; the interval is not cut. The value is ``None`` where the mean
        before is 1 (nothing was left to gain) or there is no sample.

    Raises:
        ValueError: if lengths differ or a score is not in [0, 1].

    Source:
        Delta-knowledge of Video-MMMU (arXiv 2501.13826), there in percent: accuracy on the adaptation track after
        watching the whole video, against the question alone.
    """
    if not len(after) == len(before) == len(clusters):
        raise ValueError(f"{len(after)} scores after, {len(before)} before and {len(clusters)} clusters")
    a, b = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    for scores in (a, b):
        outside = ~((scores >= 0) & (scores <= 1))
        if outside.any():
            raise ValueError(f"score {scores[outside][0]} is not in [0, 1]")
    n = len(a)
    # The sum of the room left is exactly rounded, so it is 0 only where every score before is 1.
    room = math.fsum((1 - b).tolist())
    if room == 0:
        return Estimate(None, None, None, None, n, numbered(clusters)[1])
    gain = math.fsum((a - b).tolist()) / room
    centred = (a - math.fsum(a.tolist()) / n) - (1 - gain) * (b - math.fsum(b.tolist()) / n)
    linear = clustered_mean(gain + centred / (room / n), np.full(n, 1 / n), clusters)
    if linear.se is None:
        return dataclasses.replace(linear, value=gain)
    # The mean of the linearised values is the gain up to rounding; the figure shown is the gain itself.
    shift = gain - (linear.value or 0.0)
    return dataclasses.replace(linear, value=gain, low=(linear.low or 0.0) + shift, high=(linear.high or 0.0) + shift)
