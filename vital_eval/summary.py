"""From a manifest and its records to figures: pure, and the same however often the run was resumed.

Nothing in a summary depends on clocks or on the order of the records, so a resumed run has the same summary,
byte for byte, as one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vital_eval.atomic import write_atomically
from vital_eval.attempt_slots import AttemptSlots
from vital_eval.errors import RunLogError
from vital_eval.manifest import Entry, Manifest
from vital_eval.outcome import Outcome
from vital_eval.protocol import Mode
from vital_eval.record import Record, loads_strictly
from vital_eval.record_table import Column, RecordTable, ToolCounts
from vital_eval.statistics.means import Estimate, estimate, nested_weights

SUMMARY_NAME = "summary.json"

#: Counted beside the outcomes: attempts without a record.
OWED = "owed"

#: The partition of all attempts, in the order in which tables show it.
OUTCOME_NAMES = (*(outcome.value for outcome in Outcome), OWED)

#: Above this share of failing tool calls a tool run measures something else than its protocol says.
MAX_FAILING_SHARE = 0.5
#: Below this share of attempts with a tool call, a tool run is hardly one.
RARE_SHARE = 0.05

#: Task to name of a trivial answerer ("whole video", "random") to what it scores.
Baselines = Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True, slots=True)
class ToolHealth:
    """Whether the tools of a tool run worked and were used. Counted over attempts that are not ``infra-failed``.

    Attributes:
        calls: tool calls written.
        calls_per_attempt: mean number of calls.
        success_share: share of the calls that returned frames; ``None`` without calls.
        using_share: share of the attempts with at least one call.
        errors: error code to number of calls.
        verdict: ``"ok"``, ``"no attempts yet"``, ``"WARNING: ..."`` or ``"INVALID: ..."``.
    """

    calls: int
    calls_per_attempt: float
    success_share: float | None
    using_share: float
    errors: Mapping[str, int]
    verdict: str

    @property
    def invalid(self) -> bool:
        """Whether the run's numbers must not be read as those of a tool run."""
        return self.verdict.startswith("INVALID")


@dataclass(frozen=True, slots=True)
class CellSummary:
    """One task under one protocol.

    Attributes:
        task: registry name.
        mode: how the model reasoned.
        protocol: label of the protocol.
        protocol_hash: its hash.
        primary: name of the headline metric.
        n: samples of the task's set, fixed before the run.
        attempts: answers wanted per sample.
        outcomes: every name of :data:`OUTCOME_NAMES` to its number of attempts; adds up to ``n * attempts``.
        reasons: ``"outcome: reason"`` to its number, for the outcomes other than answered.
        metrics: metric name to its estimate over all samples; a missing or unusable answer counts 0.
        completed: headline metric over the answered attempts only (secondary; it rewards giving up).
        complete: nothing is owed and nothing failed by infrastructure. Else the metrics are provisional.
        tools: see :class:`ToolHealth`; ``None`` outside the tool mode.
    """

    task: str
    mode: Mode
    protocol: str
    protocol_hash: str
    primary: str
    n: int
    attempts: int
    outcomes: Mapping[str, int]
    reasons: Mapping[str, int]
    metrics: Mapping[str, Estimate]
    completed: Estimate
    complete: bool
    tools: ToolHealth | None

    @property
    def headline(self) -> Estimate:
        """The estimate of the headline metric."""
        return self.metrics[self.primary]

    @property
    def missing(self) -> int:
        """Attempts still to be made: owed, or failed by infrastructure."""
        return self.outcomes[OWED] + self.outcomes[Outcome.INFRA_FAILED]


@dataclass(frozen=True, slots=True)
class Summary:
    """All figures of one run.

    Attributes:
        label: checkpoint name.
        engine: registry name of the engine.
        model: the engine's name of the checkpoint.
        fingerprint: hash of the checkpoint.
        limit: samples per task of a limited run, else ``None``.
        shard: ``"i/n"`` of a partial run, else ``None``.
        cells: one per entry of the manifest, in its order.
        baselines: see :data:`Baselines`.
        complete: every cell is complete.
    """

    label: str
    engine: str
    model: str
    fingerprint: str
    limit: int | None
    shard: str | None
    cells: tuple[CellSummary, ...]
    baselines: Baselines
    complete: bool


