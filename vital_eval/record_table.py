"""What figures need of records, in columns: a few bytes an attempt, whatever the records hold."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vital_eval.errors import RunLogError
from vital_eval.manifest import Entry
from vital_eval.outcome import Outcome
from vital_eval.record import Record

_T = TypeVar("_T")

_OUTCOMES = tuple(Outcome)
_INFRA_FAILED = 1 + _OUTCOMES.index(Outcome.INFRA_FAILED)
_ANSWERED = 1 + _OUTCOMES.index(Outcome.ANSWERED)


@dataclass(slots=True)
class ToolCounts:
    """Tool calls of the attempts that are not ``infra-failed``.

    Attributes:
        attempts: how many these are.
        using: attempts with at least one call.
        calls: calls written.
        errors: error code to number of calls.
    """

    attempts: int = 0
    using: int = 0
    calls: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Count one attempt."""
        calls = record.trajectory.tool_calls
        self.attempts += 1
        self.using += bool(calls)
        self.calls += len(calls)
        self.errors.update(call.error for call in calls if not call.succeeded)


@dataclass(frozen=True, slots=True)
class Column:
    """What one metric averages: one row per sample that counts, in the manifest's order.

    Attributes:
        positions: of the samples in the manifest's list.
        values: mean score over the attempts at each, in [0, 1].
        paths: strata of the metric; ``()`` for a plain mean.
    """

    positions: array[int]
    values: array[float]
    paths: list[tuple[str, ...]]


class RecordTable:
    """The records of one entry without their texts and times.

    An attempt takes 5 bytes, 8 for every score that a metric averages and 4 for every metric that averages over strata.

    Args:
        entry: the task under the protocol.
        attempts: answers wanted per sample.
        metrics: names of the entry's metrics that will be asked for.

    Attributes:
        tools: see :class:`ToolCounts`.
    """

    def __init__(self, entry: Entry, attempts: int, metrics: Collection[str]) -> None:
        self._entry, self._attempts = entry, attempts
        size = len(entry.samples) * attempts
        #: 0 without a record, else one more than the place of the outcome in the enumeration.
        self._outcomes = bytearray(size)
        self._reasons, self._reason_names = array("i", [0]) * size, _Names[str]()
        self._scores = {entry.metrics[metric]: array("d", [0.0]) * size for metric in metrics}
        #: Path 0 is that of a metric that does not average over strata.
        self._paths = _Names[tuple[str, ...]]()
        self._paths.number(())
        self._strata: dict[str, array[int]] = {}
        self._metrics = tuple(metrics)
        self.tools = ToolCounts()

    def put(self, slot: int, record: Record) -> None:
        """Take in the record of an attempt, in place of one that failed by infrastructure.

        Args:
            slot: its number within the entry (:class:`~vital_eval.attempt_slots.AttemptSlots`).
            record: what became of it.

        Raises:
            RunLogError: if there is a record already that did not fail by infrastructure.
        """
        if self._outcomes[slot] not in (0, _INFRA_FAILED):
            raise RunLogError(f"second record of {record.task} {record.sample_id!r} attempt {record.attempt}")
        self._outcomes[slot] = 1 + _OUTCOMES.index(record.outcome)
        self._reasons[slot] = self._reason_names.number(record.reason)
        for name, scores in self._scores.items():
            score = record.scores[name]
            scores[slot] = math.nan if score is None else score  # NaN is no score that a record may hold.
        for metric in self._metrics:
            path = record.strata.get(metric, ())
            if path and metric not in self._strata:
                self._strata[metric] = array("i", [0]) * len(self._outcomes)
            if metric in self._strata:
                self._strata[metric][slot] = self._paths.number(path)
        if record.outcome is not Outcome.INFRA_FAILED:
            self.tools.add(record)

    @property
    def records(self) -> int:
        """Number of attempts with a record."""
        return len(self._outcomes) - self._outcomes.count(0)

    def count(self, outcome: Outcome) -> int:
        """Return the number of attempts that ended so."""
        return self._outcomes.count(1 + _OUTCOMES.index(outcome))

    def reasons(self) -> Counter[str]:
        """Return ``"outcome: reason"`` to its number, for the outcomes other than answered."""
        pairs = Counter(zip(self._outcomes, self._reasons, strict=True))
        return Counter(
            {
                f"{_OUTCOMES[code - 1].value}: {self._reason_names.values[reason]}": count
                for (code, reason), count in pairs.items()
                if code not in (0, _ANSWERED)
            }
        )

    def column(self, metric: str) -> Column:
        """Return what one metric averages.

        A missing attempt counts 0. A sample whose score is ``None`` in every attempt is left out. For a metric that
        averages over strata, samples without any record are left out too, because their stratum is not known; that
        happens only in cells that are not complete.
        """
        strata = self._strata.get(metric)
        return self._column(metric, answered_only=False, known_only=strata is not None and any(strata))

    def answered_column(self, metric: str) -> Column:
        """Return what one metric averages over the answered attempts only."""
        return self._column(metric, answered_only=True, known_only=True)

    def _column(self, metric: str, *, answered_only: bool, known_only: bool) -> Column:
        outcomes, attempts = self._outcomes, self._attempts
        scores, strata = self._scores[self._entry.metrics[metric]], self._strata.get(metric)
        column = Column(array("q"), array("d"), [])
        for position in range(len(self._entry.samples)):
            slots = range(position * attempts, (position + 1) * attempts)
            inside = [slot for slot in slots if outcomes[slot] and (not answered_only or outcomes[slot] == _ANSWERED)]
            if known_only and not inside:
                continue
            # Sorted: a sum of floats depends on their order, and what is averaged must not tell attempts apart.
            kept = sorted(scores[slot] for slot in inside if not math.isnan(scores[slot]))
            missing = 0 if answered_only else attempts - len(inside)
            if not kept and not missing:
                continue
            column.positions.append(position)
            column.values.append(sum(kept) / (len(kept) + missing))
            column.paths.append(self._paths.values[strata[inside[0]]] if strata is not None and inside else ())
        return column


class _Names(Generic[_T]):
    """Small numbers for values that occur again and again."""

    def __init__(self) -> None:
        self.values: list[_T] = []
        self._numbers: dict[_T, int] = {}

    def number(self, value: _T) -> int:
        """Return the number of a value."""
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number
