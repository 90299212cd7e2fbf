"""What trivial answerers score on exactly the samples of a run, with intervals: the floor under every figure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vital_eval.baselines import CENTRE, WHOLE, constant_span, fit_shares, majority_answers, random_guess
from vital_eval.data_root import TaskData
from vital_eval.sample import Sample
from vital_eval.span import Window
from vital_eval.statistics.means import Estimate
from vital_eval.summary import Item, estimate_items
from vital_eval.task import Metric, Scores, Task

#: Names under which tables show them: the whole video, its middle half, the stretch that fits the training split best,
#: a guess, and the letter (or number) that is right most often in the scored samples themselves.
WHOLE_VIDEO = "whole video"
CENTRE_SPAN = "centre span"
PRIOR_SPAN = "prior span"
RANDOM = "random"
MAJORITY_OPTION = "majority option"

#: Window and duration of the video, in seconds.
Moments = tuple[tuple[Window, float], ...]


@dataclass(frozen=True, slots=True)
class BaselineTask:
    """What the baselines of one task are worked out from.

    Attributes:
        task: the benchmark.
        samples: the samples of the run.
        moments: annotated moments of the training split (:meth:`~vital_eval.task.Task.training_moments`); without any
            the prior span is left out.
    """

    task: Task
    samples: tuple[Sample, ...]
    moments: Moments = ()


def baseline_tasks(read: Iterable[TaskData]) -> tuple[BaselineTask, ...]:
    """Return what the baselines of tasks need, training moments read; a damaged training file shows here.

    Raises:
        DataError: if a file of training annotations is there and not in the official form.
    """
    return tuple(BaselineTask(data.task, data.samples, data.task.training_moments(data.folder)) for data in read)


def estimate_baselines(tasks: Iterable[BaselineTask]) -> dict[str, dict[str, Estimate]]:
    """Return task to name of a trivial answerer to its headline metric.

    Args:
        tasks: each task with the samples of the run. A baseline that no sample of a task admits is left out.
    """
    estimates: dict[str, dict[str, Estimate]] = {}
    for given in tasks:
        headline = given.task.primary_metric()
        figures = _figures(given, (headline,))
        estimates[given.task.name] = {name: by_metric[headline.name] for name, by_metric in figures.items()}
    return estimates


def baseline_figures(task: Task, samples: tuple[Sample, ...], moments: Moments = ()) -> dict[str, dict[str, Estimate]]:
    """Return name of a trivial answerer to metric name to estimate, for every metric of the task.

    Args:
        task: the benchmark.
        samples: the scored samples.
        moments: see :class:`BaselineTask`. A baseline that no sample admits is left out, and so is a metric that
            counts none of its answers.
    """
    return _figures(BaselineTask(task, samples, moments), task.metrics)


def _figures(given: BaselineTask, metrics: Sequence[Metric]) -> dict[str, dict[str, Estimate]]:
    task, samples = given.task, given.samples
    # Numbers are guessed from others of the same type; handing over only those keeps the work linear per type.
    alike: defaultdict[str | None, list[Sample]] = defaultdict(list)
    for sample in samples:
        alike[_type(sample)].append(sample)
    scored: dict[str, list[Scores | None]] = {
        WHOLE_VIDEO: [constant_span(task, sample, WHOLE) for sample in samples],
        CENTRE_SPAN: [constant_span(task, sample, CENTRE) for sample in samples],
        RANDOM: [random_guess(task, sample, alike[_type(sample)]) for sample in samples],
    }
    prior = fit_shares(given.moments)
    if prior is not None:
        scored[PRIOR_SPAN] = [constant_span(task, sample, prior) for sample in samples]
    figures = {name: _estimates(task, metrics, samples, scores) for name, scores in scored.items()}
    figures[MAJORITY_OPTION] = _majority(task, metrics, samples)
    return {name: by_metric for name, by_metric in figures.items() if by_metric}


def _estimates(
    task: Task, metrics: Iterable[Metric], samples: Sequence[Sample], scored: Sequence[Scores | None]
) -> dict[str, Estimate]:
    found = {}
    for metric in metrics:
        items = _items(task, metric, zip(samples, scored, strict=True))
        if items:
            found[metric.name] = estimate_items(items)
    return found


def _majority(task: Task, metrics: Iterable[Metric], samples: Sequence[Sample]) -> dict[str, Estimate]:
    # The best constant answer depends on which samples a metric counts, so every metric has its own.
    found = {}
    for metric in metrics:
        answers = majority_answers(task, metric, samples)
        counting = [sample for sample in samples if sample.id in answers]
        items = _items(task, metric, ((sample, task.score(answers[sample.id], sample)) for sample in counting))
        if items:
            found[metric.name] = estimate_items(items)
    return found


def _items(
    task: Task, metric: Metric, scored: Iterable[tuple[Sample, Mapping[str, float | None] | None]]
) -> tuple[Item, ...]:
    items = []
    for sample, scores in scored:
        value = None if scores is None else scores[metric.score]
        if value is not None:
            items.append(Item(sample.id, sample.cluster, value, task.strata(metric, sample)))
    return tuple(items)


def _type(sample: Sample) -> str | None:
    return sample.attributes.get("question_type")
