"""Read and write MTVR's files: JSON lists of records in four forms. Every fault names file, record and field.

Training refuses a file at its first record that is not in its form; :func:`collect_records` reads on and keeps what is
wrong with each as a value.

Strict where the forms are documented, lenient where the published files are known to differ: CoT records name no data
source (the file's name does), Tool-RL's is another spelling, clips stand as text, and an optional field may be there
and be null. Fields that no form knows are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vital_eval.atomic import write_atomically
from vital_eval.errors import DataError
from vital_eval.record import loads_strictly
from vital_eval.span import Window
from vital_eval.tasks.annotations import Record

from .records import CotRecord, Form, Media, MtvrRecord, RlRecord, ToolCotRecord
from .sources import MtvrSources, read_sources

_MEND = "compare the file with MTVR's release"
_ANSWER_MEND = "give [start, end] in seconds as numbers, or a text"
_NUMBER = r"[-+]?(?:[0-9]{1,300}(?:\.[0-9]{0,300})?|\.[0-9]{1,300})(?:[eE][-+]?[0-9]{1,3})?"
_PAIR = re.compile(rf"\s*[(\[]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[)\]]\s*")


T = TypeVar("T")
R = TypeVar("R", bound=MtvrRecord)


@dataclass(frozen=True, slots=True)
class Malformed:
    """A record that is not in the form of its file.

    Attributes:
        number: its place in the file, from 0.
        id: its id, ``""`` if that cannot be read.
        kind: ``no-object``, or ``malformed-`` and the field that is wrong; the first one, if there are several.
        problem: what is wrong with it, without its place.
        mend: what can be done about it.
    """

    number: int
    id: str
    kind: str
    problem: str
    mend: str

    def error(self, path: Path) -> DataError:
        """Return it as the error that refuses its file."""
        return DataError(
            f"{path}, record {self.number}: {self.problem}", f"{self.mend} (`data check` lists all such records)"
        )


@dataclass(frozen=True, slots=True)
class Collected:
    """All records of a file.

    Attributes:
        records: those in its form, in order.
        malformed: the others, in order.
    """

    records: tuple[MtvrRecord, ...]
    malformed: tuple[Malformed, ...]


def read_cot(path: Path, data_source: str | None = None) -> tuple[CotRecord, ...]:
    """Read a file of ``MTVR_CoT``.

    Args:
        path: a JSON list of records.
        data_source: of records that name none; without it the file's name decides, and a file that mixes problems
            (Video-R1's) leaves it open.

    Raises:
        DataError: if the file cannot be read, a record is not in the form of :class:`~.records.CotRecord`, or a data
            source is not known.
    """
    return _all_of(path, _each(path, data_source, _cot_record))


def read_rl(path: Path, data_source: str | None = None) -> tuple[RlRecord, ...]:
    """Read a file of ``MTVR_RL`` or ``MTVR_Tool_RL``; each record's reward needs a data source.

    Args:
        path: a JSON list of records.
        data_source: of records that name none.

    Raises:
        DataError: as :func:`read_cot`; also if no data source is to be found.
    """
    return _all_of(path, _each(path, data_source, _rl_record))


def read_tool_cot(path: Path, data_source: str | None = None) -> tuple[ToolCotRecord, ...]:
    """Read a file of ``MTVR_Tool_CoT``; ``tool_params`` is text such as "(1.82, 8.94)" and is never evaluated.

    Args:
        path: a JSON list of records.
        data_source: of records that name none.

    Raises:
        DataError: as :func:`read_cot`.
    """
    return _all_of(path, _each(path, data_source, _tool_cot_record))


def form_of(path: Path) -> Form:
    """Return the form of a file by the name of its folder.

    Raises:
        DataError: if the folder is none of :class:`~.records.Form`.
    """
    name = path.parent.name
    try:
        return Form(name)
    except ValueError as error:
        known = ", ".join(Form)
        raise DataError(f"{path}: the folder {name!r} names no form", f"put it into one of {known}") from error


def read_records(path: Path, form: Form, data_source: str | None = None) -> tuple[MtvrRecord, ...]:
    """Read a file of any form.

    Args:
        path: a JSON list of records.
        form: see :func:`form_of`.
        data_source: of records that name none.

    Raises:
        DataError: as the reader of the form.
    """
    return _all_of(path, _each(path, data_source, _BUILDERS[form]))


def collect_records(path: Path, form: Form, data_source: str | None = None) -> Collected:
    """Read a file of any form to its end, whatever its records are like.

    Args:
        path: a JSON list of records.
        form: see :func:`form_of`.
        data_source: of records that name none.

    Raises:
        DataError: if the file as a whole cannot be read: it is missing, no JSON, or no list.
    """
    found = tuple(_each(path, data_source, _BUILDERS[form]))
    return Collected(
        tuple(entry for entry in found if not isinstance(entry, Malformed)),
        tuple(entry for entry in found if isinstance(entry, Malformed)),
    )


def write_records(path: Path, records: Sequence[MtvrRecord]) -> None:
    """Write a file that :func:`read_records` reads as equal records.

    As in the published files, CoT records name their data source only where the file's name does not.

    Raises:
        OSError: if the folder cannot be written.
    """
    by_name = read_sources().of_file(path.stem)
    data = [_to_json(record, by_name) for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def _to_json(record: MtvrRecord, by_name: str | None) -> dict[str, Any]:
    data: dict[str, Any] = {"id": record.id, "text": record.text}
    match record:
        case CotRecord() | RlRecord():
            data["solution"] = record.solution if isinstance(record.solution, str) else list(record.solution)
        case ToolCotRecord():
            data["solution"] = list(record.turns)
            data["tool_params"] = f"({record.tool_params[0]!r}, {record.tool_params[1]!r})"
            data["answer"] = record.answer if isinstance(record.answer, str) else list(record.answer)
    data[record.media.kind] = record.media.path
    if record.duration is not None:
        data["duration"] = record.duration
    if record.data_source is not None and not (isinstance(record, CotRecord) and record.data_source == by_name):
        data["data_source"] = record.data_source
    if record.video_kwargs is not None:
        data["video_kwargs"] = dict(record.video_kwargs)
    return data


def _all_of(path: Path, found: Iterator[R | Malformed]) -> tuple[R, ...]:
    records: list[R] = []
    for entry in found:
        if isinstance(entry, Malformed):
            raise entry.error(path)
        records.append(entry)
    return tuple(records)


def _each(path: Path, data_source: str | None, build: Callable[[_Entry, _Naming], R]) -> Iterator[R | Malformed]:
    naming = _Naming(path.stem, data_source, read_sources())
    for number, fields in enumerate(_content(path)):
        if not isinstance(fields, dict):
            yield Malformed(number, "", "no-object", f"it must be an object, not {type(fields).__name__}", _MEND)
            continue
        entry = _Entry(fields, f"{path}, record {number}")
        try:
            yield build(entry, naming)
        except _FieldError as error:
            kind = f"malformed-{error.field.replace('_', '-')}"
            yield Malformed(number, entry.id_as_far_as_known(), kind, error.problem, error.mend)


@dataclass(frozen=True, slots=True)
class _Naming:
    """What says where a file's records come from.

    Attributes:
        stem: of the file's name.
        given: data source of records that name none.
        sources: what is known.
    """

    stem: str
    given: str | None
    sources: MtvrSources


def _cot_record(entry: _Entry, naming: _Naming) -> CotRecord:
    mend = "give <think>...</think><answer>...</answer> as one text"
    return CotRecord(**entry.shared(naming), solution=entry.read("solution", entry.verbatim, mend))


def _rl_record(entry: _Entry, naming: _Naming) -> RlRecord:
    found = RlRecord(**entry.shared(naming), solution=entry.read("solution", entry.answer, _ANSWER_MEND))
    if found.data_source is None:
        raise _FieldError(
            "data_source",
            "field 'data_source' is missing, so no reward can be chosen",
            "name it in the record or with --data-source",
        )
    return found


def _tool_cot_record(entry: _Entry, naming: _Naming) -> ToolCotRecord:
    return ToolCotRecord(
        **entry.shared(naming),
        turns=entry.read("solution", entry.turns, "give the two turns as a list of two texts"),
        tool_params=entry.read("tool_params", entry.pair, "give start and end in seconds as '(1.82, 8.94)'"),
        answer=entry.read("answer", entry.answer, _ANSWER_MEND),
    )


_BUILDERS: Mapping[Form, Callable[[_Entry, _Naming], MtvrRecord]] = {
    Form.COT: _cot_record,
    Form.RL: _rl_record,
    Form.TOOL_COT: _tool_cot_record,
    Form.TOOL_RL: _rl_record,
}


class _FieldError(DataError):
    """One field of one record, whose place the caller knows."""

    def __init__(self, field: str, problem: str, mend: str = "") -> None:
        super().__init__(problem, mend)
        self.field = field


class _Entry(Record):
    """A record as read."""

    __slots__ = ()

    def fault(self, problem: str) -> DataError:
        """Return the error that says what is wrong with this record, without its place."""
        return DataError(problem)

    def read(self, name: str, read: Callable[[str], T], mend: str) -> T:
        """Read a field.

        Raises:
            _FieldError: with ``mend``, unless the reader knows better.
        """
        try:
            return read(name)
        except (OverflowError, RecursionError) as error:
            raise _FieldError(name, f"field {name!r} holds what is too large or too deep ({error})", mend) from error
        except DataError as error:
            raise _FieldError(name, error.problem, error.mend or mend) from error

    def id_as_far_as_known(self) -> str:
        """Return the id for a message, ``""`` if there is none."""
        try:
            return self.key("id")
        except DataError:
            return ""

    def stated(self, name: str) -> Any:
        """Return an optional field, ``None`` where it is missing or null (some converters add nulls)."""
        return self.fields.get(name)

    def verbatim(self, name: str) -> str:
        """Return a text exactly as it stands; training depends on its white space."""
        return self._verbatim(self.value(name), name)

    def shared(self, naming: _Naming) -> dict[str, Any]:
        """Return the fields of :class:`~.records.MtvrRecord`."""
        return {
            "id": self.read("id", self.key, "give every record a text or a whole number of its own"),
            "text": self.read("text", self.verbatim, "give the whole question as text"),
            "media": self.read("media", self._media, "give the path of one video or one image as text"),
            "duration": self.read("duration", self._length, "give seconds above 0 as a number, or leave the field out"),
            "data_source": self.read("data_source", lambda name: self._data_source(name, naming), "give it as text"),
            "video_kwargs": self.read("video_kwargs", self._video_kwargs, "give an object, or leave the field out"),
        }

    def answer(self, name: str) -> Window | str:
        """Return [start, end] in seconds or a text."""
        value = self.value(name)
        return self.window(value, name) if isinstance(value, list) else self._verbatim(value, name)

    def turns(self, name: str) -> tuple[str, str]:
        """Return a list of two texts."""
        value = self.items(name)
        if len(value) != 2:
            raise self.fault(f"field {name!r} must hold two turns, got {len(value)}")
        return self._verbatim(value[0], name), self._verbatim(value[1], name)

    def pair(self, name: str) -> Window:
        """Return two numbers that stand as text in brackets, or as a list."""
        value = self.value(name)
        if isinstance(value, list):
            return self.window(value, name)
        match = _PAIR.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise self.fault(f"field {name!r} must be a text such as '(1.82, 8.94)', got {value!r:.60}")
        return self.window([float(match[1]), float(match[2])], name)

    def _media(self, _: str) -> Media:
        video, image = self.stated("video"), self.stated("image")
        if (video is None) == (image is None):
            raise self.fault("it must have one of the fields 'video' and 'image'")
        return Media("image", self.verbatim("image")) if video is None else Media("video", self.verbatim("video"))

    def _length(self, name: str) -> float | None:
        return None if self.stated(name) is None else self.duration(name)

    def _data_source(self, field: str, naming: _Naming) -> str | None:
        name = self.stated(field)
        if name is None:
            name = naming.given
        if name is None:
            return naming.sources.of_file(naming.stem)
        known = naming.sources.canonical(self._verbatim(name, field))
        if known is None:
            names = ", ".join([*naming.sources.data_sources, *naming.sources.aliases])
            raise DataError(f"data source {name!r:.60} is not known", f"known are {names}")
        return known

    def _video_kwargs(self, name: str) -> dict[str, Any] | None:
        value = self.stated(name)
        if value is not None and not isinstance(value, dict):
            raise self.fault(f"field {name!r} must be an object, got {value!r:.60}")
        return value

    def _verbatim(self, value: Any, name: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.fault(f"field {name!r} must be a text, got {value!r:.60}")
        return value


def _content(path: Path) -> Sequence[Any]:
    try:
        data = path.read_bytes()
        if not data.strip():
            raise DataError(f"{path} is not JSON (it is empty)", "download it again")
        content = loads_strictly(data)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "put the file of MTVR there") from error
    except OSError as error:
        raise DataError(f"cannot read {path} ({error})", "check the file") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error})", "download it again") from error
    if not isinstance(content, list):
        raise DataError(f"{path} must hold a list of records", _MEND)
    return content
