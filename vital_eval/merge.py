"""Puts the shards of one run together into one ordinary run folder, without holding all records in memory.

The logs are read twice: once to find out which line counts for every attempt that is owed (about twenty bytes each are
kept), once to copy those lines, byte for byte and in the manifest's order, and to work out the figures of one task and
mode after the other.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Self

from vital_eval.atomic import sync_folder
from vital_eval.data_root import Shard, TaskData, parse_shard, select
from vital_eval.errors import DataError, RunLogError
from vital_eval.generation import FinishReason
from vital_eval.line_file import disk_is_full
from vital_eval.manifest import Entry, Manifest, differing, write_manifest
from vital_eval.outcome import Outcome
from vital_eval.progress import infra_kind
from vital_eval.record import Record, loads_strictly, record_from_json
from vital_eval.record_stream import StoredRecord, stream_records
from vital_eval.run_log import RECORDS_NAME
from vital_eval.shards import merge_shards
from vital_eval.summary import Baselines, CellSummary, Summary, summarise, write_summary
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

#: Attempts that are owed because nobody has a record of them, beside the kinds of infrastructure failure.
NO_RECORD = "no record"

#: So many owed attempts are named, the rest is counted.
NAMED = 20

#: Logs that are open at a time; a job array may have more parts than a process may have open files.
_OPEN_FILES = 64

_NOWHERE = -1
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Whole:
    """What the shards are parts of.

    Attributes:
        manifest: of the whole run.
        missing: the shards that were not given, as ``"i/n"``.
        unlike: circumstances in which the shards differ and the manifest says what the first shard says: names of
            packages, ``"git_commit"``.
    """

    manifest: Manifest
    missing: tuple[str, ...]
    unlike: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of a merge.

    Attributes:
        summary: figures of the merged run.
        records: lines written.
        repeated: attempts that two folders hold with equal content.
        total: attempts in the whole run.
        owed: what holds an attempt back (:data:`NO_RECORD`, or the kind of infrastructure failure) to its number.
        named: the first :data:`NAMED` attempts that are owed, in words.
    """

    summary: Summary
    records: int
    repeated: int
    total: int
    owed: Mapping[str, int]
    named: tuple[str, ...]


def whole_manifest(shards: Mapping[str, Manifest], tasks: Mapping[str, TaskData] | None = None) -> Whole:
    """Work out the manifest that one process doing all of the work would have written.

    Several folders may hold the same shard (a copy that was resumed elsewhere).

    Args:
        shards: manifest of every folder, by the name used in messages.
        tasks: the run's tasks with all their samples, by name. With them samples stand in the task's order, and the
            samples of shards that are missing are owed; without, samples stand shard by shard, and all shards must be
            there.

    Raises:
        RunLogError: if a run is no shard, the shards differ in more than their samples (the fields are named), or a
            shard is missing and ``tasks`` was not given.
        DataError: if the annotation files are not those of the run.
    """
    parts: dict[str, str] = {}
    for name, manifest in shards.items():
        if not manifest.shard:
            raise RunLogError(f"{name} is a whole run, not a shard", "merge runs made with --shard i/n")
        twin = parts.setdefault(manifest.shard, name)
        found = differing(shards[twin], manifest)
        if found:
            raise RunLogError(
                f"{twin} and {name} are both shard {manifest.shard}, but differ in {', '.join(found)}",
                "give the one that belongs to the others",
            )
    given = {parse_shard(text): name for text, name in parts.items()}
    counts = sorted({shard.count for shard in given})
    if len(counts) > 1:
        raise RunLogError(f"the shards come from splits into {counts} parts", "give the shards of one split")
    every = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
    absent = [shard for shard in every if shard not in given]
    if tasks is None and absent:
        raise RunLogError(
            f"{_parts(absent)} missing, and only the annotation files say which samples are theirs",
            "wait for all shards, or give --data-root to merge what there is and have the rest owed",
        )
    first = shards[given[min(given, key=lambda shard: shard.index)]]
    halves = {name: (shards[name], ()) for name in parts.values()}
    if tasks is not None:
        deal = _Dealer(tasks)
        for name in parts.values():
            _check_samples(name, shards[name], deal)
        halves |= {f"shard {shard}": (deal.manifest(first, shard), ()) for shard in absent}
    manifest, _ = merge_shards(halves)
    if tasks is not None:
        manifest = deal.manifest(manifest, None)
    everyone = shards.values()
    unlike = {name for one in everyone for name in one.packages.keys() | first.packages.keys()}
    unlike = {name for name in unlike if len({one.packages.get(name) for one in everyone}) > 1}
    commits = ("git_commit",) if len({one.git_commit for one in everyone}) > 1 else ()
    created = min(one.created for one in everyone)
    return Whole(
        dataclasses.replace(manifest, created=created),
        tuple(str(shard) for shard in absent),
        (*sorted(unlike), *commits),
    )


