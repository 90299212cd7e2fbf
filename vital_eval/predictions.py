"""Prediction files made elsewhere: read into typed records; what cannot be used is named and counted, never dropped.

Three forms are taken: a JSON object from id to prediction, a JSON list of records, and JSON Lines of records. A
prediction is a text, a number, a list of windows, or an object with ``answer``, ``span``, ``spans`` or ``text``;
records name their question by the benchmark's official field or by ``id``.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from vital_eval.errors import DataError
from vital_eval.span import Window
from vital_eval.task import SubmissionForm

#: Field that names the question in records without an official form.
IDENTITY = "id"

#: More of an id helps nobody.
_SHOWN_CHARACTERS = 80

_LARGEST = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer made elsewhere; what the file does not give is ``None``.

    Attributes:
        windows: [start, end] pairs in seconds exactly as given, reversed ones included; empty pairs left out.
        answer: letter, number or short text.
        text: what the model wrote; used only if there are neither windows nor an answer.
    """

    windows: tuple[Window, ...] | None = None
    answer: str | None = None
    text: str | None = None


class FaultKind(StrEnum):
    """What can be wrong with a part of a prediction file."""

    UNREADABLE = "unreadable"
    REPEATED = "repeated"
    CONFLICTING = "conflicting"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Fault:
    """A part of the file that does not count as it stands.

    Attributes:
        kind: unreadable (not a prediction), repeated (the same id again with the same prediction: used once),
            conflicting (the same id with another prediction: none is used) or unknown (no such question).
        where: line, record or id.
        problem: what is wrong, in a few words.
    """

    kind: FaultKind
    where: str
    problem: str


@dataclass(frozen=True, slots=True)
class PredictionFile:
    """What a file holds.

    Attributes:
        predictions: id to prediction; conflicting ones are left out.
        faults: in the order of the file.
    """

    predictions: Mapping[str, Prediction]
    faults: tuple[Fault, ...]


class _UnusableError(ValueError):
    """A value that is not a prediction."""


class _Pairs(dict[str, Any]):
    """A JSON object that remembers which keys were written more than once, and with what."""

    repeats: tuple[tuple[str, Any], ...] = ()


def read_predictions(path: Path, form: SubmissionForm | None = None) -> PredictionFile:
    """Read a prediction file.

    Args:
        path: the file; ``.jsonl`` is read line by line, anything else by what it begins with.
        form: field names of the benchmark's official records.

    Raises:
        DataError: if the file cannot be read at all, or holds no prediction.
    """
    predictions: dict[str, Prediction] = {}
    conflicting: set[str] = set()
    faults: list[Fault] = []
    for where, identity, value in _entries(path, form):
        if identity is None:
            faults.append(Fault(FaultKind.UNREADABLE, where, str(value)))
            continue
        try:
            prediction = _prediction(value, form)
        except _UnusableError as error:
            faults.append(Fault(FaultKind.UNREADABLE, f"{where}, id {shown(identity)}", str(error)))
            continue
        known = predictions.get(identity)
        if known is None and identity not in conflicting:
            predictions[identity] = prediction
        elif known == prediction:
            faults.append(
                Fault(FaultKind.REPEATED, f"{where}, id {shown(identity)}", "the same prediction again; used once")
            )
        else:
            predictions.pop(identity, None)
            conflicting.add(identity)
            problem = "another prediction for the same id; none of them is used"
            faults.append(Fault(FaultKind.CONFLICTING, f"{where}, id {shown(identity)}", problem))
    if not predictions:
        first = f" ({faults[0].where}: {faults[0].problem})" if faults else ""
        raise DataError(f"{path} holds no usable prediction{first}", "see docs/score.md for the forms that are read")
    return PredictionFile(predictions, tuple(faults))


def shown(identity: str) -> str:
    """Return an id as messages show it: cut, for a file may hold anything."""
    return identity if len(identity) <= _SHOWN_CHARACTERS else f"{identity[:_SHOWN_CHARACTERS]}..."


def _entries(path: Path, form: SubmissionForm | None) -> Iterator[tuple[str, str | None, Any]]:
    """Yield place, id and value of every entry; an id of ``None`` comes with what is wrong instead of a value."""
    try:
        with _seekable(path) as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            file.seek(0)
            if not start:
                raise DataError(f"{path} is empty", "see docs/score.md for the forms that are read")
            if path.suffix == ".jsonl" or (start.startswith(b"{") and _is_lines(file)):
                file.seek(0)
                yield from _lines(file, form)
            else:
                file.seek(0)
                yield from _document(file.read(), path, form)
    except OSError as error:
        raise DataError(f"cannot read predictions {path}: {error.strerror or error}", "check the path") from error


def _seekable(path: Path) -> BinaryIO:
    file = path.open("rb")
    if file.seekable():
        return file
    # A pipe gives what it holds once.
    with file:
        return io.BytesIO(file.read())


