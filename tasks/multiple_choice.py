"""What the benchmarks with lettered options share."""

from __future__ import annotations

from vital_eval.metrics.choice import letter_accuracy
from vital_eval.parsing.options import parse_option
from vital_eval.sample import Sample
from vital_eval.task import Answer, AnswerKind, Scores, Task, Unparsed


class MultipleChoice(Task):
    """One question, lettered options, one right letter; the score key is ``accuracy``."""

    def answer_kind(self, sample: Sample) -> AnswerKind:
        """Ask for a letter."""
        del sample
        return AnswerKind.OPTION

    def parse(self, text: str, sample: Sample) -> Answer | Unparsed:
        """Read the chosen letter."""
        return parse_option(text, sample.options)

    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Compare the letters."""
        return {"accuracy": accuracy(answer, sample)}


def accuracy(answer: Answer | None, sample: Sample) -> float:
    """Return 1.0 if the answer's letter is the right one, else 0.0."""
    return letter_accuracy(answer.letter if answer else None, sample.target.letter)
