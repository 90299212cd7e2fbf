"""Scores predictions made elsewhere, without a model: the task's own parser and scorer over a prediction file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vital_eval.breakdowns import Part, break_down
from vital_eval.errors import DataError
from vital_eval.parsing.options import parse_option
from vital_eval.parsing.spans import checked_span
from vital_eval.parsing.turn import split_turn
from vital_eval.predictions import Fault, FaultKind, Prediction, PredictionFile, shown
from vital_eval.sample import Sample
from vital_eval.span import Span, Window
from vital_eval.statistics.means import Estimate
from vital_eval.summary import Item, estimate_items
from vital_eval.task import Answer, AnswerKind, Metric, Scores, Task, Unparsed

#: What became of a sample. Only answered ones can score, apart from what an official definition gives for silence.
ANSWERED, UNPARSED, MISSING = "answered", "unparsed", "missing"

#: In a longer video an answer within the first second is rare; a share of the duration always looks like one.
_SHORTEST = 4.0
#: Annotated ends lie up to 1.5 s after the annotated duration.
_OVERRUN = 2.0

_TAGS = ("<answer>", "<think>", "</think>", "<tool_call>")
_GROUNDED = {AnswerKind.SPAN, AnswerKind.SPANS}


@dataclass(frozen=True, slots=True)
class Scored:
    """Every sample of a split with its scores, column by column.

    Attributes:
        task: the benchmark.
        samples: every sample, in the task's order.
        outcomes: per sample ``answered``, ``unparsed`` or ``missing``.
        columns: score key to one value per sample; NaN where the score does not apply.
        reasons: ``"outcome: reason"`` to its number, and notes on answers likewise.
        open_answers: sample id to what was answered, for open questions: what a judge needs.
        faults: of the file, with the ids that no question has.
    """

    task: Task
    samples: tuple[Sample, ...]
    outcomes: tuple[str, ...]
    columns: Mapping[str, npt.NDArray[np.float64]]
    reasons: Mapping[str, int]
    open_answers: Mapping[str, Answer]
    faults: tuple[Fault, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples per outcome; adds up to all samples."""
        found = Counter(self.outcomes)
        return {outcome: found[outcome] for outcome in (ANSWERED, UNPARSED, MISSING)}

    @property
    def clean(self) -> bool:
        """Whether the file answers every question once and nothing else."""
        return not self.faults and MISSING not in self.outcomes


def score_predictions(task: Task, samples: tuple[Sample, ...], file: PredictionFile) -> Scored:
    """Score a prediction file over a whole split; a sample without a usable prediction counts as unanswered.

    Args:
        task: the benchmark.
        samples: every sample of the split; they make the denominator.
        file: what :func:`vital_eval.predictions.read_predictions` gave. Official ids and our own are both known.

    Raises:
        DataError: if not one id is that of a sample: the file belongs to another benchmark or split.
    """
    keys = tuple(dict.fromkeys(metric.score for metric in task.metrics))
    columns = {key: np.full(len(samples), np.nan) for key in keys}
    predictions, faults = _by_sample(task, samples, file)
    outcomes: list[str] = []
    reasons: Counter[str] = Counter()
    open_answers: dict[str, Answer] = {}
    for index, sample in enumerate(samples):
        outcome, reason, answer, scores = _grade(task, sample, predictions.get(sample.id))
        outcomes.append(outcome)
        if reason:
            reasons[f"{outcome}: {reason}"] += 1
        if answer is not None and task.answer_kind(sample) is AnswerKind.OPEN:
            open_answers[sample.id] = answer
        for key, value in scores.items():
            if value is not None:
                columns[key][index] = value
    return Scored(task, samples, tuple(outcomes), columns, dict(reasons.most_common()), open_answers, faults)


def metric_values(scored: Scored, metric: Metric, *, answered_only: bool = False) -> tuple[Item, ...]:
    """Return what one metric averages.

    Args:
        scored: the scored split.
        metric: one of the task's metrics.
        answered_only: leave out samples without an answer (secondary: it rewards silence).
    """
    task, items = scored.task, []
    for sample, outcome, value in zip(
        scored.samples, scored.outcomes, scored.columns[metric.score].tolist(), strict=True
    ):
        if not math.isnan(value) and not (answered_only and outcome != ANSWERED):
            items.append(Item(sample.id, sample.cluster, value, task.strata(metric, sample)))
    return tuple(items)


def figure(scored: Scored, metric: Metric, *, answered_only: bool = False) -> Estimate:
    """Estimate one metric with its interval."""
    return estimate_items(metric_values(scored, metric, answered_only=answered_only))


def breakdown(scored: Scored, metric: Metric) -> tuple[Part, ...]:
    """Estimate one metric within every value of every attribute of the samples."""
    return break_down(metric_values(scored, metric), {sample.id: sample.attributes for sample in scored.samples})


