"""What the statistics cost on 1,000,000 rows of 300,000 videos, beside peers on the same machine.

Run ``python benchmarks/statistics_of_a_million.py`` where vital-eval and statsmodels are installed. Every line is
measured in a process of its own that inherits the rows: wall seconds, and how far the peak of its resident memory lies
above what the rows took. Peers: statsmodels' least squares on a constant with clustered covariance for the standard
error, and the sign flips written as a plain loop, on fewer draws. No peer is known for the rank ranges.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt
import statsmodels.api as sm

from vital_eval.statistics.means import estimate, paired_difference
from vital_eval.statistics.permutation import sign_flip
from vital_eval.statistics.ranks import rank_ranges

SAMPLES = 1_000_000
VIDEOS = 300_000
ROWS = 5
DRAWS = 9_999
RANK_DRAWS = 10_000
LOOP_DRAWS = 20


def peak() -> float:
    """Return the peak of this process's resident memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _child(work: Callable[[], str], pipe: Connection) -> None:
    before, begin = peak(), time.monotonic()
    result = work()
    pipe.send((time.monotonic() - begin, peak() - before, result))


def measure(name: str, work: Callable[[], str]) -> float:
    """Run ``work`` in a fork, print its line and return its seconds."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(work, there))
    process.start()
    there.close()
    seconds, memory, result = here.recv()
    process.join()
    print(f"{name:<46} {seconds:>8.2f} s {memory:>7.0f} MiB   {result}", flush=True)
    return float(seconds)


def cluster_robust(values: npt.NDArray[np.float64], names: list[str]) -> float:
    """Return statsmodels' clustered standard error of a mean; it wants clusters as numbers."""
    numbers = np.unique(np.array(names), return_inverse=True)[1]
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": numbers})
    return float(fit.bse[0])


def loop_of_flips(differences: npt.NDArray[np.float64], names: list[str], draws: int) -> float:
    """Return the p value of the sign-flip test as one would write it down."""
    sums: dict[str, float] = {}
    for name, difference in zip(names, differences.tolist(), strict=True):
        sums[name] = sums.get(name, 0.0) + difference
    observed, drawn, hits = abs(sum(sums.values())), random.Random(0), 0  # noqa: S311
    for _ in range(draws):
        hits += abs(sum(total if drawn.random() < 0.5 else -total for total in sums.values())) >= observed
    return (1 + hits) / (1 + draws)


def main() -> None:
    """Measure and print."""
    generator = np.random.default_rng(0)
    videos = generator.integers(0, VIDEOS, SAMPLES)
    names = [f"video_{number:06d}.mp4" for number in videos]
    hardness = generator.normal(0, 0.5, VIDEOS)[videos]
    rows = [
        (generator.random(SAMPLES) < 1 / (1 + np.exp(hardness - 0.002 * place))).astype(float) for place in range(ROWS)
    ]
    weights = np.full(SAMPLES, 1 / SAMPLES)
    paths: list[tuple[str, ...]] = [()] * SAMPLES
    print(f"{SAMPLES:,} samples, {len(set(names)):,} videos, one core unless the linear algebra takes more")
    # Loaded before the clock runs, as statsmodels is.
    estimate([0.0, 1.0], [0.5, 0.5], ["a", "b"])
    one, other = rows[0], rows[1]
    ours = measure("estimate", lambda: f"SE {estimate(one, weights, names).se:.6g}")
    theirs = measure("  statsmodels, clustered least squares", lambda: f"SE {cluster_robust(one, names):.6g}")
    print(f"  ratio {theirs / ours:.1f}")
    ours = measure("paired_difference", lambda: f"SE {paired_difference(one, other, weights, names).se:.6g}")
    theirs = measure("  statsmodels on the differences", lambda: f"SE {cluster_robust(one - other, names):.6g}")
    print(f"  ratio {theirs / ours:.1f}")
    ours = measure(
        f"sign_flip, {DRAWS:,} draws",
        lambda: f"p {sign_flip(one - other, weights, names, draws=DRAWS).p:.4f}",
    )
    theirs = measure(
        f"  plain loop, {LOOP_DRAWS} draws", lambda: f"p {loop_of_flips(one - other, names, LOOP_DRAWS):.4f}"
    )
    print(f"  plain loop for {DRAWS:,} draws at that pace: {theirs / LOOP_DRAWS * DRAWS:.0f} s (not run)")
    measure(
        f"rank_ranges, {ROWS} rows, {RANK_DRAWS:,} draws",
        lambda: " ".join(
            "-" if span is None else f"{span.low}-{span.high}"
            for span in rank_ranges(rows, names, paths, draws=RANK_DRAWS)
        ),
    )


if __name__ == "__main__":
    main()
