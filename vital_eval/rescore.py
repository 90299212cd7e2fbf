"""Scores a finished run again with today's parsers and scorers: no model, no video, no GPU."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vital_eval.atomic import sync_folder, write_atomically
from vital_eval.data_root import TaskData
from vital_eval.errors import DataError, RunLogError
from vital_eval.manifest import Entry, Manifest, write_manifest
from vital_eval.record import Record, record_to_line
from vital_eval.run_log import RECORDS_NAME
from vital_eval.runner import make_record
from vital_eval.summary import Baselines, Summary, summarise, write_summary


@dataclass(frozen=True, slots=True)
class Rescored:
    """A run scored again.

    Attributes:
        manifest: the run's, with today's scorers and metrics.
        records: the same trajectories with today's grades, in the order of the log.
        changed: keys of the records whose outcome, answer or scores are not what they were.
    """

    manifest: Manifest
    records: tuple[Record, ...]
    changed: tuple[tuple[str, str, str, int], ...]


def rescore(manifest: Manifest, records: tuple[Record, ...], tasks: Mapping[str, TaskData]) -> Rescored:
    """Grade every stored trajectory again.

    Args:
        manifest: the run's manifest.
        records: the run's records.
        tasks: the run's tasks with all their samples, by name.

    Raises:
        DataError: if a sample of the run is not among a task's samples, or the annotation files have changed.
    """
    for entry in manifest.entries:
        found = tasks[entry.task].data_hash
        if found != entry.data_hash:
            raise DataError(
                f"the annotation files of {entry.task} hash to {found}, the run was made with {entry.data_hash}",
                "give the data root that the run was made with",
            )
    samples = {(name, sample.id): sample for name, data in tasks.items() for sample in data.samples}
    protocols = {entry.key: entry.protocol for entry in manifest.entries}
    again = []
    for record in records:
        sample = samples.get((record.task, record.sample_id))
        if sample is None:
            raise DataError(f"sample {record.sample_id!r} is not in the annotation files of {record.task}")
        protocol = protocols[record.task, record.protocol]
        again.append(make_record(tasks[record.task].task, sample, protocol, record.attempt, record.trajectory))
    changed = tuple(
        new.key
        for old, new in zip(records, again, strict=True)
        if (old.outcome, old.answer, dict(old.scores)) != (new.outcome, new.answer, dict(new.scores))
    )
    entries = tuple(_today(entry, tasks[entry.task]) for entry in manifest.entries)
    return Rescored(dataclasses.replace(manifest, entries=entries), tuple(again), changed)


def write_rescored(folder: Path, result: Rescored, baselines: Baselines) -> Summary:
    """Write a new run folder, all of it or nothing.

    Args:
        folder: the new run folder; it must not exist.
        result: what :func:`rescore` gave.
        baselines: what trivial answerers score on the same samples.

    Raises:
        RunLogError: if the folder exists or cannot be written.
    """
    if folder.exists():
        raise RunLogError(f"{folder} exists", "choose another folder with --out, or remove it")
    summary = summarise(result.manifest, result.records, baselines)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise RunLogError(f"cannot write beside {folder}: {error.strerror}") from error
    try:
        temporary.chmod(0o755)
        write_manifest(temporary, result.manifest)
        write_atomically(temporary / RECORDS_NAME, "".join(record_to_line(record) for record in result.records))
        write_summary(temporary, summary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    sync_folder(folder.parent)
    return summary


def _today(entry: Entry, data: TaskData) -> Entry:
    task = data.task
    return dataclasses.replace(
        entry,
        scorer_version=task.scorer_version,
        primary=task.primary,
        metrics={metric.name: metric.score for metric in task.metrics},
    )
