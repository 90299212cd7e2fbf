"""Reads a run record by record, so that a million of them need no more memory than one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vital_eval.errors import RunLogError
from vital_eval.manifest import Manifest
from vital_eval.record import Record, loads_strictly, record_from_json
from vital_eval.run_log import RECORDS_NAME


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One line of a run log and where it lies.

    Attributes:
        record: what it holds.
        number: of the line, from 1.
        offset: bytes before the line.
        length: bytes of the line, its end included.
    """

    record: Record
    number: int
    offset: int
    length: int


def stream_records(folder: Path, manifest: Manifest) -> Iterator[StoredRecord]:
    """Yield every line of a run's log in its order; the run may be running.

    :func:`vital_eval.run_log.read_run` gives one record per key; here a key whose attempt failed by infrastructure and
    was answered later comes twice. A torn last line is left out.

    Args:
        folder: the run folder.
        manifest: its manifest.

    Raises:
        RunLogError: if the log cannot be read, a line before the last is damaged, or a record is not part of the run.
    """
    path = folder / RECORDS_NAME
    owed = {entry.key: frozenset(identity for identity, _ in entry.samples) for entry in manifest.entries}
    offset = 0
    torn: RunLogError | None = None
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if torn is not None:
                    raise torn
                try:
                    content = loads_strictly(line)
                except ValueError as error:
                    # Only if this is not the last line; a crash leaves nothing else behind.
                    torn = RunLogError(
                        f"{path}, line {number} is damaged: {error}",
                        "a crash cannot do this; restore the file from a copy, or delete the line",
                    )
                    continue
                if not line.endswith(b"\n"):
                    return
                yield StoredRecord(_checked(content, owed, manifest.attempts, path, number), number, offset, len(line))
                offset += len(line)
    except FileNotFoundError:
        return  # The manifest comes first; this run has not got further.
    except OSError as error:
        raise RunLogError(f"cannot read {path}: {error.strerror}") from error


def _checked(
    content: object, owed: dict[tuple[str, str], frozenset[str]], attempts: int, path: Path, number: int
) -> Record:
    try:
        if not isinstance(content, dict):
            raise RunLogError("not a record: not an object")
        record = record_from_json(content)
    except RunLogError as error:
        raise RunLogError(f"{path}, line {number}: {error.problem}", error.mend) from error
    if record.sample_id not in owed.get((record.task, record.protocol), ()) or record.attempt >= attempts:
        raise RunLogError(
            f"{path}, line {number}: attempt {record.attempt} at sample {record.sample_id!r} of task {record.task} "
            f"under protocol {record.protocol} is not part of the run",
            "restore the file from a copy",
        )
    return record