class Item(NamedTuple):
    """Score of one sample: the mean over its attempts. A tuple, because there may be millions of them.

    Attributes:
        sample_id: see :class:`vital_eval.sample.Sample`.
        cluster: unit that shares context.
        value: score in [0, 1].
        path: strata of the metric; ``()`` for a plain mean.
    """

    sample_id: str
    cluster: str
    value: float
    path: tuple[str, ...]


def summarise(manifest: Manifest, records: Iterable[Record], baselines: Baselines | None = None) -> Summary:
    """Work out all figures of a run.

    Args:
        manifest: what was to be answered.
        records: of the run, read once and not kept (:meth:`vital_eval.run_log.RunLog.stream`). Of an attempt that
            failed by infrastructure the last record counts; of any other there is one.
        baselines: what trivial answerers score on the same samples, worked out by the caller.

    Raises:
        RunLogError: if a record does not belong to the run or occurs twice.
    """
    tables = _tables(manifest, records)
    cells = tuple(_cell(entry, tables[entry.key], manifest.attempts) for entry in manifest.entries)
    return Summary(
        label=manifest.label,
        engine=manifest.engine.name,
        model=manifest.engine.model,
        fingerprint=manifest.engine.fingerprint,
        limit=manifest.limit,
        shard=manifest.shard,
        cells=cells,
        baselines=baselines or {},
        complete=all(cell.complete for cell in cells),
    )


def metric_items(entry: Entry, metric: str, records: Iterable[Record], attempts: int = 1) -> tuple[Item, ...]:
    """Return what one metric averages: an item per sample, in the manifest's order.

    Which samples count, and as what: :meth:`vital_eval.record_table.RecordTable.column`.

    Args:
        entry: the task under the protocol.
        metric: name of one of its metrics.
        records: records of this entry only, as :func:`summarise` takes them.
        attempts: answers wanted per sample.

    Raises:
        RunLogError: if a record does not belong to the entry or occurs twice.
    """
    slots, table = AttemptSlots((entry,), attempts), RecordTable(entry, attempts, (metric,))
    for record in records:
        table.put(slots.find(record.key), record)
    column = table.column(metric)
    return tuple(
        Item(*entry.samples[position], value, path)
        for position, value, path in zip(column.positions, column.values, column.paths, strict=True)
    )


def estimate_items(items: Sequence[Item]) -> Estimate:
    """Estimate the weighted mean of items, averaging over their strata first."""
    paths = [item.path for item in items]
    return estimate([item.value for item in items], nested_weights(paths), [item.cluster for item in items], paths)


def summary_to_json(summary: Summary) -> dict[str, Any]:
    """Return plain JSON data; mappings of counts come sorted by name."""
    return {
        **{name: getattr(summary, name) for name in ("label", "engine", "model", "fingerprint", "limit", "shard")},
        "complete": summary.complete,
        "cells": [_cell_to_json(cell) for cell in summary.cells],
        "baselines": {
            task: {name: dataclasses.asdict(value) for name, value in sorted(names.items())}
            for task, names in sorted(summary.baselines.items())
        },
    }


def write_summary(folder: Path, summary: Summary) -> Path:
    """Write ``summary.json`` into a run folder, atomically; equal summaries give equal bytes.

    Returns:
        The path of the file.

    Raises:
        RunLogError: if it cannot be written.
    """
    path = folder / SUMMARY_NAME
    text = json.dumps(summary_to_json(summary), indent=1, ensure_ascii=True, allow_nan=False) + "\n"
    try:
        write_atomically(path, text)
    except OSError as error:
        raise RunLogError(f"cannot write {path}: {error.strerror}") from error
    return path


