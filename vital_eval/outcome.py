"""From a trajectory to a score: the one place where runs and ``rescore`` are graded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vital_eval.sample import Sample
from vital_eval.task import Answer, Scores, Task, Unparsed
from vital_eval.trajectory import StopReason, Trajectory


class Outcome(StrEnum):
    """What became of a sample. The counts always add up to n.

    ``answered`` is the only outcome that can score. ``infra-failed`` is neither right nor wrong: the sample is
    owed again on resume and holds back the headline.
    """

    ANSWERED = "answered"
    UNPARSED = "unparsed"
    TRUNCATED = "truncated"
    TOOL_FAILED = "tool-failed"
    INFRA_FAILED = "infra-failed"


_TRUNCATED = {StopReason.MAX_TOKENS, StopReason.CONTEXT_OVERFLOW}
#: How long a turn takes says more about the machine and its load than about the model.
_INFRA = {StopReason.MEDIA_FAILED, StopReason.ENGINE_FAILED, StopReason.TIMEOUT}


@dataclass(frozen=True, slots=True)
class Grade:
    """Result of grading one trajectory.

    Attributes:
        outcome: see :class:`Outcome`.
        reason: finer word for the outcome (why unparsed, which stop).
        answer: the parsed answer where there is one.
        scores: the task's per-sample scores; all 0 or ``None`` unless answered.
    """

    outcome: Outcome
    reason: str
    answer: Answer | None
    scores: Scores


def grade(task: Task, sample: Sample, trajectory: Trajectory) -> Grade:
    """Grade one trajectory by the task's own parser and scorer.

    An episode whose last word is a failed tool call (every call failed and no answer came) counts as
    ``tool-failed``; one that answers in spite of failed calls is ``answered``.
    """
    if trajectory.stop in _INFRA:
        return Grade(Outcome.INFRA_FAILED, trajectory.stop.value, None, task.score(None, sample))
    if trajectory.stop in _TRUNCATED:
        return Grade(Outcome.TRUNCATED, trajectory.stop.value, None, task.score(None, sample))
    if trajectory.answer_text is None:
        calls = trajectory.tool_calls
        if calls and not any(call.succeeded for call in calls):
            return Grade(Outcome.TOOL_FAILED, calls[-1].error, None, task.score(None, sample))
        return Grade(Outcome.UNPARSED, trajectory.stop.value, None, task.score(None, sample))
    answer = task.parse(trajectory.answer_text, sample)
    if isinstance(answer, Unparsed):
        return Grade(Outcome.UNPARSED, answer.reason, None, task.score(None, sample))
    return Grade(Outcome.ANSWERED, ",".join(answer.notes), answer, task.score(answer, sample))
