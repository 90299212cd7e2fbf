"""What trivial answerers score on exactly the samples of a run, with intervals: the floor under every figure."""

from __future__ import annotations

from collections.abc import Iterable

from vital_eval.baselines import random_guess, whole_video
from vital_eval.sample import Sample
from vital_eval.statistics.means import Estimate
from vital_eval.summary import Item, estimate_items
from vital_eval.task import Scores, Task

#: Names under which tables show them.
WHOLE_VIDEO = "whole video"
RANDOM = "random"


def estimate_baselines(tasks: Iterable[tuple[Task, tuple[Sample, ...]]]) -> dict[str, dict[str, Estimate]]:
    """Return task to name of a trivial answerer to its headline metric.

    Args:
        tasks: each task with the samples of the run. A baseline that no sample of a task admits is left out.
    """
    estimates: dict[str, dict[str, Estimate]] = {}
    for task, samples in tasks:
        found = {
            WHOLE_VIDEO: _items(task, ((sample, whole_video(task, sample)) for sample in samples)),
            RANDOM: _items(task, ((sample, random_guess(task, sample, samples)) for sample in samples)),
        }
        estimates[task.name] = {name: estimate_items(items) for name, items in found.items() if items}
    return estimates


def _items(task: Task, scored: Iterable[tuple[Sample, Scores | None]]) -> tuple[Item, ...]:
    metric = task.primary_metric()
    items = []
    for sample, scores in scored:
        value = None if scores is None else scores[metric.score]
        if value is not None:
            items.append(Item(sample.id, sample.cluster, value, task.strata(metric, sample)))
    return tuple(items)
