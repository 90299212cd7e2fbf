"""Checks a benchmark before a run: are the annotation files official, and is every video there and readable?"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vital_eval import lengths
from vital_eval.data_root import TaskData, hash_file
from vital_eval.errors import MediaError
from vital_eval.sample import Sample
from vital_eval.video.resolve import resolve_video
from vital_eval.video.worker import DecodeWorkers

#: Probes under way; more would only wait inside the pool of workers.
_PROBES_AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one video.

    Attributes:
        video: as the annotation names it.
        kind: a :class:`~vital_eval.errors.MediaError` kind, or ``duration-mismatch``.
        detail: one line.
        samples: how many samples ask about it.
    """

    video: str
    kind: str
    detail: str
    samples: int


@dataclass(frozen=True, slots=True)
class Preparation:
    """What the check of one task found.

    Attributes:
        task: registry name.
        samples: number of samples.
        videos: number of distinct videos they name.
        problems: videos that are missing, unreadable or of another length.
        degenerate: ids of samples with an annotated span that does not start before it ends; they stay in n, and no
            answer can score on that span.
        unused: files below ``videos/`` that no sample names.
        data_hash: hash of the annotation files.
        media_hash: hash over names, sizes and (unless fast) contents of the video files found.
        fast: whether contents were left out of ``media_hash``.
    """

    task: str
    samples: int
    videos: int
    problems: tuple[Problem, ...]
    degenerate: tuple[str, ...]
    unused: tuple[str, ...]
    data_hash: str
    media_hash: str
    fast: bool

    def counts(self) -> dict[str, int]:
        """Return the number of videos by kind of problem."""
        return dict(sorted(Counter(problem.kind for problem in self.problems).items()))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "task": self.task,
            "samples": self.samples,
            "videos": self.videos,
            "problem_counts": self.counts(),
            "problems": [
                {"video": p.video, "kind": p.kind, "detail": p.detail, "samples": p.samples} for p in self.problems
            ],
            "degenerate": list(self.degenerate),
            "unused": list(self.unused),
            "data_hash": self.data_hash,
            "media_hash": self.media_hash,
            "media_hash_covers": "names and sizes" if self.fast else "names, sizes and contents",
        }


async def check_task(
    data: TaskData,
    *,
    decoder: str = "pyav",
    workers: int = 2,
    timeout_s: float = 60.0,
    fast: bool = False,
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> Preparation:
    """Probe every video of a task and hash what is there.

    Args:
        data: the task with its samples.
        decoder: registry name of the decoder that probes.
        workers: probing processes.
        timeout_s: longest time one probe may take.
        fast: leave the contents of the videos out of the hash.
        seen: told how many of how many videos are done.
    """
    samples = Counter(sample.video for sample in data.samples)
    durations = {sample.video: sample.duration for sample in data.samples}
    probes = DecodeWorkers(workers, timeout_s)
    reader = probes.reader(data.videos, decoder)
    gate = asyncio.Semaphore(_PROBES_AT_A_TIME)
    problems: list[Problem] = []
    files: dict[str, Path] = {}
    done = 0

    async def check(video: str) -> None:
        nonlocal done
        async with gate:
            try:
                files[video] = resolve_video(data.videos, video)
                extent = await reader.extent(video)
                problem = _compare(video, durations[video], extent.duration, samples[video])
            except MediaError as error:
                problem = Problem(video, error.kind, str(error), samples[video])
        if problem is not None:
            problems.append(problem)
        done += 1
        seen(done, len(samples))

    try:
        await asyncio.gather(*(check(video) for video in samples))
    finally:
        probes.close()
    return Preparation(
        task=data.task.name,
        samples=len(data.samples),
        videos=len(samples),
        problems=tuple(sorted(problems, key=lambda problem: (problem.kind, problem.video))),
        degenerate=tuple(
            sample.id for sample in data.samples if any(start >= end for start, end in sample.target.windows)
        ),
        unused=_unused(data.videos, files.values()),
        data_hash=data.data_hash,
        media_hash=_media_hash(files, fast=fast),
        fast=fast,
    )


def _compare(video: str, annotated: float | None, probed: float, samples: int) -> Problem | None:
    if not lengths.differ(annotated, probed):
        return None
    detail = f"annotated as {annotated:.2f} s, the file has {probed:.2f} s"
    return Problem(video, "duration-mismatch", detail, samples)


def _unused(folder: Path, used: Iterable[Path]) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    known = set(used)
    return tuple(
        sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and path.resolve() not in known
        )
    )


def _media_hash(files: dict[str, Path], *, fast: bool) -> str:
    total = hashlib.sha256()
    for video, path in sorted(files.items()):
        if not path.is_file():
            continue  # A folder, or a pipe that would never end, under a video's name: already named as a problem.
        content = "" if fast else hash_file(path)
        total.update(f"{video}\0{path.stat().st_size}\0{content}\n".encode("utf-8", "surrogatepass"))
    return total.hexdigest()[:16]


def samples_lost(data: TaskData, preparation: Preparation) -> tuple[Sample, ...]:
    """Return the samples that cannot be answered because their video is missing or unreadable."""
    broken = {problem.video for problem in preparation.problems if problem.kind != "duration-mismatch"}
    return tuple(sample for sample in data.samples if sample.video in broken)