def write_merged(out: Path, runs: Mapping[Path, Manifest], manifest: Manifest, baselines: Baselines) -> Merged:
    """Write the merged run folder, all of it or nothing; what is merged is only read.

    Args:
        out: the new run folder; it must not exist.
        runs: folder of every shard to its manifest.
        manifest: of the whole, from :func:`whole_manifest`.
        baselines: what trivial answerers score on all samples; may be empty.

    Raises:
        RunLogError: if ``out`` exists or cannot be written, a log is damaged, two folders have different records of
            the same attempt, or there is no record at all.
    """
    if out.exists():
        raise RunLogError(f"{out} exists", "choose another folder, or remove it")
    for folder in runs:
        if out.resolve().is_relative_to(folder.resolve()):
            raise RunLogError(f"{out} lies inside {folder}, which is only read", "choose another folder")
    index = _Index(tuple(runs), manifest)
    for number, (folder, own) in enumerate(runs.items()):
        for stored in stream_records(folder, own):
            index.add(number, stored)
    if not index.records:
        raise RunLogError("none of the shards holds a record", "run them first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise RunLogError(f"cannot write beside {out}: {error.strerror}") from error
    try:
        temporary.chmod(0o755)
        merged = _write(temporary, index, manifest, baselines)
        # The end of the run was that of its last shard, not that of the merge.
        latest = max(path.stat().st_mtime_ns for path in map(_records, runs) if path.exists())
        os.utime(temporary / RECORDS_NAME, ns=(latest, latest))
        temporary.rename(out)
    except OSError as error:
        shutil.rmtree(temporary)
        if disk_is_full(error):
            raise RunLogError(f"disk full while writing {out}; nothing of it was kept", "free space") from error
        raise RunLogError(f"cannot write {out}: {error.strerror}; nothing of it was kept") from error
    except BaseException:
        shutil.rmtree(temporary)
        raise
    sync_folder(out.parent)
    return merged


def figures_only(record: Record) -> Record:
    """Return the part of a record that :func:`vital_eval.summary.summarise` looks at: no texts, no frame times."""
    calls = tuple((call.name, call.error) for call in record.trajectory.tool_calls)
    return dataclasses.replace(
        record,
        task=sys.intern(record.task),
        protocol=sys.intern(record.protocol),
        reason=sys.intern(record.reason),
        scores={sys.intern(name): score for name, score in record.scores.items()},
        answer=None,
        attributes=_NOTHING,
        strata=record.strata or _NOTHING,
        trajectory=_calls_only(record.trajectory.stop, calls),
    )


@lru_cache(maxsize=1024)
def _calls_only(stop: StopReason, calls: tuple[tuple[str, str], ...]) -> Trajectory:
    turns = (Turn("", FinishReason.STOP_STRING, 0, 0, 0, 0, 0.0, ToolCall("", *call, "")) for call in calls)
    return Trajectory(tuple(turns), stop, None, (), 0.0)


class _Dealer:
    """Deals samples to shards as runs do; every task is dealt once for all its modes."""

    def __init__(self, tasks: Mapping[str, TaskData]) -> None:
        self.tasks = tasks
        self._dealt: dict[tuple[str, int | None, str | None], tuple[tuple[str, str], ...]] = {}

    def pairs(self, task: str, limit: int | None, shard: str | None) -> tuple[tuple[str, str], ...]:
        """Return id and cluster of every sample of a shard, of the whole run if it is ``None``."""
        key = (task, limit, shard)
        if key not in self._dealt:
            chosen = select(self.tasks[task].samples, limit, None if shard is None else parse_shard(shard))
            self._dealt[key] = tuple((sample.id, sample.cluster) for sample in chosen)
        return self._dealt[key]

    def manifest(self, like: Manifest, shard: Shard | None) -> Manifest:
        """Return the manifest of a shard, or of the whole, that is otherwise as another."""
        text = None if shard is None else str(shard)
        entries = tuple(
            dataclasses.replace(entry, samples=self.pairs(entry.task, like.limit, text)) for entry in like.entries
        )
        return dataclasses.replace(like, entries=entries, shard=text)


def _check_samples(name: str, manifest: Manifest, deal: _Dealer) -> None:
    for entry in manifest.entries:
        found = deal.tasks[entry.task].data_hash
        if found != entry.data_hash:
            raise DataError(
                f"the annotation files of {entry.task} hash to {found}, {name} was made with {entry.data_hash}",
                "give the data root that the run was made with",
            )
        if deal.pairs(entry.task, manifest.limit, manifest.shard) != entry.samples:
            raise DataError(
                f"shard {manifest.shard} of task {entry.task} in {name} has other samples than today's task deals it",
                "merge with the version of vital-eval and the plugins that made the run",
            )


def _parts(shards: Sequence[Shard]) -> str:
    shown = ", ".join(str(shard) for shard in shards[:NAMED])
    more = f" and {len(shards) - NAMED} more" if len(shards) > NAMED else ""
    return f"shard {shown} is" if len(shards) == 1 else f"shards {shown}{more} are"


class _Index:
    """Which line of which log counts for every attempt that is owed."""

    def __init__(self, folders: Sequence[Path], manifest: Manifest) -> None:
        self.folders = folders
        self.repeated = 0
        self.records = 0
        self._attempts = manifest.attempts
        self._positions = {
            entry.task: {identity: position for position, (identity, _) in enumerate(entry.samples)}
            for entry in manifest.entries
        }
        self._starts: dict[tuple[str, str], int] = {}
        size = 0
        for entry in manifest.entries:
            self._starts[entry.key] = size
            size += len(entry.samples) * manifest.attempts
        self.size = size
        self._source = array("i", [_NOWHERE]) * size
        self._offset = array("q", [0]) * size
        self._length = array("q", [0]) * size
        self._failed = bytearray(size)

    def add(self, source: int, stored: StoredRecord) -> None:
        """Take in one line.

        An answered attempt counts before one that failed by infrastructure, wherever the two lie.

        Raises:
            RunLogError: if there is a different record of the attempt already.
        """
        record = stored.record
        position = self._positions[record.task][record.sample_id]
        slot = self._starts[record.task, record.protocol] + position * self._attempts + record.attempt
        failed = record.outcome is Outcome.INFRA_FAILED
        earlier = self._source[slot]
        if earlier != _NOWHERE and not self._failed[slot]:
            if earlier == source or not failed:
                self._compare(slot, source, stored)
            return
        if earlier not in (_NOWHERE, source) and failed:
            return
        self.records += earlier == _NOWHERE
        self._source[slot], self._offset[slot], self._length[slot] = source, stored.offset, stored.length
        self._failed[slot] = failed

    def lines(self, entry: Entry) -> Iterator[tuple[str, int, tuple[int, int, int] | None]]:
        """Yield every attempt owed in an entry: sample, number, and source, offset and length of its line."""
        slot = self._starts[entry.key]
        for identity, _ in entry.samples:
            for attempt in range(self._attempts):
                found = None
                if self._source[slot] != _NOWHERE:
                    found = (self._source[slot], self._offset[slot], self._length[slot])
                yield identity, attempt, found
                slot += 1

    def _compare(self, slot: int, source: int, stored: StoredRecord) -> None:
        earlier = self._source[slot]
        path, other = _records(self.folders[earlier]), _records(self.folders[source])
        record = stored.record
        if earlier == source:
            raise RunLogError(
                f"{other}, line {stored.number}: second record of {record.task} {record.sample_id!r} attempt "
                f"{record.attempt}",
                "restore the file from a copy",
            )
        with path.open("rb") as file:
            file.seek(self._offset[slot])
            line = file.read(self._length[slot])
        if record_from_json(loads_strictly(line)) != record:
            raise RunLogError(
                f"{path}, line {_line_number(path, self._offset[slot])}, and {other}, line {stored.number}, hold "
                f"different records of {record.task} {record.mode.value} {record.sample_id!r} attempt {record.attempt}",
                "a run answers every attempt once; leave one of the two folders out",
            )
        self.repeated += 1


class _Lines:
    """Reads lines of many files at their places, with few of the files open at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: dict[int, BinaryIO] = {}

    def read(self, source: int, offset: int, length: int) -> bytes:
        if source not in self._open:
            if len(self._open) == _OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._open[source] = self._paths[source].open("rb")
        file = self._open[source]
        file.seek(offset)
        return file.read(length)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.close()


def _write(folder: Path, index: _Index, manifest: Manifest, baselines: Baselines) -> Merged:
    write_manifest(folder, manifest)
    cells: list[CellSummary] = []
    owed: Counter[str] = Counter()
    named: list[str] = []
    with (folder / RECORDS_NAME).open("xb") as file, _Lines([_records(run) for run in index.folders]) as lines:
        for entry in manifest.entries:
            records = []
            for identity, attempt, place in index.lines(entry):
                kind = NO_RECORD
                if place is not None:
                    line = lines.read(*place)
                    file.write(line)
                    record = record_from_json(loads_strictly(line))
                    records.append(figures_only(record))
                    kind = infra_kind(record) if record.outcome is Outcome.INFRA_FAILED else ""
                if kind:
                    owed[kind] += 1
                    if len(named) < NAMED:
                        number = f" attempt {attempt}" if manifest.attempts > 1 else ""
                        named.append(f"{entry.task} {entry.protocol.mode.value} {identity}{number}: {kind}")
            # Cell by cell, so that the figures of one of them are in memory at a time.
            cells += summarise(dataclasses.replace(manifest, entries=(entry,)), records).cells
        file.flush()
        os.fsync(file.fileno())
    nothing = summarise(dataclasses.replace(manifest, entries=()), (), baselines)
    summary = dataclasses.replace(nothing, cells=tuple(cells), complete=all(cell.complete for cell in cells))
    write_summary(folder, summary)
    return Merged(summary, index.records, index.repeated, index.size, dict(owed.most_common()), tuple(named))


def _line_number(path: Path, offset: int) -> int:
    with path.open("rb") as file:
        return file.read(offset).count(b"\n") + 1


def _records(folder: Path) -> Path:
    return folder / RECORDS_NAME
