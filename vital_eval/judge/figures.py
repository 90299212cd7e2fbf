"""The rules' figures beside the judged ones, from a run and its verdicts alone: no data, no network."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vital_eval.judge.errors import JudgeError
from vital_eval.judge.judged import judged_scores, needs_judge
from vital_eval.judge.verdicts import VERDICTS_NAME, Scope, Verdicts, read_verdict_file
from vital_eval.manifest import Entry, Manifest
from vital_eval.outcome import Outcome
from vital_eval.protocol import Mode
from vital_eval.record import Record
from vital_eval.statistics.means import Estimate
from vital_eval.summary import estimate_items, metric_items


@dataclass(frozen=True, slots=True)
class JudgedFigure:
    """One metric of one task under one protocol, by the rules and by the judge.

    Attributes:
        task: registry name.
        mode: how the model reasoned.
        protocol_hash: hash of the protocol.
        metric: name of a metric that open samples enter.
        rules: as the run's summary has it.
        judged: the same with every answer right that the rules or the judge call right; ``None`` while answers wait
            for a verdict, for a failed call is neither right nor wrong.
        judge: one line that names the judge.
        sent: attempts of this metric whose answer needed a judge.
        failed: those of them without a verdict.
        owed: attempts of this task and protocol without a graded answer. Above 0 both figures are provisional.
    """

    task: str
    mode: Mode
    protocol_hash: str
    metric: str
    rules: Estimate
    judged: Estimate | None
    judge: str
    sent: int
    failed: int
    owed: int


def read_verdicts(run_folder: Path) -> Verdicts | None:
    """Read the verdicts of a run without locking or changing them.

    Returns:
        ``None`` if the run was not judged.

    Raises:
        JudgeError: see :func:`vital_eval.judge.verdicts.read_verdict_file`.
    """
    return read_verdict_file(run_folder / VERDICTS_NAME)


def judged_figures(manifest: Manifest, records: Iterable[Record], verdicts: Verdicts) -> tuple[JudgedFigure, ...]:
    """Work out both figures of every metric that open samples enter.

    Args:
        manifest: the run's.
        records: the run's.
        verdicts: what :func:`read_verdicts` gave.

    Returns:
        In the order of the manifest and of each task's metrics; nothing for tasks without open samples.

    Raises:
        JudgeError: if the verdicts were given for other annotation files than the run's.
    """
    by_entry: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        by_entry[record.task, record.protocol].append(record)
    figures: list[JudgedFigure] = []
    for entry in manifest.entries:
        scope = verdicts.scopes.get(entry.task)
        if scope is None:
            continue
        if scope.data_hash != entry.data_hash:
            raise JudgeError(
                f"the verdicts on {entry.task} are for the annotation files {scope.data_hash}, "
                f"the run was made with {entry.data_hash}",
                "judge the run again into another file",
            )
        figures += _of_entry(entry, by_entry[entry.key], scope, verdicts, manifest.attempts)
    return tuple(figures)


def _of_entry(
    entry: Entry, records: Sequence[Record], scope: Scope, verdicts: Verdicts, attempts: int
) -> list[JudgedFigure]:
    opened = [record for record in records if record.sample_id in scope.samples]
    finished = sum(record.outcome is not Outcome.INFRA_FAILED for record in records)
    judged = [_judged(record, verdicts) if record.sample_id in scope.samples else record for record in records]
    figures = []
    for metric, score in entry.metrics.items():
        inside = [record for record in opened if record.scores[score] is not None]
        if not inside:
            continue
        sent = [record for record in inside if needs_judge(record.answer, record.scores)]
        failed = sum(_right(record, verdicts) is None for record in sent)
        figures.append(
            JudgedFigure(
                task=entry.task,
                mode=entry.protocol.mode,
                protocol_hash=entry.protocol.hash,
                metric=metric,
                rules=estimate_items(metric_items(entry, metric, records, attempts)),
                judged=None if failed else estimate_items(metric_items(entry, metric, judged, attempts)),
                judge=verdicts.judge,
                sent=len(sent),
                failed=failed,
                owed=len(entry.samples) * attempts - finished,
            )
        )
    return figures


def _judged(record: Record, verdicts: Verdicts) -> Record:
    if not needs_judge(record.answer, record.scores):
        return record
    return dataclasses.replace(record, scores=judged_scores(record.scores, _right(record, verdicts) is True))


def _right(record: Record, verdicts: Verdicts) -> bool | None:
    return None if record.answer is None else verdicts.right(record.task, record.sample_id, record.answer.text)
