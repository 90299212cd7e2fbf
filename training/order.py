"""In which order a training set is gone through: what supervised and reinforced stages share."""

from __future__ import annotations

import numpy as np


def epoch_places(count: int, first: int, last: int, seed: int) -> tuple[int, ...]:
    """Return items ``first`` to ``last`` (exclusive) of an endless row of epochs over ``count`` items.

    Every epoch is a permutation of its own by (seed, epoch), so an interrupted stage goes on where it was, and nothing
    is dropped at an epoch's end.
    """
    epochs = range(first // count, -(-last // count))
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs}
    return tuple(int(orders[place // count][place % count]) for place in range(first, last))
