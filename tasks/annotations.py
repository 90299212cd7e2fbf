"""Read official annotation files into typed records; every fault names the file, the record and the field."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vital_eval.errors import DataError
from vital_eval.sample import Sample, option_letter
from vital_eval.span import Window

_LETTERED = re.compile(r"\s*\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an annotation file.

    Attributes:
        fields: the record as read.
        where: file and record, for messages.
    """

    fields: Mapping[str, Any]
    where: str

    def fault(self, problem: str) -> DataError:
        """Return the error that says what is wrong with this record."""
        return DataError(f"{self.where}: {problem}", "compare the file with the benchmark's official release")

    def value(self, name: str) -> Any:
        """Return a field that must be there, whatever its type."""
        if name not in self.fields:
            raise self.fault(f"field {name!r} is missing")
        return self.fields[name]

    def text(self, name: str) -> str:
        """Return a text that is not empty, outer white space stripped."""
        value = self.value(name)
        if not isinstance(value, str) or not value.strip():
            raise self.fault(f"field {name!r} must be a text, got {value!r:.60}")
        return value.strip()

    def key(self, name: str) -> str:
        """Return an identifier: a whole number or a text."""
        value = self.value(name)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(name)

    def number(self, name: str) -> float:
        """Return a finite number; a number written as text is a fault, because tools compare durations."""
        return self._finite(self.value(name), name)

    def duration(self, name: str = "duration") -> float:
        """Return a length in seconds, above 0."""
        value = self.number(name)
        if value <= 0:
            raise self.fault(f"field {name!r} must be above 0, got {value}")
        return value

    def items(self, name: str) -> Sequence[Any]:
        """Return a list."""
        value = self.value(name)
        if not isinstance(value, list):
            raise self.fault(f"field {name!r} must be a list, got {value!r:.60}")
        return value

    def windows(self, name: str) -> tuple[Window, ...]:
        """Return a list of [start, end] pairs in seconds exactly as annotated, degenerate ones included."""
        return tuple(self.window(pair, name) for pair in self.items(name))

    def window(self, pair: Any, name: str) -> Window:
        """Return one [start, end] pair in seconds."""
        if not isinstance(pair, list) or len(pair) != 2:
            raise self.fault(f"field {name!r} must hold [start, end] pairs, got {pair!r:.60}")
        return (self._finite(pair[0], name), self._finite(pair[1], name))

    def options(self, name: str) -> tuple[str, ...]:
        """Return option texts, without the letters that some files write before them ("A. ...")."""
        texts = []
        for item in self.items(name):
            if not isinstance(item, str):
                raise self.fault(f"field {name!r} must hold texts, got {item!r:.60}")
            texts.append(item.strip())
        if len(texts) > 26:
            raise self.fault(f"field {name!r} holds {len(texts)} options, more than there are letters")
        return without_letters(texts)

    def letter(self, name: str, options: Sequence[str]) -> str:
        """Return the letter of one of ``options``."""
        value = self.text(name)
        if value not in [option_letter(index) for index in range(len(options))]:
            raise self.fault(f"field {name!r} must be the letter of one of {len(options)} options, got {value!r:.60}")
        return value

    def _finite(self, value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault(f"field {name!r} must be a finite number, got {value!r:.60}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf  # A whole number of more than 308 digits.
        if not math.isfinite(number):
            raise self.fault(f"field {name!r} must be a finite number, got {value!r:.60}")
        return number


def without_letters(texts: Sequence[str]) -> tuple[str, ...]:
    """Remove "A. ", "B. " ... if every option carries its own letter; otherwise return the texts unchanged."""
    matches = [_LETTERED.fullmatch(text) for text in texts]
    if all(match and match[1] == option_letter(index) for index, match in enumerate(matches)):
        return tuple(match[2].strip() for match in matches if match)
    return tuple(texts)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    try:
        return json.loads(_read(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error})", "download it again") from error


def read_records(path: Path) -> Iterator[Record]:
    """Return the records of a JSON file that holds a list of objects."""
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path} must hold a list of records", "compare it with the benchmark's official release")
    for index, fields in enumerate(content):
        yield record(fields, path, index)


def read_mapping(path: Path) -> Iterator[tuple[str, Record]]:
    """Return key and record for a JSON file that holds an object of objects."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold an object", "compare it with the benchmark's official release")
    for key, fields in content.items():
        yield key, record(fields, path, key)


def read_lines(path: Path) -> Iterator[Record]:
    """Return the records of a JSON Lines file; empty lines are skipped."""
    # Not splitlines(): JSON texts may hold Unicode line separators.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{path}, line {number} is not JSON ({error})", "download the file again") from error
        yield record(fields, path, number)


def read_csv(path: Path) -> Iterator[Record]:
    """Return the rows of a CSV file with a heading; every field is a text."""
    for index, row in enumerate(csv.DictReader(io.StringIO(_read(path), newline=""))):
        yield record({name: value for name, value in row.items() if name is not None}, path, index)


def read_hub_rows(folder: Path, stem: str) -> Iterator[Record]:
    """Return the rows of a hub file that is there as ``<stem>.jsonl`` or ``<stem>.parquet`` (JSON Lines go first)."""
    lines, table = folder / f"{stem}.jsonl", folder / f"{stem}.parquet"
    if lines.is_file():
        yield from read_lines(lines)
    elif table.is_file():
        yield from _read_parquet(table)
    else:
        raise _missing(lines, f" (or {table.name})")


def has_hub_rows(folder: Path, stem: str) -> bool:
    """Tell whether :func:`read_hub_rows` would find a file."""
    return any((folder / f"{stem}{suffix}").is_file() for suffix in (".jsonl", ".parquet"))


def record(fields: Any, path: Path, key: str | int) -> Record:
    """Return a record, or raise if it is not an object."""
    where = f"{path}, record {key}"
    if not isinstance(fields, dict):
        raise DataError(f"{where} must be an object", "compare the file with the benchmark's official release")
    return Record(fields, where)


def video_path(source: Record, path: str) -> str:
    """Return a video path that stays below the task's ``videos/`` folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise source.fault(f"{path!r:.80} is not a path inside the videos folder")
    return "/".join(parts)


def checked(samples: Iterable[Sample], folder: Path) -> tuple[Sample, ...]:
    """Return the samples if there are any and their ids are unique."""
    by_id: dict[str, Sample] = {}
    for sample in samples:
        if sample.id in by_id:
            raise DataError(f"{folder}: sample {sample.id} of {sample.task} appears twice", "remove the duplicate")
        by_id[sample.id] = sample
    if not by_id:
        raise DataError(f"{folder}: the annotation files hold no samples", "download them again")
    return tuple(by_id.values())


def _read(path: Path) -> str:
    try:
        # newline="" keeps line ends inside quoted CSV fields.
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error})", "check the file") from error


def _missing(path: Path, alternative: str = "") -> DataError:
    return DataError(
        f"annotation file {path}{alternative} does not exist",
        "put the benchmark's official file there, or give another data root",
    )


def _read_parquet(path: Path) -> Iterator[Record]:
    # Only hub files need pyarrow; importing a task must stay cheap.
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} is not a Parquet file ({error})", "download it again") from error
    for index, fields in enumerate(rows):
        yield record(fields, path, index)
