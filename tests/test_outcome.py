"""Grading: every trajectory has exactly one outcome, and only an answer can score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from vital_eval.generation import FinishReason
from vital_eval.outcome import Outcome, grade
from vital_eval.sample import Sample, Target
from vital_eval.task import Answer, AnswerKind, Metric, Task, Unparsed
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

SAMPLE = Sample("s", "letters", "v.mp4", 9.0, "which?", Target(letter="A"), cluster="v", options=("x", "y"))


class Letters(Task):
    """A is right."""

    name: ClassVar[str] = "letters"
    title: ClassVar[str] = "Letters"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("Accuracy", "acc", "here"),)
    primary: ClassVar[str] = "Accuracy"

    def annotation_files(self) -> tuple[str, ...]:
        """No files."""
        return ()

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """One sample."""
        return (SAMPLE,)

    def answer_kind(self, sample: Sample) -> AnswerKind:
        """Ask for a letter."""
        return AnswerKind.OPTION

    def parse(self, text: str, sample: Sample) -> Answer | Unparsed:
        """Accept A and B."""
        return Answer(text, letter=text, notes=("odd",)) if text in ("A", "B") else Unparsed("no-letter")

    def score(self, answer: Answer | None, sample: Sample) -> Mapping[str, float | None]:
        """One point for A."""
        return {"acc": float(answer is not None and answer.letter == "A")}


def trajectory(stop: StopReason, answer: str | None = None, *errors: str) -> Trajectory:
    turns = tuple(
        Turn("t", FinishReason.STOP_STRING, 1, 0, 0, 1, 0.0, ToolCall("{}", "", error, "m")) for error in errors
    )
    return Trajectory(turns, stop, answer, (0.0,), 9.0)


@pytest.mark.parametrize(
    ("what", "outcome", "reason", "score"),
    [
        (trajectory(StopReason.ANSWERED, "A"), Outcome.ANSWERED, "odd", 1.0),
        (trajectory(StopReason.ANSWERED, "B"), Outcome.ANSWERED, "odd", 0.0),
        (trajectory(StopReason.ANSWERED, "A", "bad-json"), Outcome.ANSWERED, "odd", 1.0),
        (trajectory(StopReason.ANSWERED, "C"), Outcome.UNPARSED, "no-letter", 0.0),
        (trajectory(StopReason.NO_ANSWER), Outcome.UNPARSED, "no-answer", 0.0),
        (trajectory(StopReason.MAX_TURNS, None, ""), Outcome.UNPARSED, "max-turns", 0.0),
        (trajectory(StopReason.MAX_TURNS, None, "", "over-budget"), Outcome.UNPARSED, "max-turns", 0.0),
        (trajectory(StopReason.MAX_TURNS, None, "bad-json", "reversed"), Outcome.TOOL_FAILED, "reversed", 0.0),
        (trajectory(StopReason.MAX_TOKENS), Outcome.TRUNCATED, "max-tokens", 0.0),
        (trajectory(StopReason.CONTEXT_OVERFLOW, None, ""), Outcome.TRUNCATED, "context-overflow", 0.0),
        (trajectory(StopReason.TIMEOUT), Outcome.INFRA_FAILED, "timeout", 0.0),
        (trajectory(StopReason.MEDIA_FAILED), Outcome.INFRA_FAILED, "media-failed", 0.0),
        (trajectory(StopReason.ENGINE_FAILED, None, "bad-json"), Outcome.INFRA_FAILED, "engine-failed", 0.0),
    ],
)
def test_outcomes(what: Trajectory, outcome: Outcome, reason: str, score: float) -> None:
    graded = grade(Letters(), SAMPLE, what)
    assert (graded.outcome, graded.reason, graded.scores) == (outcome, reason, {"acc": score})
    assert (graded.answer is not None) == (outcome is Outcome.ANSWERED)


@pytest.mark.parametrize("stop", StopReason)
def test_every_stop_reason_has_an_outcome_and_only_answers_score(stop: StopReason) -> None:
    graded = grade(Letters(), SAMPLE, trajectory(stop, "A" if stop is StopReason.ANSWERED else None))
    assert isinstance(graded.outcome, Outcome)
    assert (graded.scores["acc"] == 1.0) == (stop is StopReason.ANSWERED)
