"""The file of rolls: how often a policy solved each training record. Append-only, one durable line a record.

The first line says what the rolls depend on: checkpoint, protocol, number of rollouts, records, threshold. Every other
line is one record whose rollouts are all there; a record that lost one to the machine has no line and is owed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vital_eval.errors import ProtocolError, RunLogError
from vital_eval.line_file import LineFile, disk_is_full, whole_lines
from vital_eval.protocol import Protocol, differing_fields, protocol_from_json

#: Raised when a line changes its meaning.
SCHEMA_VERSION = 1
#: How the first line begins.
_BEGINNING = f'{{"schema_version":{SCHEMA_VERSION},"rolls":'.encode("ascii")
#: No reward is as large; what is larger is not read as one.
_LARGEST_REWARD = 1e6
_ANOTHER = "name a file that `data roll` wrote, or a new one"
_OTHER_FILE = "name another file with --out, or restore the old settings"


@dataclass(frozen=True, slots=True)
class RollIdentity:
    """What all rolls of a file depend on.

    Attributes:
        checkpoint: fingerprint of the engine's checkpoint.
        protocol: how every record is asked.
        rollouts: rollouts a record.
        data: hash of the records (:func:`~.mtvr.records.records_hash`).
        threshold: least score that passes.
    """

    checkpoint: str
    protocol: Protocol
    rollouts: int
    data: str
    threshold: float


@dataclass(frozen=True, slots=True)
class Roll:
    """The rollouts of one record; all lists have one entry a rollout, in the order of their numbers.

    Attributes:
        id: of the record.
        rewards: total rewards.
        task_scores: task rewards in [0, 1], as training scales them.
        scores: what passes or not, in [0, 1] (:func:`~.data_run.passing_score`).
        passes: whether the score reaches the threshold.
        texts: what the model wrote, turn by turn.
    """

    id: str
    rewards: tuple[float, ...]
    task_scores: tuple[float, ...]
    scores: tuple[float, ...]
    passes: tuple[bool, ...]
    texts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Rolls:
    """A file of rolls as read.

    Attributes:
        identity: see :class:`RollIdentity`.
        by_id: in the order of the file.
    """

    identity: RollIdentity
    by_id: Mapping[str, Roll]


def differing(one: RollIdentity, other: RollIdentity) -> tuple[str, ...]:
    """Name the fields in which two identities differ, those of the protocol with a dot."""
    names = [
        field.name
        for field in dataclasses.fields(RollIdentity)
        if field.name != "protocol" and getattr(one, field.name) != getattr(other, field.name)
    ]
    return (*names, *(f"protocol.{name}" for name in differing_fields(one.protocol, other.protocol)))


def read_rolls(path: Path) -> Rolls | None:
    """Read rolls without locking or changing them; a torn last line is left out.

    Returns:
        ``None`` if there is no such file, or it ends before its first line does.

    Raises:
        RunLogError: if it is no file of rolls, a line is damaged, or a record stands twice.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunLogError(f"cannot read {path}: {error.strerror}") from error
    return _parse(data, path)[0]


def refuse_others(path: Path, stored: Rolls | None, wanted: RollIdentity) -> None:
    """Refuse to go on with rolls that depend on something else; a file without a roll binds nobody.

    Raises:
        RunLogError: with the fields that differ.
    """
    if stored is not None and stored.by_id and (fields := differing(stored.identity, wanted)):
        raise RunLogError(f"{path} holds rolls of another kind, which differ in {', '.join(fields)}", _OTHER_FILE)