def _is_lines(file: BinaryIO) -> bool:
    """Tell whether the first line is a whole JSON object that others follow, or a record by itself."""
    try:
        first = _loads(file.readline())
    except ValueError:
        return False
    return isinstance(first, dict) and (bool(file.read(4096).strip()) or _is_identity(first.get(IDENTITY)))


def _lines(file: BinaryIO, form: SubmissionForm | None) -> Iterator[tuple[str, str | None, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = _loads(line)
        except ValueError as error:
            yield f"line {number}", None, f"not JSON ({error})"
            continue
        yield _record(f"line {number}", record, form)


def _document(content: bytes, path: Path, form: SubmissionForm | None) -> Iterator[tuple[str, str | None, Any]]:
    try:
        whole = _loads(content)
    except ValueError as error:
        raise DataError(f"predictions {path} are not JSON ({error})", "give JSON or JSON Lines") from error
    if isinstance(whole, list):
        for number, record in enumerate(whole):
            yield _record(f"record {number}", record, form)
    elif isinstance(whole, dict):
        for key, value in (*whole.items(), *_repeats(whole)):
            yield "object", key, value
    else:
        raise DataError(f"predictions {path} must be a JSON object or a list of records", "see docs/score.md")


def _repeats(whole: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return whole.repeats if isinstance(whole, _Pairs) else ()


def _record(where: str, record: Any, form: SubmissionForm | None) -> tuple[str, str | None, Any]:
    if not isinstance(record, dict):
        return where, None, f"{record!r:.60} is not an object"
    names = (form.identity, IDENTITY) if form else (IDENTITY,)
    for name in names:
        if _is_identity(record.get(name)):
            return where, str(record[name]), record
    return where, None, f"no field {' or '.join(repr(name) for name in names)} that names the question"


def _is_identity(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _loads(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_pairs)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    # The first of equal keys stays, the others are remembered.
    whole, repeats = _Pairs(), []
    for key, value in pairs:
        if key in whole:
            repeats.append((key, value))
        else:
            whole[key] = value
    whole.repeats = tuple(repeats)
    return whole


def _prediction(value: Any, form: SubmissionForm | None) -> Prediction:
    if isinstance(value, str):
        return Prediction(text=value)
    if isinstance(value, list):
        return Prediction(windows=_windows(value))
    if isinstance(value, dict):
        return _from_fields(value, form)
    return Prediction(answer=_short(value))


def _from_fields(fields: dict[str, Any], form: SubmissionForm | None) -> Prediction:
    if repeats := _repeats(fields):
        raise _UnusableError(f"field {repeats[0][0]!r:.60} is written twice")
    official = form if form is not None and form.identity in fields else SubmissionForm("")
    names = [name for name in ("answer", "span", "spans", "text", official.windows, official.answer) if name in fields]
    if not names:
        raise _UnusableError("none of the fields answer, span, spans and text")
    windows: dict[tuple[Window, ...], str] = {}
    answers: dict[str, str] = {}
    for name in dict.fromkeys(names):
        value = fields[name]
        if value is None or name == "text":
            continue
        if name in ("span", "spans", official.windows) or isinstance(value, list):
            windows.setdefault(_windows(value, scored=name == official.windows), name)
        else:
            answers.setdefault(_short(value), name)
    for found in (windows, answers):
        if len(found) > 1:
            raise _UnusableError(f"the fields {' and '.join(map(repr, found.values()))} disagree")
    text = fields.get("text")
    if text is not None and not isinstance(text, str):
        raise _UnusableError(f"field 'text' must be a text, got {text!r:.60}")
    return Prediction(next(iter(windows), None), next(iter(answers), None), text)


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value
    if _is_finite(value):
        return repr(value)
    raise _UnusableError(f"{value!r:.60} is neither a text nor a number")


def _windows(value: Any, *, scored: bool = False) -> tuple[Window, ...]:
    if not isinstance(value, list):
        raise _UnusableError(f"{value!r:.60} is not a list of [start, end] pairs")
    pairs = [value] if len(value) == 2 and not isinstance(value[0], list) else value
    # Released files write "nothing predicted" as [] or as [[]].
    return tuple(_window(pair, scored=scored) for pair in pairs if pair != [])


def _window(pair: Any, *, scored: bool) -> Window:
    if scored and isinstance(pair, list) and len(pair) == 3 and _is_finite(pair[2]):
        # Official records may carry a score behind the times; the official scripts cut it off.
        pair = pair[:2]
    if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_finite, pair)):
        raise _UnusableError(f"{pair!r:.60} is not a [start, end] pair of finite numbers")
    return (float(pair[0]), float(pair[1]))


def _is_finite(value: Any) -> bool:
    # A whole number of JSON may be beyond every float.
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def summarise_faults(faults: Sequence[Fault]) -> dict[FaultKind, int]:
    """Count faults by kind; kinds that do not occur are left out."""
    counts = {kind: sum(fault.kind is kind for fault in faults) for kind in FaultKind}
    return {kind: count for kind, count in counts.items() if count}
