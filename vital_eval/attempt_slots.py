"""A number for every attempt that a run owes, so that what is known of each fits into an array."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vital_eval.errors import RunLogError
from vital_eval.manifest import Entry
from vital_eval.record import Key


class AttemptSlots:
    """Numbers the attempts of entries: entry by entry, sample by sample in the manifest's order, attempt by attempt.

    Args:
        entries: of one manifest; those of a task have the same samples.
        attempts: answers wanted per sample.

    Attributes:
        size: number of slots.
    """

    def __init__(self, entries: Iterable[Entry], attempts: int) -> None:
        self._entries = tuple(entries)
        self._attempts = attempts
        # Once for all entries of a task: it is most of what is kept per sample.
        self._positions = {
            task: {identity: position for position, (identity, _) in enumerate(samples)}
            for task, samples in {entry.task: entry.samples for entry in self._entries}.items()
        }
        self._starts: dict[tuple[str, str], int] = {}
        self.size = 0
        for entry in self._entries:
            self._starts[entry.key] = self.size
            self.size += len(entry.samples) * attempts

    def start(self, entry: Entry) -> int:
        """Return the first slot of an entry; sample ``i``, attempt ``k`` is ``i * attempts + k`` further on."""
        return self._starts[entry.key]

    def find(self, key: Key) -> int:
        """Return the slot of an attempt.

        Raises:
            RunLogError: if it is not owed; says why.
        """
        task, protocol, sample_id, attempt = key
        start = self._starts.get((task, protocol))
        if start is None:
            raise RunLogError(f"task {task} under protocol {protocol} is not part of the run")
        position = self._positions[task].get(sample_id)
        if position is None:
            raise RunLogError(f"sample {sample_id!r} of task {task} is not part of the run")
        if attempt >= self._attempts:
            raise RunLogError(f"attempt {attempt} at {sample_id!r}, but the run has {self._attempts} per sample")
        return start + position * self._attempts + attempt

    def keys(self) -> Iterator[Key]:
        """Yield the key of every slot, in their order."""
        for entry in self._entries:
            task, protocol = entry.key
            for identity, _ in entry.samples:
                for attempt in range(self._attempts):
                    yield task, protocol, identity, attempt