class RollStore:
    """The one writer of a file of rolls. Use :meth:`open`; it is a context manager."""

    def __init__(self, path: Path, lines: LineFile, rolls: Rolls, owed: frozenset[str]) -> None:
        self._path = path
        self._lines = lines
        self._by_id = dict(rolls.by_id)
        self._identity = rolls.identity
        self._owed = owed

    @classmethod
    def open(cls, path: Path, identity: RollIdentity, ids: Collection[str]) -> RollStore:
        """Begin a file of rolls, or go on with the one that is there.

        A torn last line (the machine died while it was written) is cut off; its record is owed again.

        Args:
            path: the file; its folder is made.
            identity: what the rolls depend on.
            ids: of all records.

        Raises:
            RunLogError: if another process writes it, it holds rolls of another kind (the fields are named) or of
                other records, it is damaged, or it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = LineFile(path)
        except BlockingIOError as error:
            raise RunLogError(
                f"{path} is being written by another process", "wait for it to end, or stop it"
            ) from error
        except OSError as error:
            raise _write_error(path, error) from error
        try:
            return cls._open_locked(path, lines, identity, frozenset(ids))
        except OSError as error:
            lines.close()
            raise _write_error(path, error) from error
        except BaseException:
            lines.close()
            raise

    @classmethod
    def _open_locked(cls, path: Path, lines: LineFile, identity: RollIdentity, ids: frozenset[str]) -> RollStore:
        stored, end = _parse(path.read_bytes(), path)
        refuse_others(path, stored, identity)
        if stored is not None and stored.identity != identity:
            stored, end = None, 0
        if stored is not None and (strange := [name for name in stored.by_id if name not in ids]):
            raise RunLogError(f"{path} holds rolls of {strange[0]!r:.80}, which is no record of the file", _OTHER_FILE)
        head = {"schema_version": SCHEMA_VERSION, "rolls": _identity_to_json(identity)}
        lines.begin(end, head if stored is None else None)
        return cls(path, lines, stored or Rolls(identity, {}), ids)

    @property
    def rolls(self) -> Rolls:
        """All rolls so far; what is added later does not show."""
        return Rolls(self._identity, dict(self._by_id))

    def append(self, roll: Roll) -> None:
        """Write one roll so that neither a crash nor a power cut can take it back.

        Raises:
            RunLogError: if its record is not owed, or it cannot be written.
        """
        if roll.id not in self._owed or roll.id in self._by_id:
            raise RunLogError(f"{self._path}: record {roll.id!r:.80} is not owed")
        self._write(dataclasses.asdict(roll))
        self._by_id[roll.id] = roll

    def close(self) -> None:
        """Give the file free. Closing twice is fine."""
        self._lines.close()

    def _write(self, data: Mapping[str, Any]) -> None:
        if self._lines.closed:
            raise RunLogError(f"{self._path} is closed")
        try:
            self._lines.append(data)
        except OSError as error:
            raise _write_error(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _parse(data: bytes, path: Path) -> tuple[Rolls | None, int]:
    """Return the rolls and the length in bytes of the whole lines."""
    identity: RollIdentity | None = None
    by_id: dict[str, Roll] = {}
    whole = 0

    def damaged(number: int, error: ValueError) -> RunLogError:
        if number == 1:
            return RunLogError(f"{path} is no file of rolls", _ANOTHER)
        return RunLogError(
            f"{path}, line {number} is damaged: {error}",
            "a crash cannot do this; delete the line to have its record rolled again",
        )

    for number, content, end in whole_lines(data, damaged):
        place = f"{path}, line {number}"
        if identity is None:
            identity = _identity_from_json(content, place)
        else:
            roll = _roll_from_json(content, identity, place)
            if roll.id in by_id:
                raise RunLogError(f"{place}: second line of record {roll.id!r:.80}", "restore the file from a copy")
            by_id[roll.id] = roll
        whole = end
    if identity is None and (b"\n" in data or not data.startswith(_BEGINNING[: len(data)])):
        # A stranger's file without a whole line would be taken for a torn one, and cut.
        raise RunLogError(f"{path} is no file of rolls", _ANOTHER)
    return (None if identity is None else Rolls(identity, by_id)), whole


def _identity_to_json(identity: RollIdentity) -> dict[str, Any]:
    plain = {name: getattr(identity, name) for name in ("checkpoint", "rollouts", "data", "threshold")}
    return {**plain, "protocol_hash": identity.protocol.hash, "protocol": identity.protocol.to_json()}


def _identity_from_json(content: Any, place: str) -> RollIdentity:
    if not isinstance(content, dict) or "rolls" not in content:
        raise RunLogError(f"{place} does not say what was rolled; this is no file of rolls", _ANOTHER)
    if content.get("schema_version") != SCHEMA_VERSION:
        raise RunLogError(f"{place}: rolls of schema {content.get('schema_version')!r:.40}, not {SCHEMA_VERSION}")
    match content["rolls"]:
        case {
            "checkpoint": str(checkpoint),
            "rollouts": int(rollouts),
            "data": str(data),
            "threshold": float() | int() as threshold,
            "protocol_hash": str(protocol_hash),
            "protocol": dict(fields),
        } if rollouts >= 1 and 0 < threshold <= 1:
            try:
                protocol = protocol_from_json(fields)
            except ProtocolError as error:
                raise RunLogError(f"{place}: {error.problem}", "restore the file from a copy") from error
            if protocol.hash != protocol_hash:
                raise RunLogError(f"{place}: the protocol is not the one of its hash", "restore the file from a copy")
            return RollIdentity(checkpoint, protocol, rollouts, data, threshold)
    raise RunLogError(f"{place} does not say what was rolled", "restore the file from a copy")


def _roll_from_json(content: Any, identity: RollIdentity, place: str) -> Roll:
    match content:
        case {
            "id": str(name),
            "rewards": list(rewards),
            "task_scores": list(task_scores),
            "scores": list(scores),
            "passes": list(outcomes),
            "texts": list(texts),
        } if (
            all(len(part) == identity.rollouts for part in (rewards, task_scores, scores, outcomes, texts))
            and all(_is_number(value) and abs(value) <= _LARGEST_REWARD for value in rewards)
            and all(_is_number(value) and 0 <= value <= 1 for value in (*task_scores, *scores))
            and all(isinstance(turns, list) and all(isinstance(turn, str) for turn in turns) for turns in texts)
            # Compared as a list, 1 would pass for true.
            and all(outcome is (score >= identity.threshold) for outcome, score in zip(outcomes, scores, strict=True))
        ):
            return Roll(
                name,
                tuple(rewards),
                tuple(task_scores),
                tuple(scores),
                tuple(outcomes),
                tuple(tuple(turns) for turns in texts),
            )
    raise RunLogError(
        f"{place} is not {identity.rollouts} rollouts of a record", "restore the file from a copy, or delete the line"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _write_error(path: Path, error: OSError) -> RunLogError:
    if disk_is_full(error):
        return RunLogError(f"disk full while writing {path}; what was rolled is safe", "free space and go on")
    return RunLogError(f"cannot write {path}: {error.strerror}", "mend this, or name another file with --out")
