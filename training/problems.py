"""What a policy is asked in training and what its answers are worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from vital_eval.errors import DataError
from vital_eval.protocol import Protocol
from vital_eval.sample import Sample
from vital_eval.task import AnswerKind, Task

from .mtvr.records import RlRecord
from .rewards import Kind, Scored, Source, is_rewarded, read_solution, require_source, score_answer, task_reward

_KINDS: Mapping[Kind, AnswerKind] = MappingProxyType(
    {
        Kind.SPAN: AnswerKind.SPAN,
        Kind.SPAN_AND_OPTION: AnswerKind.OPTION_AND_SPAN,
        Kind.SPAN_AND_TEXT: AnswerKind.SPAN,
        Kind.OPTION: AnswerKind.OPTION,
        Kind.NUMERICAL: AnswerKind.NUMBER,
        Kind.REGRESSION: AnswerKind.NUMBER,
        Kind.FREE_FORM: AnswerKind.OPEN,
        Kind.OCR: AnswerKind.OPEN,
    }
)


def answer_kind(source: Source) -> AnswerKind:
    """Return what answers to a source's questions must hold."""
    return _KINDS[source.kind]


@dataclass(frozen=True, slots=True)
class Problem:
    """One question of a training set.

    Attributes:
        sample: what is asked; its id is unique in the set.
        kind: what the answer must hold.
        score: worth of an answer field in [0, 1]; ``None`` is no answer.
        verbatim: the question already holds its options and its whole wording.
    """

    sample: Sample
    kind: AnswerKind
    score: Callable[[str | None], Scored]
    verbatim: bool

    def protocol(self, protocol: Protocol) -> Protocol:
        """Return how it is asked: a question that is already worded gets no second wording around it."""
        if not self.verbatim:
            return protocol
        texts = dataclasses.replace(protocol.prompt, moment="{query}", moments="{query}", options="")
        return dataclasses.replace(protocol, prompt=texts)


def problems_of_records(records: Iterable[RlRecord], *, released_iou_only: bool = False) -> tuple[Problem, ...]:
    """Turn RL records of MTVR into problems.

    Args:
        records: as :func:`vital_eval.training.mtvr.files.read_rl` gives them.
        released_iou_only: see :func:`~.rewards.score_answer`.

    Raises:
        DataError: if a record has no known source, its solution does not fit it, it shows no video, or two have the
            same id.
    """
    problems: dict[str, Problem] = {}
    for record in records:
        if record.data_source is None:
            raise DataError(f"record {record.id} has no data_source", "name it in the record or by the file's name")
        if record.media.kind != "video":
            raise DataError(f"record {record.id} shows an image", "training on images is not supported; leave it out")
        source = require_source(record.data_source)
        try:
            target = read_solution(source, record.solution)
        except DataError as error:
            raise DataError(f"record {record.id}: {error.problem}", error.mend) from error
        if record.id in problems:
            raise DataError(f"record {record.id} occurs twice", "ids must be unique in a training set")
        problems[record.id] = Problem(
            sample=Sample(
                id=record.id,
                task=source.name,
                video=record.media.path,
                duration=record.duration,
                question=record.text,
                target=target,
                cluster=record.media.path,
            ),
            kind=answer_kind(source),
            score=partial(score_answer, source, target, released_iou_only=released_iou_only),
            verbatim=True,
        )
    return tuple(problems.values())


def problems_of_task(task: Task, samples: Iterable[Sample]) -> tuple[Problem, ...]:
    """Turn samples of a benchmark into problems; the reward is the task's own score, scaled as in training.

    Samples that the headline metric leaves out earn nothing whatever is answered, and are left out.
    """
    return tuple(
        Problem(sample, task.answer_kind(sample), partial(_task_score, task, sample), verbatim=False)
        for sample in samples
        if is_rewarded(task, sample)
    )


def _task_score(task: Task, sample: Sample, answer: str | None) -> Scored:
    return Scored(task_reward(task, sample, answer))
