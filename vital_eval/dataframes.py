"""A run as tables for analysis: one row per record, per turn and per tool call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vital_eval.manifest import Manifest
from vital_eval.record import Record
from vital_eval.run_log import read_run
from vital_eval.trajectory import ToolCall, Turn

if TYPE_CHECKING:
    import pandas as pd

_WHOLE, _NUMBER, _OBJECT = "int64", "float64", "object"
_TEXT, _FLAG = "text", "bool"

#: Column name, its dtype, and the value it takes from a row's source.
_Column = tuple[str, str, Callable[[Any], Any]]

_RECORD_COLUMNS: tuple[_Column, ...] = (
    ("task", _TEXT, lambda record: record.task),
    ("mode", _TEXT, lambda record: record.mode.value),
    ("protocol", _TEXT, lambda record: record.protocol),
    ("sample_id", _TEXT, lambda record: record.sample_id),
    ("attempt", _WHOLE, lambda record: record.attempt),
    ("cluster", _TEXT, lambda record: record.cluster),
    ("outcome", _TEXT, lambda record: record.outcome.value),
    ("reason", _TEXT, lambda record: record.reason),
    ("answer_text", _TEXT, lambda record: record.trajectory.answer_text),
    ("letter", _TEXT, lambda record: record.answer.letter if record.answer else None),
    ("number", _NUMBER, lambda record: _or_nan(record.answer.number if record.answer else None)),
    ("start", _NUMBER, lambda record: record.answer.spans[0].start if _spans(record) else math.nan),
    ("end", _NUMBER, lambda record: record.answer.spans[0].end if _spans(record) else math.nan),
    ("spans", _OBJECT, lambda record: tuple(span.as_window() for span in _spans(record))),
    ("seconds", _NUMBER, lambda record: record.trajectory.seconds),
    ("frames", _WHOLE, lambda record: _frames(record)),
    ("visual_tokens", _WHOLE, lambda record: max((turn.visual_tokens for turn in record.trajectory.turns), default=0)),
    ("new_tokens", _WHOLE, lambda record: sum(turn.new_tokens for turn in record.trajectory.turns)),
    ("n_turns", _WHOLE, lambda record: len(record.trajectory.turns)),
    ("n_calls", _WHOLE, lambda record: len(record.trajectory.tool_calls)),
    ("stop", _TEXT, lambda record: record.trajectory.stop.value),
    ("error", _TEXT, lambda record: record.trajectory.error),
    ("duration", _NUMBER, lambda record: record.trajectory.duration),
    ("file_duration", _NUMBER, lambda record: _or_nan(record.trajectory.file_duration)),
    ("began", _NUMBER, lambda record: _or_nan(record.trajectory.began)),
    ("open_seconds", _NUMBER, lambda record: _or_nan(record.trajectory.open_seconds)),
    ("decode_seconds", _NUMBER, lambda record: _or_nan(record.trajectory.decode_seconds)),
    ("unfinished_turn_began", _NUMBER, lambda record: _or_nan(record.trajectory.unfinished_turn_began)),
)

#: What names the record that a turn or a call belongs to, and its place there.
_KEY_COLUMNS: tuple[_Column, ...] = (
    ("task", _TEXT, lambda row: row[0].task),
    ("mode", _TEXT, lambda row: row[0].mode.value),
    ("protocol", _TEXT, lambda row: row[0].protocol),
    ("sample_id", _TEXT, lambda row: row[0].sample_id),
    ("attempt", _WHOLE, lambda row: row[0].attempt),
    ("turn", _WHOLE, lambda row: row[1]),
)

_TURN_COLUMNS: tuple[_Column, ...] = (
    *_KEY_COLUMNS,
    ("text", _TEXT, lambda row: row[2].text),
    ("finish", _TEXT, lambda row: row[2].finish.value),
    ("prompt_tokens", _WHOLE, lambda row: row[2].prompt_tokens),
    ("cached_tokens", _WHOLE, lambda row: row[2].cached_tokens),
    ("visual_tokens", _WHOLE, lambda row: row[2].visual_tokens),
    ("new_tokens", _WHOLE, lambda row: row[2].new_tokens),
    ("seconds", _NUMBER, lambda row: row[2].seconds),
    ("called", _FLAG, lambda row: row[2].tool_call is not None),
    ("anomalies", _OBJECT, lambda row: row[2].anomalies),
    ("began", _NUMBER, lambda row: _or_nan(row[2].began)),
    ("queue_seconds", _NUMBER, lambda row: _or_nan(row[2].queue_seconds)),
    ("prefill_seconds", _NUMBER, lambda row: _or_nan(row[2].prefill_seconds)),
)

_CALL_COLUMNS: tuple[_Column, ...] = (
    *_KEY_COLUMNS,
    ("name", _TEXT, lambda row: row[2].name),
    ("succeeded", _FLAG, lambda row: row[2].succeeded),
    ("error", _TEXT, lambda row: row[2].error),
    ("start", _NUMBER, lambda row: row[2].span[0] if row[2].span else math.nan),
    ("end", _NUMBER, lambda row: row[2].span[1] if row[2].span else math.nan),
    ("frames", _WHOLE, lambda row: len(row[2].frame_times)),
    ("notes", _OBJECT, lambda row: row[2].notes),
    ("message", _TEXT, lambda row: row[2].message),
    ("raw", _TEXT, lambda row: row[2].raw),
    ("seconds", _NUMBER, lambda row: _or_nan(row[2].seconds)),
)


@dataclass(frozen=True, slots=True, eq=False)
class RunFrames:
    """A run as data frames. Columns and dtypes do not depend on how far the run has got.

    Texts are nullable strings that may hold anything a model can write, lone surrogates included (file formats that
    demand UTF-8 refuse those; replace them before writing). Numbers that do not exist are NaN. ``turn`` counts from 0.

    Attributes:
        manifest: what was to be answered.
        records: a row per attempt that was made: ``task``, ``mode``, ``protocol`` (its hash), ``sample_id``,
            ``attempt``, ``cluster``, ``outcome``, ``reason``, ``answer_text``, ``letter``, ``number``, ``start`` and
            ``end`` (seconds, of the first span), ``spans`` (a tuple of ``(start, end)``), ``seconds``, ``frames``
            (those of tool calls included), ``visual_tokens`` (in the last turn's context), ``new_tokens``,
            ``n_turns``, ``n_calls``, ``stop``, ``error``, ``duration`` (seconds, as the model was told),
            ``file_duration`` (seconds, as probed; NaN: not opened), and the episode's times ``began``,
            ``open_seconds``, ``decode_seconds`` and ``unfinished_turn_began``, which like all times are explained in
            :mod:`vital_eval.trajectory` (NaN: not measured); then ``score.<key>`` for every score in [0, 1] (NaN: out
            of that metric's denominator, or a score of other tasks) and ``attribute.<name>`` for every fact about
            samples (missing where a task does not know it). Attributes come from the records, so a run without any has
            none.
        turns: a row per turn the model wrote.
        calls: a row per tool call.
    """

    manifest: Manifest
    records: pd.DataFrame
    turns: pd.DataFrame
    calls: pd.DataFrame

    def __repr__(self) -> str:
        """Return one line; the manifest alone would fill pages."""
        sizes = f"{len(self.records)} records, {len(self.turns)} turns, {len(self.calls)} calls"
        return f"RunFrames({self.manifest.label!r}, {sizes})"


def load_run(path: str | Path) -> RunFrames:
    """Load a run folder; see :func:`vital_eval.load_run`.

    Raises:
        RunLogError: if ``path`` is not a run, a line before the last is damaged, or a record occurs twice.
    """
    manifest, records = read_run(Path(path))
    turns = [(record, place, turn) for record in records for place, turn in enumerate(record.trajectory.turns)]
    calls = [(record, place, turn.tool_call) for record, place, turn in turns if turn.tool_call is not None]
    return RunFrames(manifest, _records(manifest, records), _turns(turns), _calls(calls))


def _records(manifest: Manifest, records: Sequence[Record]) -> pd.DataFrame:
    # The manifest comes first, so that a run that has only begun has the columns of a finished one.
    scores = list(dict.fromkeys(key for entry in manifest.entries for key in entry.metrics.values()))
    scores += sorted({key for record in records for key in record.scores} - set(scores))
    # Sorted, for the order of the records is the order in which episodes happened to end.
    attributes = sorted({name for record in records for name in record.attributes})
    columns = [
        *_RECORD_COLUMNS,
        *((f"score.{key}", _NUMBER, _score(key)) for key in scores),
        *((f"attribute.{name}", _TEXT, _attribute(name)) for name in attributes),
    ]
    return _frame(columns, records)


def _turns(rows: Sequence[tuple[Record, int, Turn]]) -> pd.DataFrame:
    return _frame(_TURN_COLUMNS, rows)


def _calls(rows: Sequence[tuple[Record, int, ToolCall]]) -> pd.DataFrame:
    return _frame(_CALL_COLUMNS, rows)


def _frame(columns: Iterable[_Column], rows: Sequence[Any]) -> pd.DataFrame:
    import pandas as pd

    # Stored as Python texts: Arrow's would refuse the lone surrogates that a model can write.
    text = pd.StringDtype("python")
    return pd.DataFrame(
        {
            name: pd.Series([value(row) for row in rows], dtype=text if dtype == _TEXT else dtype)
            for name, dtype, value in columns
        }
    )


def _score(key: str) -> Callable[[Record], float]:
    return lambda record: _or_nan(record.scores.get(key))


def _attribute(name: str) -> Callable[[Record], str | None]:
    return lambda record: record.attributes.get(name)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _spans(record: Record) -> tuple[Any, ...]:
    return record.answer.spans if record.answer else ()


def _frames(record: Record) -> int:
    trajectory = record.trajectory
    return len(trajectory.frame_times) + sum(len(call.frame_times) for call in trajectory.tool_calls)
