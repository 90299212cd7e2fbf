"""Which answers of a run a judge has to see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vital_eval.data_root import TaskData
from vital_eval.errors import DataError
from vital_eval.judge.judged import needs_judge
from vital_eval.judge.question import JudgeQuestion, ask_about
from vital_eval.judge.verdicts import Scope
from vital_eval.manifest import Manifest
from vital_eval.record import Record
from vital_eval.sample import Sample
from vital_eval.task import AnswerKind


@dataclass(frozen=True, slots=True)
class RunQuestions:
    """What a run asks of a judge.

    Attributes:
        scopes: the open samples of every task that has some.
        questions: one per answer that needs a judge, in the order of the log.
    """

    scopes: Mapping[str, Scope]
    questions: tuple[JudgeQuestion, ...]


def questions_of_run(manifest: Manifest, records: Iterable[Record], tasks: Mapping[str, TaskData]) -> RunQuestions:
    """Collect the answers of a run that need a judge.

    Args:
        manifest: the run's.
        records: the run's.
        tasks: the run's tasks with all their samples, by name.

    Raises:
        DataError: if the annotation files have changed since the run, or lack one of its samples.
        JudgeError: if an open sample has no reference answer.
    """
    asked: dict[str, set[str]] = {}
    for entry in manifest.entries:
        found = tasks[entry.task].data_hash
        if found != entry.data_hash:
            raise DataError(
                f"the annotation files of {entry.task} hash to {found}, the run was made with {entry.data_hash}",
                "give the data root that the run was made with",
            )
        asked.setdefault(entry.task, set()).update(identity for identity, _ in entry.samples)
    opened = {name: _open_samples(tasks[name], ids) for name, ids in asked.items()}
    questions = tuple(
        ask_about(opened[record.task][record.sample_id], record.answer.text)
        for record in records
        if record.answer is not None
        and record.sample_id in opened[record.task]
        and needs_judge(record.answer, record.scores)
    )
    scopes = {name: Scope(tasks[name].data_hash, frozenset(samples)) for name, samples in opened.items() if samples}
    return RunQuestions(scopes, questions)


def _open_samples(data: TaskData, asked: set[str]) -> dict[str, Sample]:
    samples = {sample.id: sample for sample in data.samples if sample.id in asked}
    for identity in sorted(asked - samples.keys()):
        raise DataError(f"sample {identity!r} is not in the annotation files of {data.task.name}")
    return {
        identity: sample for identity, sample in samples.items() if data.task.answer_kind(sample) is AnswerKind.OPEN
    }
