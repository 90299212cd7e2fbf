"""What is put before a judge, and nothing else: a question, its reference answer and one answer field."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from vital_eval.judge.errors import JudgeError
from vital_eval.sample import Sample

#: Characters of an answer field that are shown; an answer that needs more is none to a short question.
MAX_ANSWER = 4_000
#: Characters of a question or a reference answer. They come from annotation files and are never cut.
MAX_GIVEN = 20_000


@dataclass(frozen=True, slots=True)
class JudgeQuestion:
    """One answer to be judged. No thoughts, no tool calls, no video.

    Attributes:
        task: registry name of the task.
        sample_id: see :class:`vital_eval.sample.Sample`.
        question: the question's text.
        reference: the right answer, from the annotation file.
        answer: the answer field as the model wrote it, in full.

    Raises:
        JudgeError: if question or reference is empty or longer than :data:`MAX_GIVEN`, or the answer is empty: an
            empty answer is wrong without a judge.
    """

    task: str
    sample_id: str
    question: str
    reference: str
    answer: str

    def __post_init__(self) -> None:
        """Refuse what cannot be judged."""
        for name, text in (("question", self.question), ("reference answer", self.reference)):
            if not text.strip() or len(text) > MAX_GIVEN:
                raise JudgeError(
                    f"{self.task} {self.sample_id!r}: the {name} has {len(text)} characters",
                    f"a judge needs 1 to {MAX_GIVEN}",
                )
        if not self.answer.strip():
            raise JudgeError(f"{self.task} {self.sample_id!r}: an empty answer is wrong without a judge")

    def key(self, judge: str) -> str:
        """Return the hash of everything that a verdict depends on.

        Args:
            judge: :attr:`vital_eval.judge.identity.JudgeIdentity.hash`.
        """
        parts = [judge, self.task, self.sample_id, self.question, self.reference, self.answer]
        return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()

    @property
    def answer_hash(self) -> str:
        """See :func:`hash_answer`."""
        return hash_answer(self.answer)


def hash_answer(text: str) -> str:
    """Return the hash of an answer field, by which its verdict is found without the annotation files."""
    return hashlib.sha256(json.dumps(text).encode("ascii")).hexdigest()


def ask_about(sample: Sample, answer: str) -> JudgeQuestion:
    """Return the question for one answer field to an open sample.

    Raises:
        JudgeError: if the sample has no reference answer, or see :class:`JudgeQuestion`.
    """
    target = sample.target
    reference = target.text if target.text is not None or target.number is None else repr(target.number)
    if reference is None:
        raise JudgeError(f"{sample.task} {sample.id!r} has no reference answer to judge by")
    return JudgeQuestion(sample.task, sample.id, sample.question, reference, answer)
