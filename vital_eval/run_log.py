"""The run folder: one writer, one durable line per finished episode, resumable after any crash.

``manifest.json`` says what is owed, ``records.jsonl`` holds what is done, ``lock`` is held by the one writer.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from itertools import compress
from pathlib import Path
from types import TracebackType
from typing import Self

from vital_eval.atomic import sync_folder
from vital_eval.attempt_slots import AttemptSlots
from vital_eval.errors import RunLogError
from vital_eval.folder_lock import LOCK_NAME, take_lock
from vital_eval.line_file import LineFile, disk_is_full, stream_lines
from vital_eval.manifest import MANIFEST_NAME, Manifest, differing, read_manifest, write_manifest
from vital_eval.outcome import Outcome
from vital_eval.record import Key, Record, record_from_json, record_to_line

RECORDS_NAME = "records.jsonl"


class RunLog:
    """The one writer of a run folder. Use :meth:`open`; it is a context manager.

    Appending is safe from several threads of the process.
    """

    def __init__(self, folder: Path, manifest: Manifest, lock: int, lines: LineFile, answered: _Answered):
        self._folder = folder
        self._manifest = manifest
        self._lock: int | None = lock
        self._lines = lines
        self._answered = answered
        self._mutex = threading.Lock()
        # A forked child shares the lock. Were it to outlive a killed run (an orphaned decoder), nobody could resume.
        log = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _let_go(log()))

    @classmethod
    def open(cls, folder: Path, manifest: Manifest) -> RunLog:
        """Start a run in ``folder``, or resume the one that is there.

        A torn last line (no line end, or not JSON: the machine died while it was written) is cut off; its
        episode is owed again.

        Raises:
            RunLogError: if another process writes the run, the folder holds something that is not a run or a run
                with another specification (the fields are named), a line before the last is damaged, a record
                occurs twice, or the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            strange = sorted(path.name for path in folder.iterdir() if not _is_beginning(path.name))
        except OSError as error:
            raise RunLogError(f"cannot use {folder} as a run folder: {error.strerror}") from error
        if strange and not (folder / MANIFEST_NAME).exists():
            raise RunLogError(
                f"{folder} is not empty and not a run (it holds {strange[0]!r} but no {MANIFEST_NAME})",
                "choose a new folder; vital-eval never writes into a stranger's",
            )
        lock = take_lock(folder, RunLogError)
        try:
            return cls._open_locked(folder, manifest, lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _open_locked(cls, folder: Path, manifest: Manifest, lock: int) -> RunLog:
        path = folder / RECORDS_NAME
        try:
            if (folder / MANIFEST_NAME).exists():
                stored = read_manifest(folder)
                fields = differing(stored, manifest)
                if fields:
                    raise RunLogError(
                        f"{folder} holds a run with another specification, which differs in {', '.join(fields)}",
                        "choose another folder, or restore the old settings to resume",
                    )
                # The stored one stays: created, packages and commit tell how the run began.
                manifest = stored
            else:
                write_manifest(folder, manifest)
            lines = LineFile(path, lock=False)  # The lock on the folder holds for it.
        except OSError as error:
            raise _write_error(folder, error) from error
        try:
            answered = _Answered(AttemptSlots(manifest.entries, manifest.attempts))
            with path.open("rb") as file:
                ends = (end for _, end in _checked_records(file, path, answered))
                whole = max(ends, default=0)
            lines.begin(whole, None)
            with contextlib.suppress(PermissionError):
                sync_folder(folder.parent)  # The name of a new run folder; a parent we may not read is not ours.
        except OSError as error:
            lines.close()
            raise _write_error(path, error) from error
        except BaseException:
            lines.close()
            raise
        return cls(folder, manifest, lock, lines, answered)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self._folder

    @property
    def manifest(self) -> Manifest:
        """The manifest as stored; of a resumed run it is the one the run began with."""
        return self._manifest

    @property
    def records(self) -> tuple[Record, ...]:
        """The record that counts of every key, in the order in which they were first finished; read from the file.

        Raises:
            RunLogError: if the file cannot be read, or was changed by somebody else.
        """
        return _last_records(self.stream())

    def stream(self) -> Iterator[Record]:
        """Yield every record in the order of the file, one in memory at a time.

        A key whose attempt failed by infrastructure and was made again comes more than once; the last one counts.

        Raises:
            RunLogError: if the file cannot be read, or was changed by somebody else.
        """
        return _stream(self._folder / RECORDS_NAME, self._answered.slots)

    def done_keys(self) -> frozenset[Key]:
        """Return the keys that are not owed: those whose last record is not ``infra-failed``."""
        return frozenset(self._answered.keys())

    def append(self, record: Record) -> None:
        """Write one record so that neither a crash nor a power cut can take it back.

        Raises:
            RunLogError: if the record is not owed (unknown task, protocol or sample; already done), or cannot be
                written. Nothing half-written stays behind, and the log can be used on.
            ValueError: if a number in the record is not finite.
        """
        line = record_to_line(record).encode("ascii")
        with self._mutex:
            if self._lock is None:
                raise RunLogError(f"the log of {self._folder} is closed")
            try:
                self._answered.check(record)
            except RunLogError as error:
                raise RunLogError(f"{self._folder / RECORDS_NAME}: {error.problem}") from error
            try:
                self._lines.append_line(line)
            except OSError as error:
                if self._lines.closed:
                    self._release()
                raise _write_error(self._folder / RECORDS_NAME, error) from error
            self._answered.add(record)

    def close(self) -> None:
        """Give the folder free. Closing twice is fine."""
        with self._mutex:
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lines.close()
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_run(folder: Path) -> tuple[Manifest, tuple[Record, ...]]:
    """Read a run without locking or changing it; it may be running.

    Returns:
        The manifest, and the record that counts of every key. A torn last line is left out.

    Raises:
        RunLogError: if ``folder`` is not a run, a line before the last is damaged, or a record occurs twice.
    """
    manifest = read_manifest(folder)
    slots = AttemptSlots(manifest.entries, manifest.attempts)
    return manifest, _last_records(_stream(folder / RECORDS_NAME, slots))


class _Answered:
    """Which attempts of a run are answered: a byte each; the records themselves are in the file."""

    def __init__(self, slots: AttemptSlots) -> None:
        self.slots = slots
        self._flags = bytearray(slots.size)

    def check(self, record: Record) -> None:
        """Raise RunLogError if a record is not owed."""
        if self._flags[self.slots.find(record.key)]:
            raise RunLogError(f"second record of {record.task} {record.sample_id!r} attempt {record.attempt}")

    def add(self, record: Record) -> None:
        """Take in a record that is owed."""
        self._flags[self.slots.find(record.key)] = record.outcome is not Outcome.INFRA_FAILED

    def keys(self) -> Iterator[Key]:
        """Yield the keys that are answered."""
        return compress(self.slots.keys(), self._flags)


def _last_records(records: Iterable[Record]) -> tuple[Record, ...]:
    return tuple({record.key: record for record in records}.values())


def _stream(path: Path, slots: AttemptSlots) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            for record, _ in _checked_records(file, path, _Answered(slots)):
                yield record
    except FileNotFoundError:
        return  # The manifest comes first; this run has not got further.
    except OSError as error:
        raise RunLogError(f"cannot read {path}: {error.strerror}") from error


def _checked_records(lines: Iterable[bytes], path: Path, answered: _Answered) -> Iterator[tuple[Record, int]]:
    """Yield every record, taken in, with the length in bytes of the file up to its end."""

    def damaged(number: int, error: ValueError) -> RunLogError:
        return RunLogError(
            f"{path}, line {number} is damaged: {error}",
            "a crash cannot do this; restore the file from a copy, or delete the line to have it answered again",
        )

    for number, content, end in stream_lines(lines, damaged):
        try:
            record = record_from_json(content)
        except RunLogError as error:
            raise RunLogError(f"{path}, line {number}: {error.problem}", error.mend) from error
        try:
            answered.check(record)
        except RunLogError as error:
            raise RunLogError(f"{path}, line {number}: {error.problem}", "restore the file from a copy") from error
        answered.add(record)
        yield record, end


def _is_beginning(name: str) -> bool:
    # What a run that died before its manifest was in place leaves behind.
    return name == LOCK_NAME or (name.startswith(f".{MANIFEST_NAME}.") and name.endswith(".tmp"))


def _let_go(log: RunLog | None) -> None:
    if log is not None:
        with contextlib.suppress(OSError):
            log._release()


def _write_error(path: Path, error: OSError) -> RunLogError:
    if disk_is_full(error):
        return RunLogError(f"disk full while writing {path}; what was finished is safe", "free space and resume")
    return RunLogError(f"cannot write {path}: {error.strerror}; what was finished is safe", "mend this and resume")
