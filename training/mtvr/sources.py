"""Where MTVR's records come from: data sources, files and how many records each holds, with how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from vital_eval.errors import DataError
from vital_eval.record import loads_strictly

from .records import Form

_FILE = "mtvr_sources.json"

#: How a fact is known: read in the released code; counted over the hub's files by somebody else's notebook; read off
#: a file name in a script; read in notes about the paper; concluded from the others.
CONFIDENCES = ("code", "counted", "file-name", "second-hand", "inference")


class Problem(StrEnum):
    """What has to be answered; it decides how a right answer is written."""

    GROUNDING = "grounding"
    GROUNDED_QA = "grounded-qa"
    MULTIPLE_CHOICE = "multiple-choice"
    NUMERICAL = "numerical"
    REGRESSION = "regression"
    FREE_FORM = "free-form"
    OCR = "ocr"


@dataclass(frozen=True, slots=True)
class DataSource:
    """A value of a record's field ``data_source``.

    Attributes:
        name: as records write it.
        problem: what has to be answered.
        source: where this was read.
        confidence: one of :data:`CONFIDENCES`.
    """

    name: str
    problem: Problem
    source: str
    confidence: str


@dataclass(frozen=True, slots=True)
class Alias:
    """Another spelling that the published files use.

    Attributes:
        name: as records write it.
        means: name of a :class:`DataSource`.
        source: where this was read.
        confidence: one of :data:`CONFIDENCES`.
    """

    name: str
    means: str
    source: str
    confidence: str


@dataclass(frozen=True, slots=True)
class MtvrFile:
    """One file of the hub.

    Attributes:
        form: its folder.
        name: file name without ``.json``.
        data_source: of its records where they name none; ``None`` where the file mixes several.
        records: how many it holds; ``None`` where no count was found.
        exact: whether ``records`` is a count and not a round number.
        source: where the count was read.
        confidence: one of :data:`CONFIDENCES`.
    """

    form: Form
    name: str
    data_source: str | None
    records: int | None
    exact: bool
    source: str
    confidence: str


@dataclass(frozen=True, slots=True)
class MtvrSources:
    """What is known of MTVR.

    Attributes:
        data_sources: by name.
        aliases: by name.
        files: every file of the hub.
    """

    data_sources: Mapping[str, DataSource]
    aliases: Mapping[str, Alias]
    files: tuple[MtvrFile, ...]

    def canonical(self, name: str) -> str | None:
        """Return the name of a data source, aliases replaced; ``None`` if it is not known."""
        name = self.aliases[name].means if name in self.aliases else name
        return name if name in self.data_sources else None

    def of_file(self, name: str) -> str | None:
        """Return the data source that a file's name (without ``.json``) stands for, if it stands for one."""
        return next((file.data_source for file in self.files if file.name == name), None)

    def problem(self, data_source: str | None) -> Problem | None:
        """Return what a data source asks for; ``None`` if it is not known."""
        known = self.data_sources.get(data_source) if data_source is not None else None
        return known.problem if known else None


def read_sources() -> MtvrSources:
    """Read what comes with the package.

    Raises:
        DataError: if the file is not in the form of :class:`MtvrSources`; the entry is named.
    """
    return sources_from_json(loads_strictly((files("vital_eval.training") / _FILE).read_text(encoding="utf-8")))


def sources_from_json(data: Any) -> MtvrSources:
    """Check the data of ``mtvr_sources.json``.

    Args:
        data: an object with the lists ``data_sources``, ``aliases`` and ``files``, whose entries have the fields of
            :class:`DataSource`, :class:`Alias` and :class:`MtvrFile`.

    Raises:
        DataError: if a field is missing, unknown or of the wrong type, a name stands twice, a data source that is
            named does not exist, or one file name stands for two data sources.
    """
    if not isinstance(data, dict) or set(data) != {"data_sources", "aliases", "files"}:
        raise DataError(f"{_FILE} is not an object with the lists data_sources, aliases and files")
    sources: dict[str, DataSource] = {}
    for place, entry in _entries(data, "data_sources", ("name", "problem", "source", "confidence")):
        name = _new(entry, sources, place)
        problem = _one_of(entry, "problem", [problem.value for problem in Problem], place)
        sources[name] = DataSource(name, Problem(problem), _text(entry, "source", place), _confidence(entry, place))
    aliases: dict[str, Alias] = {}
    for place, entry in _entries(data, "aliases", ("name", "means", "source", "confidence")):
        name = _new(entry, sources | aliases, place)
        means = _one_of(entry, "means", list(sources), place)
        aliases[name] = Alias(name, means, _text(entry, "source", place), _confidence(entry, place))
    return MtvrSources(MappingProxyType(sources), MappingProxyType(aliases), _files(data, sources))


def _files(data: Mapping[str, Any], sources: Mapping[str, DataSource]) -> tuple[MtvrFile, ...]:
    found: dict[tuple[str, str], MtvrFile] = {}
    meant: dict[str, str | None] = {}
    fields = ("form", "name", "data_source", "records", "exact", "source", "confidence")
    for place, entry in _entries(data, "files", fields):
        form = _one_of(entry, "form", [form.value for form in Form], place)
        name = _text(entry, "name", place)
        if (form, name) in found:
            raise DataError(f"{place}: {form}/{name} stands twice")
        data_source = None if entry["data_source"] is None else _one_of(entry, "data_source", list(sources), place)
        if meant.setdefault(name, data_source) != data_source:
            raise DataError(f"{place}: {name} stands for {meant[name]} elsewhere")
        records, exact = entry["records"], entry["exact"]
        if records is not None and (isinstance(records, bool) or not isinstance(records, int) or records < 1):
            raise DataError(f"{place}: records must be a number above 0 or null, got {records!r:.40}")
        if not isinstance(exact, bool) or (exact and records is None):
            raise DataError(f"{place}: exact must be true or false, and false without a number of records")
        found[form, name] = MtvrFile(
            Form(form), name, data_source, records, exact, _text(entry, "source", place), _confidence(entry, place)
        )
    return tuple(found.values())


def _entries(data: Mapping[str, Any], name: str, fields: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(data[name], list):
        raise DataError(f"{_FILE}: {name} is not a list")
    for index, entry in enumerate(data[name]):
        place = f"{_FILE}, {name} {index}"
        if not isinstance(entry, dict) or set(entry) != set(fields):
            raise DataError(f"{place} must have the fields {', '.join(fields)} and no others")
        yield place, entry


def _text(entry: Mapping[str, Any], name: str, place: str) -> str:
    value = entry[name]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: {name} must be a text, got {value!r:.40}")
    return value


def _one_of(entry: Mapping[str, Any], name: str, known: Sequence[str], place: str) -> str:
    value = _text(entry, name, place)
    if value not in known:
        raise DataError(f"{place}: {name} {value!r:.40} is not known", f"known are {', '.join(known)}")
    return value


def _confidence(entry: Mapping[str, Any], place: str) -> str:
    return _one_of(entry, "confidence", CONFIDENCES, place)


def _new(entry: Mapping[str, Any], taken: Mapping[str, Any], place: str) -> str:
    name = _text(entry, "name", place)
    if name in taken:
        raise DataError(f"{place}: {name} stands twice")
    return name
