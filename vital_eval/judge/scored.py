"""The open answers of a scored prediction file: what a judge is asked, and the columns with its verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from vital_eval.judge.judged import judged_scores, needs_judge
from vital_eval.judge.question import JudgeQuestion, ask_about
from vital_eval.judge.verdicts import Verdicts
from vital_eval.sample import Sample
from vital_eval.score import Scored
from vital_eval.task import Scores


def questions_of_scored(scored: Scored) -> tuple[JudgeQuestion, ...]:
    """Return what a judge has to be asked: open answers that the rules do not call right."""
    return tuple(ask_about(sample, answer) for _, sample, answer, _ in _to_judge(scored))


def judged(scored: Scored, verdicts: Verdicts) -> Scored | None:
    """Return the same file with every answer right that the rules or the judge call right.

    Returns:
        ``None`` while an answer has no verdict: a failed call is neither right nor wrong.
    """
    columns = {key: column.copy() for key, column in scored.columns.items()}
    for index, sample, answer, scores in _to_judge(scored):
        right = verdicts.right(scored.task.name, sample.id, answer)
        if right is None:
            return None
        for key, value in judged_scores(scores, right).items():
            if value is not None:
                columns[key][index] = value
    return dataclasses.replace(scored, columns=columns)


def _to_judge(scored: Scored) -> Iterator[tuple[int, Sample, str, Scores]]:
    for index, sample in enumerate(scored.samples):
        answer = scored.open_answers.get(sample.id)
        if answer is None:
            continue
        scores = scored.task.score(answer, sample)
        if needs_judge(answer, scores):
            yield index, sample, answer.text, scores