def read_baselines(folder: Path) -> dict[str, dict[str, Estimate]]:
    """Read the baselines of a run's summary: the only part of it that the run log cannot give again.

    Returns:
        Task to name to estimate; empty if the run has no summary yet.

    Raises:
        RunLogError: if the summary cannot be read.
    """
    path = folder / SUMMARY_NAME
    try:
        data = loads_strictly(path.read_bytes())
        return {
            task: {name: Estimate(**value) for name, value in names.items()}
            for task, names in data["baselines"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunLogError(f"cannot read {path}: {error}", "delete it and run the same command again") from error


def _tables(manifest: Manifest, records: Iterable[Record]) -> dict[tuple[str, str], RecordTable]:
    slots = AttemptSlots(manifest.entries, manifest.attempts)
    tables = {entry.key: RecordTable(entry, manifest.attempts, entry.metrics) for entry in manifest.entries}
    starts = {entry.key: slots.start(entry) for entry in manifest.entries}
    for record in records:
        slot = slots.find(record.key)
        entry_key = (record.task, record.protocol)
        tables[entry_key].put(slot - starts[entry_key], record)
    return tables


def _cell(entry: Entry, table: RecordTable, attempts: int) -> CellSummary:
    outcomes = {outcome.value: table.count(outcome) for outcome in Outcome}
    outcomes[OWED] = len(entry.samples) * attempts - table.records
    # Samples must not leave the denominator unseen.
    if sum(outcomes.values()) != len(entry.samples) * attempts:
        raise AssertionError(f"outcomes of {entry.task} do not add up: {outcomes}")
    return CellSummary(
        task=entry.task,
        mode=entry.protocol.mode,
        protocol=entry.protocol.name,
        protocol_hash=entry.protocol.hash,
        primary=entry.primary,
        n=len(entry.samples),
        attempts=attempts,
        outcomes=outcomes,
        reasons=dict(sorted(table.reasons().items())),
        metrics={name: _estimate(entry, table.column(name)) for name in entry.metrics},
        completed=_estimate(entry, table.answered_column(entry.primary)),
        complete=outcomes[OWED] == 0 and outcomes[Outcome.INFRA_FAILED] == 0,
        tools=_tool_health(table.tools) if entry.protocol.mode is Mode.TOOL else None,
    )


def _estimate(entry: Entry, column: Column) -> Estimate:
    clusters = [entry.samples[position][1] for position in column.positions]
    return estimate(column.values, nested_weights(column.paths), clusters, column.paths)


def _tool_health(counts: ToolCounts) -> ToolHealth:
    failing = counts.errors.total()
    if not counts.attempts:
        verdict = "no attempts yet"
    elif not counts.calls:
        verdict = "WARNING: the tools were never called; this is no tool run"
    elif failing > MAX_FAILING_SHARE * counts.calls:
        code = min(counts.errors, key=lambda name: (-counts.errors[name], name))
        verdict = f"INVALID: {failing} of {counts.calls} tool calls failed, most often by {code}"
    elif counts.using < RARE_SHARE * counts.attempts:
        verdict = f"WARNING: only {counts.using} of {counts.attempts} attempts used the tools"
    else:
        verdict = "ok"
    return ToolHealth(
        calls=counts.calls,
        calls_per_attempt=counts.calls / counts.attempts if counts.attempts else 0.0,
        success_share=1 - failing / counts.calls if counts.calls else None,
        using_share=counts.using / counts.attempts if counts.attempts else 0.0,
        errors=dict(sorted(counts.errors.items())),
        verdict=verdict,
    )


def _cell_to_json(cell: CellSummary) -> dict[str, Any]:
    data = {field.name: getattr(cell, field.name) for field in dataclasses.fields(cell)}
    data["metrics"] = {name: dataclasses.asdict(value) for name, value in cell.metrics.items()}
    data["completed"] = dataclasses.asdict(cell.completed)
    data["tools"] = None if cell.tools is None else dataclasses.asdict(cell.tools)
    return data
