"""What others report for the same benchmarks: shown beside a board, never ranked with what was measured here."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vital_eval.errors import DataError, MissingExtraError
from vital_eval.registry import Registry
from vital_eval.statistics.means import Estimate

from .packaged import CONFIDENCES, check_fields, check_task, load_packaged, objects, text_of
from .tables import TextTable, clean
from .training_data import TrainedOn, read_register, remark_on

PUBLISHED_TITLE = "Reported elsewhere, not measured here"

PUBLISHED_NOTE = (
    "Figures in percent as their sources print them. Frames, prompts, splits and subsets differ or are not known, so "
    "they are not comparable with the measured rows and stand in no order of merit. Confidence: first-hand is the "
    "authors' or the benchmark's own statement, copied is one paper's figure in another's table, second-hand was read "
    "in notes about a paper. Floors are what an answerer without a model scores on the whole official split."
)

_FILE, _FLOOR_FILE = "published.json", "published_floors.json"


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """One figure that somebody else reports.

    Attributes:
        task: registry name; ``None`` for a mean over several benchmarks.
        metric: the task's official metric where the figure is one of them, else the name as printed.
        value: percent, as printed.
        model: who answered.
        setting: what is known about how.
        source: where the figure was read.
        confidence: one of :data:`CONFIDENCES`.
    """

    task: str | None
    metric: str
    value: float
    model: str
    setting: str
    source: str
    confidence: str


@dataclass(frozen=True, slots=True)
class PublishedFloor:
    """What an answerer without a model scores on an official split.

    Attributes:
        task: registry name.
        name: the answerer: ``whole video`` or ``most frequent letter``.
        metric: name of the metric, as in :class:`PublishedResult`.
        value: percent.
        source: what it was worked out from.
    """

    task: str
    name: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True, slots=True)
class OfficialSplits:
    """Known sizes and floors of the official splits.

    Attributes:
        samples: task to number of samples, where it is known for certain.
        floors: see :class:`PublishedFloor`.
    """

    samples: Mapping[str, int]
    floors: tuple[PublishedFloor, ...]


def read_published() -> tuple[PublishedResult, ...]:
    """Read the figures that come with the package.

    Raises:
        DataError: if an entry is not in the form of :class:`PublishedResult`; the entry is named.
    """
    return published_from_json(load_packaged(_FILE), Registry("task").names())


def read_official_splits() -> OfficialSplits:
    """Read the known sizes and floors of the official splits.

    Raises:
        DataError: if an entry is not in the form of :class:`PublishedFloor`; the entry is named.
    """
    return official_splits_from_json(load_packaged(_FLOOR_FILE), Registry("task").names())


def published_from_json(data: Any, tasks: Collection[str]) -> tuple[PublishedResult, ...]:
    """Check the data of ``published.json``.

    Args:
        data: a list of objects with the fields of :class:`PublishedResult`.
        tasks: registry names that exist.

    Raises:
        DataError: if a field is missing, unknown or empty, the task is not known, the value is not a number in
            [-100, 100], or the confidence is none of :data:`CONFIDENCES`.
    """
    results = []
    for place, entry in objects(data, _FILE):
        fields = ("metric", "model", "setting", "source", "confidence")
        check_fields(entry, ("task", "value", *fields), place)
        if entry["task"] is not None:
            check_task(entry["task"], tasks, place)
        texts = {name: text_of(entry, name, place) for name in fields}
        if texts["confidence"] not in CONFIDENCES:
            raise DataError(f"{place}: confidence {texts['confidence']!r}", f"use {', '.join(CONFIDENCES)}")
        results.append(PublishedResult(task=entry["task"], value=_percent(entry, place), **texts))
    return tuple(results)


def official_splits_from_json(data: Any, tasks: Collection[str]) -> OfficialSplits:
    """Check the data of ``published_floors.json``.

    Args:
        data: an object with ``samples`` (task to whole number) and ``floors`` (a list of objects with the fields of
            :class:`PublishedFloor`).
        tasks: registry names that exist.

    Raises:
        DataError: as :func:`published_from_json`.
    """
    if not isinstance(data, dict) or set(data) != {"samples", "floors"} or not isinstance(data["samples"], dict):
        raise DataError(f"{_FLOOR_FILE} is not an object with the fields samples and floors")
    for task, count in data["samples"].items():
        check_task(task, tasks, f"{_FLOOR_FILE}, samples")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise DataError(f"{_FLOOR_FILE}, samples: {task} has {count!r}, not a number of samples")
    floors = []
    for place, entry in objects(data["floors"], _FLOOR_FILE):
        fields = ("name", "metric", "source")
        check_fields(entry, ("task", "value", *fields), place)
        check_task(entry["task"], tasks, place)
        texts = {name: text_of(entry, name, place) for name in fields}
        floors.append(PublishedFloor(task=entry["task"], value=_percent(entry, place), **texts))
    return OfficialSplits(data["samples"], tuple(floors))


def published_tables(tasks: Sequence[str], floors: Mapping[str, Mapping[str, Estimate]]) -> tuple[TextTable, ...]:
    """Return one table per benchmark for which anything is reported elsewhere.

    A figure below what an answerer without a model scores says so. Figures of other metrics than the floors' and
    means over several benchmarks are compared with nothing.

    Args:
        tasks: registry names, in the order of the tables; tasks without a reported figure have no table.
        floors: task to name of an answerer without a model to its headline metric on the samples of the board. Used
            only where these are as many as the official split has, and where that split's floor is not known anyway.

    Raises:
        DataError: if the data that comes with the package is damaged.
    """
    results, splits, registry = read_published(), read_official_splits(), Registry("task")
    register = read_register()
    tables = []
    for task in tasks:
        inside = [result for result in results if result.task == task]
        if not inside:
            continue
        title, primary = _title_and_primary(registry, task)
        known = [floor for floor in splits.floors if floor.task == task]
        known += _board_floors(task, primary, floors.get(task, {}), splits, known)
        tables.append(_table(title, inside, known, register))
    return tuple(tables)


def _title_and_primary(registry: Registry, task: str) -> tuple[str, str]:
    try:
        found = registry.load(task)
    except MissingExtraError:
        return (task, "")  # A table needs no task's optional packages; the registry name will do.
    return (found.title, found.primary)


def _board_floors(
    task: str, primary: str, measured: Mapping[str, Estimate], splits: OfficialSplits, known: Iterable[PublishedFloor]
) -> list[PublishedFloor]:
    taken = {floor.name for floor in known if floor.metric == primary}
    return [
        PublishedFloor(task, name, primary, 100 * floor.value, "this board")
        for name, floor in measured.items()
        if floor.value is not None and floor.n == splits.samples.get(task) and name not in taken
    ]


def _table(
    title: str,
    results: Sequence[PublishedResult],
    floors: Sequence[PublishedFloor],
    register: Sequence[TrainedOn],
) -> TextTable:
    rows = [
        (
            result.model,
            result.metric,
            result.setting,
            result.source,
            result.confidence,
            f"{result.value:g}",
            "; ".join(filter(None, (_remark(result, floors), remark_on(register, result.model, result.task or "")))),
        )
        for result in results
    ]
    header = ("model", "metric", "setting", "source", "confidence", "value", "remark")
    cleaned = tuple(tuple(clean(text) for text in row) for row in rows)
    return TextTable(f"{PUBLISHED_TITLE}: {clean(title)}", PUBLISHED_NOTE, header, cleaned, 5)


def _remark(result: PublishedResult, floors: Sequence[PublishedFloor]) -> str:
    above = [floor for floor in floors if floor.metric == result.metric and result.value < floor.value]
    if not above:
        return ""
    highest = max(above, key=lambda floor: floor.value)
    return f"below the {highest.name.replace(' ', '-')} floor {highest.value:.1f}"


def _percent(entry: Mapping[str, Any], place: str) -> float:
    value = entry["value"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not -100 <= value <= 100:
        raise DataError(f"{place}: value must be a number in percent, found {value!r:.80}")
    return float(value)
