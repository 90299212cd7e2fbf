"""Puts the shards of one run together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from vital_eval.errors import RunLogError
from vital_eval.manifest import Manifest, differing
from vital_eval.record import Record


def merge_shards(
    shards: Mapping[str, tuple[Manifest, tuple[Record, ...]]],
) -> tuple[Manifest, tuple[Record, ...]]:
    """Merge all n shards of a run into the run that one machine would have made.

    Args:
        shards: manifest and records of each shard, by the name used in messages.

    Returns:
        The manifest of the whole (samples of each task: those of shard 1, then of shard 2 ...) and all records.

    Raises:
        RunLogError: if a run is no shard, shards are missing or given twice, or differ in more than their samples.
    """
    places: dict[int, str] = {}
    counts = set()
    for name, (manifest, _) in shards.items():
        index, slash, count = (manifest.shard or "").partition("/")
        if not slash:
            raise RunLogError(f"{name} is a whole run, not a shard", "merge runs made with --shard i/n")
        if int(index) in places:
            raise RunLogError(
                f"{name} and {places[int(index)]} are both shard {manifest.shard}", "give each shard once"
            )
        places[int(index)] = name
        counts.add(int(count))
    if len(counts) > 1:
        raise RunLogError(f"the shards come from splits into {sorted(counts)} parts", "give the shards of one split")
    missing = sorted(set(range(1, counts.pop() + 1)) - places.keys())
    if missing:
        raise RunLogError(f"shards {missing} are missing", "merge when all parts are there")
    ordered = [shards[places[index]] for index in sorted(places)]
    first = ordered[0][0]
    for place in sorted(places):
        found = differing(first, shards[places[place]][0])
        fields = [name for name in found if name != "shard" and not name.endswith(".samples")]
        if fields:
            raise RunLogError(f"{places[place]} differs in {', '.join(fields)}", "shards must share one specification")
    entries = []
    for entry in first.entries:
        parts = [manifest.entry(*entry.key) for manifest, _ in ordered]
        samples = tuple(sample for part in parts if part is not None for sample in part.samples)
        entries.append(dataclasses.replace(entry, samples=samples))
    records = tuple(record for _, part in ordered for record in part)
    return dataclasses.replace(first, entries=tuple(entries), shard=None), records
