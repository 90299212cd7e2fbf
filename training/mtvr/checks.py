"""Check records before anything is trained on them: nothing is dropped unseen, and nothing left is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from vital_eval.errors import DataError, MediaError
from vital_eval.parsing.numbers import parse_number
from vital_eval.parsing.spans import find_spans
from vital_eval.span import Window
from vital_eval.task import Unparsed
from vital_eval.toolbox import GetVideoClipFrame, ToolError, parse_call
from vital_eval.training.rewards import ReversedSolutionError, read_solution, require_source
from vital_eval.video.resolve import resolve_video

from .records import CotRecord, MtvrRecord, RlRecord, ToolCotRecord
from .sources import MtvrSources, Problem, read_sources

R = TypeVar("R", bound=MtvrRecord)

#: Seconds by which a span may leave the video, as for tool calls in evaluation: Charades-STA's test spans do it by up
#: to 1.5 s.
TOLERANCE_SECONDS = 2.0
#: How far a call's times may be from ``tool_params``: calls are written with two decimals.
_ROUNDING = 0.01
_EXAMPLES = 3
_TAG = re.compile(r"</?(?:think|tool_call|answer)>")


class Fault(StrEnum):
    """What can be wrong with a record."""

    DUPLICATE_ID = "duplicate-id"
    UNKNOWN_SOURCE = "unknown-source"
    MISSING_MEDIA = "missing-media"
    OUTSIDE_MEDIA_ROOT = "outside-media-root"
    REVERSED_SPAN = "reversed-span"
    SPAN_OUTSIDE_VIDEO = "span-outside-video"
    WRONG_FORM = "wrong-form"
    WRONG_CALL = "wrong-call"
    UNREADABLE_ANSWER = "unreadable-answer"
    HALF_CHARACTER = "half-character"


@dataclass(frozen=True, slots=True)
class CheckReport(Generic[R]):
    """What a check found.

    Attributes:
        total: records looked at.
        kept: records without a fault, in order.
        counts: faults to how many records have them; a record may have several.
        examples: faults to the first few cases, each with the record's id.
    """

    total: int
    kept: tuple[R, ...]
    counts: Mapping[Fault, int]
    examples: Mapping[Fault, tuple[str, ...]]

    def summary(self) -> str:
        """Return one line for people: how many are kept, and what is wrong with the others."""
        line = f"{len(self.kept)} of {self.total} records kept"
        faults = [f"{fault} {count} (such as {self.examples[fault][0]})" for fault, count in self.counts.items()]
        return f"{line}; {', '.join(faults)}" if faults else line


def check_records(
    records: Sequence[R], media_root: Path | None, tolerance_seconds: float = TOLERANCE_SECONDS
) -> CheckReport[R]:
    """Check the records of one file.

    Args:
        records: as read.
        media_root: folder below which videos and images lie; ``None`` leaves them unchecked (MTVR publishes
            annotations only).
        tolerance_seconds: how far a span may leave the video.

    Raises:
        DataError: if no record is left, because training on nothing would pass unseen.
    """
    sources = read_sources()
    seen: set[str] = set()
    kept: list[R] = []
    counts: dict[Fault, int] = {}
    examples: dict[Fault, list[str]] = {}
    for record in records:
        found = list(_faults(record, media_root, tolerance_seconds, sources))
        if record.id in seen:
            found.append((Fault.DUPLICATE_ID, "the id stands twice"))
        seen.add(record.id)
        if not found:
            kept.append(record)
        # Once a record, with the first detail.
        for fault, detail in dict(reversed(found)).items():
            counts[fault] = counts.get(fault, 0) + 1
            cases = examples.setdefault(fault, [])
            if len(cases) < _EXAMPLES:
                cases.append(f"{record.id}: {detail}")
    report = CheckReport(
        len(records),
        tuple(kept),
        {fault: counts[fault] for fault in Fault if fault in counts},
        {fault: tuple(cases) for fault, cases in examples.items()},
    )
    if not kept:
        raise DataError(f"nothing to train on: {report.summary()}", "mend the records or the media folder")
    return report


def thought_and(tag: str, turn: str) -> tuple[str, str] | None:
    """Take a turn apart that is a thought and then one other part, with nothing but white space around them.

    Args:
        tag: name of the other part, ``answer`` or ``tool_call``.
        turn: what the model is to say.

    Returns:
        Both texts as they stand, or ``None`` if the turn has another form or one of them is empty.
    """
    marks = list(_TAG.finditer(turn))
    if [mark[0] for mark in marks] != ["<think>", "</think>", f"<{tag}>", f"</{tag}>"]:
        return None
    edges = [0, *(edge for mark in marks for edge in mark.span()), len(turn)]
    outside, thought, between, other, after = (turn[edges[i] : edges[i + 1]] for i in range(0, 10, 2))
    if (outside + between + after).strip() or not thought.strip() or not other.strip():
        return None
    return thought, other


def _faults(
    record: MtvrRecord, media_root: Path | None, tolerance: float, sources: MtvrSources
) -> Iterator[tuple[Fault, str]]:
    problem = sources.problem(record.data_source)
    if record.data_source is not None and problem is None:
        yield Fault.UNKNOWN_SOURCE, f"data source {record.data_source!r:.60}"
    if media_root is not None:
        yield from _media_faults(record, media_root)
    try:
        f"{record.id}{record.text}{record.media.path}".encode()
    except UnicodeEncodeError:
        yield Fault.HALF_CHARACTER, "half a character stands in its id, text or path"
    match record:
        case CotRecord():
            parts = thought_and("answer", record.solution)
            if parts is None:
                yield Fault.WRONG_FORM, "the solution is not a thought and then an answer"
            else:
                yield from _answer_faults(parts[1], problem, record.duration, tolerance)
        case RlRecord():
            yield from _solution_faults(record.solution, record, problem, tolerance)
        case ToolCotRecord():
            yield from _span_faults(record.tool_params, record.duration, tolerance)
            yield from _solution_faults(record.answer, record, problem, tolerance)
            yield from _turn_faults(record, problem, tolerance)


def _media_faults(record: MtvrRecord, media_root: Path) -> Iterator[tuple[Fault, str]]:
    try:
        resolve_video(media_root, record.media.path)
    except MediaError as error:
        outside = error.kind == "outside-root"
        yield Fault.OUTSIDE_MEDIA_ROOT if outside else Fault.MISSING_MEDIA, error.problem


def _turn_faults(record: ToolCotRecord, problem: Problem | None, tolerance: float) -> Iterator[tuple[Fault, str]]:
    first, last = thought_and("tool_call", record.turns[0]), thought_and("answer", record.turns[1])
    if first is None:
        yield Fault.WRONG_FORM, "the first turn is not a thought and then a tool call"
    else:
        yield from _call_faults(first[1], record.tool_params)
    if last is None:
        yield Fault.WRONG_FORM, "the second turn is not a thought and then an answer"
    else:
        yield from _answer_faults(last[1], problem, record.duration, tolerance)


def _call_faults(call: str, params: Window) -> Iterator[tuple[Fault, str]]:
    try:
        name, arguments = parse_call(call)
    except ToolError as error:
        yield Fault.WRONG_CALL, error.message
        return
    if name != GetVideoClipFrame.name:
        yield Fault.WRONG_CALL, f"the call names {name!r:.60}"
        return
    for key, wanted in zip(("start_time", "end_time"), params, strict=True):
        value = arguments.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield Fault.WRONG_CALL, f"{key} must be a number, got {value!r:.60}"
        elif not abs(value - wanted) <= _ROUNDING:
            yield Fault.WRONG_CALL, f"{key} {value!r:.60} is not the {wanted} of tool_params"


def _solution_faults(
    solution: Window | str, record: MtvrRecord, problem: Problem | None, tolerance: float
) -> Iterator[tuple[Fault, str]]:
    """Find what keeps a solution from being rewarded, by the function that reads it for training."""
    if record.data_source is None or problem is None:
        if not isinstance(solution, str):
            yield from _span_faults(solution, record.duration, tolerance)
        return
    try:
        target = read_solution(require_source(record.data_source), solution)
    except ReversedSolutionError as error:
        yield Fault.REVERSED_SPAN, error.problem
    except DataError as error:
        yield Fault.UNREADABLE_ANSWER, error.problem
    else:
        for window in target.windows:
            yield from _span_faults(window, record.duration, tolerance)


def _answer_faults(
    answer: str, problem: Problem | None, duration: float | None, tolerance: float
) -> Iterator[tuple[Fault, str]]:
    if problem in {Problem.GROUNDING, Problem.GROUNDED_QA}:
        stated = find_spans(answer)
        if not stated:
            yield Fault.UNREADABLE_ANSWER, f"no span can be read from {answer!r:.60}"
        for span in stated:
            yield from _span_faults(span.window, duration, tolerance)
    elif problem in {Problem.NUMERICAL, Problem.REGRESSION} and isinstance(parse_number(answer), Unparsed):
        yield Fault.UNREADABLE_ANSWER, f"no number can be read from {answer!r:.60}"


def _span_faults(window: Window, duration: float | None, tolerance: float) -> Iterator[tuple[Fault, str]]:
    start, end = window
    if start >= end:
        yield Fault.REVERSED_SPAN, f"{start} is not before {end}"
    if start < -tolerance or (duration is not None and end > duration + tolerance):
        where = "the video" if duration is None else f"the {duration} s of the video"
        yield Fault.SPAN_OUTSIDE_VIDEO, f"{start} to {end} leaves {where}"
