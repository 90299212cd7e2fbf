"""Read and write MTVR's files: JSON lists of records in four forms. Every fault names file, record and field.

Strict where the forms are documented, lenient where the published files are known to differ: CoT records name no data
source (the file's name does), Tool-RL's is another spelling, clips stand as text, and an optional field may be there
and be null. Fields that no form knows are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vital_eval.atomic import write_atomically
from vital_eval.errors import DataError
from vital_eval.record import loads_strictly
from vital_eval.span import Window
from vital_eval.tasks.annotations import Record

from .records import CotRecord, Form, Media, MtvrRecord, RlRecord, ToolCotRecord
from .sources import MtvrSources, read_sources

_MEND = "compare the file with MTVR's release"
_NUMBER = r"[-+]?(?:[0-9]{1,300}(?:\.[0-9]{0,300})?|\.[0-9]{1,300})(?:[eE][-+]?[0-9]{1,3})?"
_PAIR = re.compile(rf"\s*[(\[]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[)\]]\s*")


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
    sources = read_sources()
    return tuple(
        CotRecord(**entry.shared(path, data_source, sources), solution=entry.verbatim("solution"))
        for entry in _entries(path)
    )


def read_rl(path: Path, data_source: str | None = None) -> tuple[RlRecord, ...]:
    """Read a file of ``MTVR_RL`` or ``MTVR_Tool_RL``; each record's reward needs a data source.

    Args:
        path: a JSON list of records.
        data_source: of records that name none.

    Raises:
        DataError: as :func:`read_cot`; also if no data source is to be found.
    """
    sources = read_sources()
    return tuple(_rl_record(entry, path, data_source, sources) for entry in _entries(path))


def read_tool_cot(path: Path, data_source: str | None = None) -> tuple[ToolCotRecord, ...]:
    """Read a file of ``MTVR_Tool_CoT``; ``tool_params`` is text such as "(1.82, 8.94)" and is never evaluated.

    Args:
        path: a JSON list of records.
        data_source: of records that name none.

    Raises:
        DataError: as :func:`read_cot`.
    """
    sources = read_sources()
    return tuple(
        ToolCotRecord(
            **entry.shared(path, data_source, sources),
            turns=entry.turns("solution"),
            tool_params=entry.pair("tool_params"),
            answer=entry.answer("answer"),
        )
        for entry in _entries(path)
    )


_READERS: Mapping[Form, Callable[[Path, str | None], tuple[MtvrRecord, ...]]] = {
    Form.COT: read_cot,
    Form.RL: read_rl,
    Form.TOOL_COT: read_tool_cot,
    Form.TOOL_RL: read_rl,
}


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
    return _READERS[form](path, data_source)


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


def _rl_record(entry: _Entry, path: Path, data_source: str | None, sources: MtvrSources) -> RlRecord:
    found = RlRecord(**entry.shared(path, data_source, sources), solution=entry.answer("solution"))
    if found.data_source is None:
        raise entry.fault("field 'data_source' is missing, so no reward can be chosen")
    return found


class _Entry(Record):
    """A record as read."""

    __slots__ = ()

    def fault(self, problem: str) -> DataError:
        """Return the error that says what is wrong with this record."""
        return DataError(f"{self.where}: {problem}", _MEND)

    def stated(self, name: str) -> Any:
        """Return an optional field, ``None`` where it is missing or null (some converters add nulls)."""
        return self.fields.get(name)

    def verbatim(self, name: str) -> str:
        """Return a text exactly as it stands; training depends on its white space."""
        return self._verbatim(self.value(name), name)

    def shared(self, path: Path, data_source: str | None, sources: MtvrSources) -> dict[str, Any]:
        """Return the fields of :class:`~.records.MtvrRecord`."""
        return {
            "id": self.key("id"),
            "text": self.verbatim("text"),
            "media": self._media(),
            "duration": None if self.stated("duration") is None else self.duration(),
            "data_source": self._data_source(path, data_source, sources),
            "video_kwargs": self._video_kwargs(),
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

    def _media(self) -> Media:
        video, image = self.stated("video"), self.stated("image")
        if (video is None) == (image is None):
            raise self.fault("it must have one of the fields 'video' and 'image'")
        return Media("image", self.verbatim("image")) if video is None else Media("video", self.verbatim("video"))

    def _data_source(self, path: Path, given: str | None, sources: MtvrSources) -> str | None:
        name = self.stated("data_source")
        if name is None:
            name = given
        if name is None:
            return sources.of_file(path.stem)
        known = sources.canonical(self._verbatim(name, "data_source"))
        if known is None:
            names = ", ".join([*sources.data_sources, *sources.aliases])
            raise DataError(f"{self.where}: data source {name!r:.60} is not known", f"known are {names}")
        return known

    def _video_kwargs(self) -> dict[str, Any] | None:
        value = self.stated("video_kwargs")
        if value is not None and not isinstance(value, dict):
            raise self.fault(f"field 'video_kwargs' must be an object, got {value!r:.60}")
        return value

    def _verbatim(self, value: Any, name: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.fault(f"field {name!r} must be a text, got {value!r:.60}")
        return value


def _entries(path: Path) -> Iterator[_Entry]:
    try:
        content = loads_strictly(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "put the file of MTVR there") from error
    except OSError as error:
        raise DataError(f"cannot read {path} ({error})", "check the file") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error})", "download it again") from error
    if not isinstance(content, list):
        raise DataError(f"{path} must hold a list of records", _MEND)
    for index, fields in enumerate(content):
        where = f"{path}, record {index}"
        if not isinstance(fields, dict):
            raise DataError(f"{where} must be an object", _MEND)
        yield _Entry(fields, where)
