"""Samples below a data root: ``<data root>/<task>/`` holds the official annotation files and ``videos/``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vital_eval.errors import DataError, VitalError
from vital_eval.sample import Sample
from vital_eval.task import Task

#: Where a task's videos lie below its folder.
VIDEOS = "videos"


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` equal parts of every task, ``index`` from 1.

    Samples are dealt by a hash of their id, so a shard does not depend on the order of a file.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        """Refuse what is not a part."""
        if not 1 <= self.index <= self.count:
            raise VitalError(f"shard {self.index}/{self.count} does not exist", "use 1/n to n/n")

    def __str__(self) -> str:
        """Return ``i/n``."""
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Read ``i/n``.

    Raises:
        VitalError: if it is not two whole numbers with 1 <= i <= n.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None:
        raise VitalError(f"shard {text!r} is not of the form i/n", "for example 1/4 to 4/4")
    return Shard(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task with its samples read.

    Attributes:
        task: the benchmark.
        folder: its folder below the data root.
        data_hash: hash of the official annotation files.
        samples: every sample of the split, or the selected ones.
    """

    task: Task
    folder: Path
    data_hash: str
    samples: tuple[Sample, ...]

    @property
    def videos(self) -> Path:
        """Where the task's videos lie."""
        return self.folder / VIDEOS


def read_task(task: Task, data_root: Path) -> TaskData:
    """Read the official files of a task.

    Raises:
        DataError: if the data root, the task's folder or a file is missing or not in the official form.
    """
    folder = _task_folder(task, data_root)
    return _task_data(task, folder, task.samples(folder))


def read_submission_task(task: Task, data_root: Path) -> TaskData:
    """Read the official files of a task as its result files are scored on them; otherwise as :func:`read_task`."""
    folder = _task_folder(task, data_root)
    return _task_data(task, folder, task.submission_samples(folder))


def _task_folder(task: Task, data_root: Path) -> Path:
    if not data_root.is_dir():
        raise DataError(f"data root {data_root} does not exist", "give the folder that holds one folder per task")
    folder = data_root / task.name
    if not folder.is_dir():
        raise DataError(
            f"{task.name} has no folder in {data_root}",
            f"put {', '.join(task.annotation_files())} and {VIDEOS}/ into {folder}",
        )
    return folder


def _task_data(task: Task, folder: Path, samples: tuple[Sample, ...]) -> TaskData:
    if not samples:
        raise DataError(f"{task.name} has no samples in {folder}", "check the annotation files")
    present = [name for name in task.annotation_files() if (folder / name).is_file()]
    return TaskData(task, folder, hash_files(folder, present), samples)


def hash_files(folder: Path, names: Iterable[str]) -> str:
    """Return a hash over names and contents, 16 hexadecimal digits.

    Raises:
        DataError: if a file cannot be read.
    """
    total = hashlib.sha256()
    for name in sorted(names):
        total.update(f"{name}\0{hash_file(folder / name)}\n".encode())
    return total.hexdigest()[:16]


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def select(samples: tuple[Sample, ...], limit: int | None, shard: Shard | None) -> tuple[Sample, ...]:
    """Return the samples of a limited or sharded run, in the task's order.

    Args:
        samples: every sample of a task.
        limit: keep this many, the first by a hash of their ids: spread over the file, and the same ones every time.
        shard: keep this part of what ``limit`` left.
    """
    kept = samples
    if limit is not None:
        chosen = {sample.id for sample in sorted(samples, key=lambda sample: (_place(sample), sample.id))[:limit]}
        kept = tuple(sample for sample in kept if sample.id in chosen)
    if shard is not None:
        kept = tuple(sample for sample in kept if _place(sample) % shard.count == shard.index - 1)
    return kept


def _place(sample: Sample) -> int:
    return int.from_bytes(hashlib.sha256(f"{sample.task}\0{sample.id}".encode()).digest()[:8])
