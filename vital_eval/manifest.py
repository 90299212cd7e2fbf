"""What a run is: who answers, which samples, under which protocols. Written once, first, and never changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vital_eval.atomic import write_pieces_atomically
from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.errors import ProtocolError, RunLogError
from vital_eval.protocol import Protocol, differing_fields, protocol_from_json
from vital_eval.record import loads_strictly

#: Raised when a field of the manifest or of a record changes its meaning.
SCHEMA_VERSION = 2

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One task under one protocol: one cell of a board.

    Attributes:
        task: registry name.
        scorer_version: the task's, at the time of the run.
        primary: name of the headline metric.
        metrics: metric name to the score key whose weighted mean it is, in the task's order.
        protocol: the whole recipe.
        data_hash: hash of the official annotation files that were read.
        samples: ``(id, cluster)`` of every sample owed, in the task's order; equal for all entries of a task.
        tools: name of every tool offered to the hash of its schema, which the model is shown word for word.
    """

    task: str
    scorer_version: int
    primary: str
    metrics: Mapping[str, str]
    protocol: Protocol
    data_hash: str
    samples: tuple[tuple[str, str], ...]
    tools: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        if self.primary not in self.metrics:
            raise RunLogError(f"task {self.task}: headline metric {self.primary!r} is not among {list(self.metrics)}")
        seen: set[str] = set()
        for identity, _ in self.samples:
            if identity in seen:
                raise RunLogError(
                    f"task {self.task}: sample id {identity!r} occurs twice", "ids must be unique in a task"
                )
            seen.add(identity)

    @property
    def key(self) -> tuple[str, str]:
        """Task name and protocol hash, unique in a run."""
        return (self.task, self.protocol.hash)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Specification and circumstances of a run.

    The specification is every field but ``created``, ``packages`` and ``git_commit``: only a run with an equal
    one may be resumed (see :func:`differing`).

    Attributes:
        label: checkpoint name as shown in tables.
        engine: who answers; its details count as specification, for versions and dtypes can move a score.
        entries: what is to be answered.
        created: start of the run, ISO 8601 in UTC.
        vital_eval: version of the harness.
        attempts: answers wanted per sample; the item score is their mean.
        limit: samples per task if the run was limited (limited runs are marked and never published).
        shard: ``"i/n"`` if this run answers one of n parts, else ``None``.
        packages: versions of installed packages, for the record.
        git_commit: commit of the working tree, ``""`` outside of one.
        schema_version: see :data:`SCHEMA_VERSION`.
    """

    label: str
    engine: EngineInfo
    entries: tuple[Entry, ...]
    created: str
    vital_eval: str
    attempts: int = 1
    limit: int | None = None
    shard: str | None = None
    packages: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    git_commit: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        if self.attempts < 1:
            raise RunLogError(f"{self.attempts} attempts per sample", "ask for at least one")
        samples: dict[str, tuple[tuple[str, str], ...]] = {}
        keys: set[tuple[str, str]] = set()
        for entry in self.entries:
            if entry.key in keys:
                raise RunLogError(f"task {entry.task} is listed twice under protocol {entry.protocol.hash}")
            keys.add(entry.key)
            if samples.setdefault(entry.task, entry.samples) != entry.samples:
                raise RunLogError(
                    f"task {entry.task} has different samples under different protocols",
                    "the modes of a task must answer the same samples",
                )

    def entry(self, task: str, protocol: str) -> Entry | None:
        """Return the entry of a task under a protocol hash, ``None`` if the run has none."""
        return next((entry for entry in self.entries if entry.key == (task, protocol)), None)


def manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    """Return plain JSON data; the samples of a task are stored once for all its protocols."""
    engine = manifest.engine
    return {
        "schema_version": manifest.schema_version,
        "vital_eval": manifest.vital_eval,
        "created": manifest.created,
        "label": manifest.label,
        "engine": {
            "name": engine.name,
            "model": engine.model,
            "fingerprint": engine.fingerprint,
            "geometry": dataclasses.asdict(engine.geometry),
            "details": dict(engine.details),
        },
        "attempts": manifest.attempts,
        "limit": manifest.limit,
        "shard": manifest.shard,
        "packages": dict(manifest.packages),
        "git_commit": manifest.git_commit,
        "entries": [
            {
                "task": entry.task,
                "scorer_version": entry.scorer_version,
                "primary": entry.primary,
                # A list keeps the task's order of metrics whatever sorts the keys of the file.
                "metrics": [[name, score] for name, score in entry.metrics.items()],
                "protocol_hash": entry.protocol.hash,
                "protocol": entry.protocol.to_json(),
                "data_hash": entry.data_hash,
                "tools": dict(entry.tools),
            }
            for entry in manifest.entries
        ],
        "samples": {entry.task: [list(sample) for sample in entry.samples] for entry in manifest.entries},
    }


def manifest_from_json(data: Mapping[str, Any]) -> Manifest:
    """Build a manifest from the data :func:`manifest_to_json` gave.

    Raises:
        RunLogError: if it is not a manifest, was written by another schema, or a stored protocol does not
            have the hash it was stored with (an edited manifest, or another version of the protocol).
    """
    try:
        if data["schema_version"] != SCHEMA_VERSION:
            raise RunLogError(
                f"manifest of schema {data['schema_version']}, this vital-eval reads {SCHEMA_VERSION}",
                f"read it with vital-eval {data.get('vital_eval', 'of the time')}",
            )
        engine = dict(data["engine"])
        samples = {task: tuple((str(i), str(c)) for i, c in pairs) for task, pairs in data["samples"].items()}
        return Manifest(
            label=data["label"],
            engine=EngineInfo(**{**engine, "geometry": FrameGeometry(**engine["geometry"])}),
            entries=tuple(_entry(entry, samples[entry["task"]]) for entry in data["entries"]),
            created=data["created"],
            vital_eval=data["vital_eval"],
            attempts=data["attempts"],
            limit=data["limit"],
            shard=data["shard"],
            packages=dict(data["packages"]),
            git_commit=data["git_commit"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, ProtocolError) as error:
        raise RunLogError(f"not a manifest: {error}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into ``folder``, atomically.

    Raises:
        OSError: if the folder cannot be written.
    """
    encoder = json.JSONEncoder(indent=1, ensure_ascii=True, allow_nan=False)
    # In pieces: as one text the samples of a large run take megabytes.
    write_pieces_atomically(folder / MANIFEST_NAME, chain(encoder.iterencode(manifest_to_json(manifest)), "\n"))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a run folder.

    Raises:
        RunLogError: if there is none or it cannot be read.
    """
    path = folder / MANIFEST_NAME
    try:
        data = loads_strictly(path.read_bytes())
    except FileNotFoundError as error:
        raise RunLogError(f"no run in {folder}: it holds no {MANIFEST_NAME}") from error
    except (OSError, ValueError) as error:
        raise RunLogError(f"cannot read {path}: {error}") from error
    try:
        return manifest_from_json(data)
    except RunLogError as error:
        raise RunLogError(f"{path}: {error.problem}", error.mend) from error


def differing(one: Manifest, other: Manifest) -> tuple[str, ...]:
    """Name the fields of the specification (dotted, sorted) in which two manifests differ.

    Entries are matched by task and protocol hash, the rest by task and mode, so that a changed temperature reads
    ``entries.mmvu.tool.protocol.sampling.temperature``. The protocol's label is not part of the specification.
    """
    found = {
        name
        for name in ("schema_version", "vital_eval", "label", "attempts", "limit", "shard")
        if getattr(one, name) != getattr(other, name)
    }
    found |= {
        f"engine.{name}"
        for name in ("name", "model", "fingerprint", "geometry")
        if getattr(one.engine, name) != getattr(other.engine, name)
    }
    details = one.engine.details.keys() | other.engine.details.keys()
    found |= {
        f"engine.details.{name}" for name in details if one.engine.details.get(name) != other.engine.details.get(name)
    }
    return tuple(sorted(found | _differing_entries(one.entries, other.entries)))


def _differing_entries(ones: tuple[Entry, ...], others: tuple[Entry, ...]) -> set[str]:
    found: set[str] = set()
    rest = {entry.key: entry for entry in others}
    unmatched = []
    for entry in ones:
        match = rest.pop(entry.key, None)
        if match is None:
            unmatched.append(entry)
        else:
            found |= _differing_fields(entry, match)
    for entry in unmatched:
        key = next((k for k, o in rest.items() if (o.task, o.protocol.mode) == (entry.task, entry.protocol.mode)), None)
        if key is None:
            found.add(_place(entry))
        else:
            found |= _differing_fields(entry, rest.pop(key))
    return found | {_place(entry) for entry in rest.values()}


def _place(entry: Entry) -> str:
    return f"entries.{entry.task}.{entry.protocol.mode}"


def _differing_fields(one: Entry, other: Entry) -> set[str]:
    place = _place(one)
    found = {
        f"{place}.{name}"
        for name in ("scorer_version", "primary", "data_hash", "samples")
        if getattr(one, name) != getattr(other, name)
    }
    found |= {
        f"{place}.{name}" for name in ("metrics", "tools") if dict(getattr(one, name)) != dict(getattr(other, name))
    }
    return found | {f"{place}.protocol.{name}" for name in differing_fields(one.protocol, other.protocol)}


def _entry(data: Mapping[str, Any], samples: tuple[tuple[str, str], ...]) -> Entry:
    protocol = protocol_from_json(data["protocol"])
    if protocol.hash != data["protocol_hash"]:
        raise RunLogError(
            f"protocol of {data['task']} hashes to {protocol.hash}, the manifest says {data['protocol_hash']}",
            "the manifest was edited or comes from another version of vital-eval",
        )
    return Entry(
        task=data["task"],
        scorer_version=data["scorer_version"],
        primary=data["primary"],
        metrics=dict(data["metrics"]),
        protocol=protocol,
        data_hash=data["data_hash"],
        samples=samples,
        tools=dict(data["tools"]),
    )
