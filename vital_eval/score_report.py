"""Everything ``vital-eval score`` says, as data: figures, break-downs, baselines, what was wrong with the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vital_eval.breakdowns import Part
from vital_eval.errors import DataError
from vital_eval.predictions import PredictionFile, summarise_faults
from vital_eval.sample import Sample
from vital_eval.score import ANSWERED, MISSING, Scored, breakdown, figure, metric_values, score_predictions
from vital_eval.statistics.gains import relative_gain
from vital_eval.statistics.means import Estimate
from vital_eval.task import AnswerKind, Metric, Task


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of the benchmark.

    Attributes:
        metric: what it is and where its definition comes from.
        all: over the whole split; a missing or unusable prediction counts as unanswered.
        answered: over the answered samples only (secondary).
        parts: the metric within every value of every attribute; empty unless the task breaks it down.
    """

    metric: Metric
    all: Estimate
    answered: Estimate
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """A scored prediction file.

    Attributes:
        scored: samples, scores, faults.
        data_hash: hash of the annotation files.
        figures: one per metric of the task, in its order.
        baselines: name of a trivial answerer to metric name to its estimate on the same samples.
        question_only: the questions of the gain metric answered without the video, if such a file was given.
        gain: relative gain of the task's gain metric over it; ``None`` without one, and where questions of that metric
            have no question-only prediction, which would pass for a gain.
        judge: one line that names the judge of the open answers, ``""`` if none was asked.
        judged: metric name to its estimate with the judge's verdicts, for metrics that open answers enter; ``None``
            while answers wait for a verdict.
    """

    scored: Scored
    data_hash: str
    figures: tuple[Figure, ...]
    baselines: Mapping[str, Mapping[str, Estimate]]
    question_only: Scored | None
    gain: Estimate | None
    judge: str = ""
    judged: Mapping[str, Estimate] | None = None


def make_report(
    scored: Scored,
    data_hash: str,
    baselines: Mapping[str, Mapping[str, Estimate]],
    question_only: Scored | None = None,
) -> ScoreReport:
    """Work out every figure.

    Args:
        scored: the scored file.
        data_hash: hash of the annotation files.
        baselines: see :class:`ScoreReport`.
        question_only: the questions of the gain metric (:func:`score_question_only`) answered without the video.
    """
    return ScoreReport(
        scored=scored,
        data_hash=data_hash,
        figures=tuple(_figure(scored, metric) for metric in scored.task.metrics),
        baselines=baselines,
        question_only=question_only,
        gain=None if question_only is None else _gain(scored, question_only),
    )


def with_judge(report: ScoreReport, judge: str, judged: Scored | None) -> ScoreReport:
    """Return the report with the judged figures beside the rules'.

    Args:
        report: the figures by the rules.
        judge: one line that names the judge.
        judged: the scored file with its verdicts, ``None`` while some are missing.
    """
    figures = None
    if judged is not None:
        opened = np.array([judged.task.answer_kind(sample) is AnswerKind.OPEN for sample in judged.samples], dtype=bool)
        figures = {
            metric.name: figure(judged, metric)
            for metric in judged.task.metrics
            if not np.isnan(judged.columns[metric.score][opened]).all()
        }
    return dataclasses.replace(report, judge=judge, judged=figures)


def _figure(scored: Scored, metric: Metric) -> Figure:
    whole = figure(scored, metric)
    everything = scored.counts[ANSWERED] == len(scored.samples)
    answered = whole if everything else figure(scored, metric, answered_only=True)
    shown = metric.name in (scored.task.broken_down or (scored.task.primary,))
    return Figure(metric, whole, answered, breakdown(scored, metric) if shown else ())


def score_question_only(task: Task, samples: tuple[Sample, ...], file: PredictionFile) -> Scored:
    """Score a question-only file over the questions that the gain metric counts; it may answer others as well.

    Args:
        task: the benchmark.
        samples: every sample of the split.
        file: predictions made without the video.

    Raises:
        DataError: if the benchmark reports no gain, or no id is that of a question that it counts.
    """
    metric = _gain_metric(task)
    counted = tuple(sample for sample in samples if task.score(None, sample)[metric.score] is not None)
    asked = {sample.id for sample in counted}
    others = {name for sample in samples if sample.id not in asked for name in (sample.id, task.official_id(sample))}
    predictions = {name: value for name, value in file.predictions.items() if name not in others}
    return score_predictions(task, counted, PredictionFile(predictions, file.faults))


def _gain_metric(task: Task) -> Metric:
    if not task.gain_metric:
        raise DataError(f"{task.name} reports no gain over a question-only run", "leave --question-only out")
    return next(metric for metric in task.metrics if metric.name == task.gain_metric)


def _gain(scored: Scored, question_only: Scored) -> Estimate | None:
    metric = _gain_metric(scored.task)
    if MISSING in question_only.outcomes:
        return None
    # Both hold every sample that the metric counts, in the same order.
    after, before = metric_values(scored, metric), metric_values(question_only, metric)
    return relative_gain([item.value for item in after], [item.value for item in before], [i.cluster for i in after])


def report_to_json(report: ScoreReport, predictions: str) -> dict[str, Any]:
    """Return plain JSON data; figures are percent, as the official scripts print them, unrounded.

    Args:
        report: what to write.
        predictions: name of the prediction file.
    """
    scored, task = report.scored, report.scored.task
    return {
        "task": task.name,
        "title": task.title,
        "scorer_version": task.scorer_version,
        "predictions": predictions,
        "data_hash": report.data_hash,
        "primary": task.primary,
        "digits": task.digits,
        "n": len(scored.samples),
        **_what_came(scored),
        "question_only": None if report.question_only is None else _what_came(report.question_only),
        "metrics": {
            each.metric.name: {
                **_percent(each.all),
                "source": each.metric.source,
                "answered_only": _percent(each.answered),
                "parts": [{"attribute": p.attribute, "value": p.value, **_percent(p.estimate)} for p in each.parts],
            }
            for each in report.figures
        },
        "baselines": {
            name: {metric: _percent(value) for metric, value in metrics.items()}
            for name, metrics in report.baselines.items()
        },
        "judge": report.judge or None,
        "judged": None if report.judged is None else {name: _percent(each) for name, each in report.judged.items()},
        "gain": None if report.gain is None else {"metric": task.gain_metric, **_percent(report.gain)},
    }


def _what_came(scored: Scored) -> dict[str, Any]:
    return {
        "outcomes": scored.counts,
        "reasons": dict(scored.reasons),
        "faults": {
            "counts": {kind.value: count for kind, count in summarise_faults(scored.faults).items()},
            "list": [dataclasses.asdict(fault) for fault in scored.faults],
        },
    }


def _percent(estimate: Estimate) -> dict[str, Any]:
    scaled = {
        name: None if (value := getattr(estimate, field)) is None else 100 * value
        for name, field in (("percent", "value"), ("se", "se"), ("low", "low"), ("high", "high"))
    }
    return {**scaled, "n": estimate.n, "clusters": estimate.clusters}