def _by_sample(
    task: Task, samples: Sequence[Sample], file: PredictionFile
) -> tuple[dict[str, Prediction], tuple[Fault, ...]]:
    """Return sample id to prediction, and the file's faults with those that need the samples to be seen."""
    names = {sample.id: sample.id for sample in samples}
    names |= {task.official_id(sample): sample.id for sample in samples}
    found: dict[str, Prediction] = {}
    conflicting: set[str] = set()
    faults = list(file.faults)
    for identity, prediction in file.predictions.items():
        name = names.get(identity)
        if name is None:
            faults.append(Fault(FaultKind.UNKNOWN, f"id {shown(identity)}", f"no question of {task.name} has this id"))
        elif name not in found:
            found[name] = prediction
        elif found[name] == prediction:
            faults.append(
                Fault(FaultKind.REPEATED, f"id {shown(identity)}", f"question {name} under its other id; used once")
            )
        else:
            conflicting.add(name)
            problem = f"question {name} under its other id with another prediction; none is used"
            faults.append(Fault(FaultKind.CONFLICTING, f"id {shown(identity)}", problem))
    if not found and file.predictions:
        first = shown(next(iter(file.predictions)))
        raise DataError(
            f"none of the {len(file.predictions)} ids is a question of {task.name}; the first is {first!r}",
            f"ids look like {task.official_id(samples[0])!r}" if samples else "",
        )
    return {name: value for name, value in found.items() if name not in conflicting}, tuple(faults)


def _grade(task: Task, sample: Sample, prediction: Prediction | None) -> tuple[str, str, Answer | None, Scores]:
    if prediction is None:
        return MISSING, "", None, task.score(None, sample)
    if prediction.windows is not None:
        official = task.score_windows(prediction.windows, sample)
        if official is not None:
            return (ANSWERED, "", None, official) if prediction.windows else (UNPARSED, "no-span", None, official)
    answer = read_answer(task, prediction, sample)
    if isinstance(answer, Unparsed):
        return UNPARSED, answer.reason, None, task.score(None, sample)
    return ANSWERED, ",".join((*answer.notes, *_oddities(answer, sample))), answer, task.score(answer, sample)


def _oddities(answer: Answer, sample: Sample) -> Iterator[str]:
    """Say what hints at spans that are not in seconds: shares of the duration, percent, frames, milliseconds."""
    if not answer.spans or sample.duration is None or sample.duration <= _SHORTEST:
        return
    if all(span.end <= 1 for span in answer.spans):
        yield "within-the-first-second"
    elif any(span.end > sample.duration + _OVERRUN for span in answer.spans):
        yield "ends-after-the-video"


def read_answer(task: Task, prediction: Prediction, sample: Sample) -> Answer | Unparsed:
    """Turn a prediction into the answer a task scores, by the same parsers that read a model's answer field.

    A raw text with tags is read as a final turn: its answer field counts and nothing else. One without tags is taken
    for an answer field.
    """
    kind = task.answer_kind(sample)
    if prediction.windows is not None and kind in _GROUNDED | {AnswerKind.OPTION_AND_SPAN}:
        return _from_windows(prediction.windows, prediction.answer, kind, sample)
    if prediction.answer is not None:
        return task.parse(prediction.answer, sample)
    if prediction.text is None:
        return Unparsed("no-answer")
    if not any(tag in prediction.text for tag in _TAGS):
        return task.parse(prediction.text, sample)
    field = split_turn(prediction.text).answer
    return Unparsed("no-answer") if field is None else task.parse(field, sample)


def _from_windows(
    windows: tuple[Window, ...], stated: str | None, kind: AnswerKind, sample: Sample
) -> Answer | Unparsed:
    # One span is asked for: the official scripts take the first of a list.
    checked = [checked_span(window) for window in (windows if kind is AnswerKind.SPANS else windows[:1])]
    spans = tuple(span for span in checked if isinstance(span, Span))
    reasons = [span.reason for span in checked if isinstance(span, Unparsed)] or ([] if spans else ["no-span"])
    if kind is not AnswerKind.SPANS and len(windows) > 1:
        reasons.append("several-spans")
    option = parse_option(stated or "", sample.options) if kind is AnswerKind.OPTION_AND_SPAN else None
    if isinstance(option, Unparsed):
        reasons.append(option.reason)
    letter = option.letter if isinstance(option, Answer) else None
    if not spans and letter is None:
        return Unparsed(reasons[0])
    return Answer(stated or "", spans=spans, letter=letter, notes=tuple(dict.fromkeys(reasons)))


def fault_lines(faults: Sequence[Fault], most: int) -> list[str]:
    """Write faults for people, one line each, the first ``most`` of every kind and how many more there are."""
    lines = []
    for kind in FaultKind:
        inside = [fault for fault in faults if fault.kind is kind]
        lines += [f"{kind.value}: {fault.where}: {fault.problem}" for fault in inside[:most]]
        if len(inside) > most:
            lines.append(f"{kind.value}: and {len(inside) - most} more")
    return lines
