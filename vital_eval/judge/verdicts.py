"""The file of verdicts: append-only, one durable line each, resumable after any crash, readable without data.

The first line names the judge. A line of scope names a task's open samples and the annotation files they come from;
so a reader knows which answers a judge should have seen, and which of them are still owed. All other lines are
verdicts. Questions, references and answers are not repeated here: an answer is known by its hash.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vital_eval.judge.errors import JudgeError
from vital_eval.judge.identity import JudgeIdentity, differing_fields, identity_from_json
from vital_eval.judge.question import hash_answer
from vital_eval.line_file import LineFile, disk_is_full, whole_lines

VERDICTS_NAME = "judge.jsonl"
#: Raised when a line changes its meaning.
SCHEMA_VERSION = 1
#: How the first line begins.
_BEGINNING = f'{{"schema_version":{SCHEMA_VERSION},"judge":'.encode("ascii")

_Place = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said about one answer to one sample, whichever run or mode gave it.

    Attributes:
        key: hash of everything the verdict depends on (:meth:`vital_eval.judge.question.JudgeQuestion.key`).
        task: registry name of the task.
        sample_id: see :class:`vital_eval.sample.Sample`.
        answer_hash: hash of the answer field (:func:`vital_eval.judge.question.hash_answer`).
        correct: the verdict.
        extracted_answer: what the judge took for the answer.
        model: the model's name in the server's reply.
        cut: the judge saw only the beginning of a very long answer.
    """

    key: str
    task: str
    sample_id: str
    answer_hash: str
    correct: bool
    extracted_answer: str
    model: str
    cut: bool = False

    @property
    def place(self) -> tuple[str, str, str]:
        """Task, sample and answer: what the verdict is about."""
        return (self.task, self.sample_id, self.answer_hash)


@dataclass(frozen=True, slots=True)
class Scope:
    """The open questions of one task.

    Attributes:
        data_hash: hash of the annotation files that question and reference come from.
        samples: ids of the open samples that were looked at.
    """

    data_hash: str
    samples: frozenset[str]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All verdicts of one judge.

    Attributes:
        identity: the judge as asked for.
        scopes: task name to its open questions.
        by_place: every verdict by task, sample id and answer hash.
    """

    identity: JudgeIdentity
    scopes: Mapping[str, Scope]
    by_place: Mapping[tuple[str, str, str], Verdict]

    @property
    def model(self) -> str | None:
        """The name that the server answers with, equal in all verdicts; ``None`` before the first one."""
        return next((verdict.model for verdict in self.by_place.values()), None)

    @property
    def judge(self) -> str:
        """One line that names the judge."""
        return self.identity.describe(self.model)

    def right(self, task: str, sample_id: str, answer: str) -> bool | None:
        """Return the verdict on an answer field, ``None`` if there is none (yet)."""
        verdict = self.by_place.get((task, sample_id, hash_answer(answer)))
        return None if verdict is None else verdict.correct


class VerdictStore:
    """The one writer of a file of verdicts. Use :meth:`open`; it is a context manager."""

    def __init__(self, path: Path, lines: LineFile, verdicts: Verdicts) -> None:
        self._path = path
        self._lines = lines
        self._identity = verdicts.identity
        self._scopes = dict(verdicts.scopes)
        self._by_place = dict(verdicts.by_place)

    @classmethod
    def open(cls, path: Path, identity: JudgeIdentity) -> VerdictStore:
        """Begin a file of verdicts, or go on with the one that is there.

        A torn last line (the machine died while it was written) is cut off; its question is owed again. A file without
        any verdict is begun again.

        Raises:
            JudgeError: if another process writes it, it holds another judge's verdicts (the fields are named), it is
                damaged, or it cannot be written.
        """
        try:
            lines = LineFile(path)
        except BlockingIOError as error:
            raise JudgeError(f"{path} is being written by another process", "wait for it to end, or stop it") from error
        except OSError as error:
            raise _write_error(path, error) from error
        try:
            return cls._open_locked(path, lines, identity)
        except OSError as error:
            lines.close()
            raise _write_error(path, error) from error
        except BaseException:
            lines.close()
            raise

    @classmethod
    def _open_locked(cls, path: Path, lines: LineFile, identity: JudgeIdentity) -> VerdictStore:
        stored, end = _parse(path.read_bytes(), path)
        if stored is not None and not stored.by_place and stored.identity != identity:
            stored, end = None, 0  # A judge that never gave a verdict binds nobody.
        if stored is not None and stored.identity != identity:
            fields = ", ".join(differing_fields(stored.identity, identity))
            raise JudgeError(
                f"{path} holds verdicts of another judge ({stored.judge}), which differs in {fields}",
                "restore the old settings, or name another file with --judge-file",
            )
        head = {"schema_version": SCHEMA_VERSION, "judge": dataclasses.asdict(identity)}
        lines.begin(end, head if stored is None else None)
        return cls(path, lines, stored or Verdicts(identity, {}, {}))

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def verdicts(self) -> Verdicts:
        """All verdicts so far; what is added later does not show."""
        return Verdicts(self._identity, dict(self._scopes), dict(self._by_place))

    @property
    def model(self) -> str | None:
        """See :attr:`Verdicts.model`."""
        return next((verdict.model for verdict in self._by_place.values()), None)

    def find(self, task: str, sample_id: str, answer_hash: str, key: str) -> Verdict | None:
        """Return the verdict on an answer.

        Raises:
            JudgeError: if there is one on the same answer to another question or reference.
        """
        verdict = self._by_place.get((task, sample_id, answer_hash))
        if verdict is not None and verdict.key != key:
            raise JudgeError(
                f"{self._path}: the verdict on {task} {sample_id!r} was given for another question or reference",
                "name another file with --judge-file",
            )
        return verdict

    def declare(self, task: str, data_hash: str, samples: Iterable[str]) -> None:
        """Say which samples of a task are open; verdicts on others are refused.

        Args:
            task: registry name.
            data_hash: hash of its annotation files.
            samples: ids of its open samples.

        Raises:
            JudgeError: if earlier verdicts come from other annotation files, or the file cannot be written.
        """
        earlier = self._scopes.get(task, Scope(data_hash, frozenset()))
        if earlier.data_hash != data_hash:
            raise JudgeError(
                f"{self._path} holds verdicts for the annotation files {earlier.data_hash} of {task}, "
                f"these are {data_hash}",
                "name another file with --judge-file",
            )
        new = set(samples) - earlier.samples
        if new:
            self._write({"task": task, "data_hash": data_hash, "open": sorted(new)})
        self._scopes[task] = Scope(data_hash, earlier.samples | new)

    def append(self, verdict: Verdict) -> None:
        """Write one verdict so that neither a crash nor a power cut can take it back.

        Raises:
            JudgeError: if it is refused (:func:`read_verdict_file` says why), or cannot be written.
        """
        problem = _refusal(verdict, self._scopes, self._by_place, self.model)
        if problem:
            raise JudgeError(f"{self._path}: {problem}")
        self._write(dataclasses.asdict(verdict))
        self._by_place[verdict.place] = verdict

    def close(self) -> None:
        """Give the file free. Closing twice is fine."""
        self._lines.close()

    def _write(self, data: Mapping[str, Any]) -> None:
        if self._lines.closed:
            raise JudgeError(f"{self._path} is closed")
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


def read_verdict_file(path: Path) -> Verdicts | None:
    """Read verdicts without locking or changing them; a torn last line is left out.

    Returns:
        ``None`` if there is no such file, or it ends before its first line does.

    Raises:
        JudgeError: if it is no file of verdicts, a line is damaged, an answer has two verdicts, two models answered,
            or a verdict is about a sample that is not open.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JudgeError(f"cannot read {path}: {error.strerror}") from error
    return _parse(data, path)[0]


def _parse(data: bytes, path: Path) -> tuple[Verdicts | None, int]:
    """Return the verdicts and the length in bytes of the whole lines."""
    identity: JudgeIdentity | None = None
    scopes: dict[str, Scope] = {}
    by_place: dict[_Place, Verdict] = {}
    model: str | None = None
    whole = 0

    def damaged(number: int, error: ValueError) -> JudgeError:
        return JudgeError(
            f"{path}, line {number} is damaged: {error}",
            "a crash cannot do this; delete the line to have its answer judged again",
        )

    for number, content, end in whole_lines(data, damaged):
        place = f"{path}, line {number}"
        if not isinstance(content, dict):
            raise JudgeError(f"{place} is not an object", "restore the file from a copy")
        if identity is None:
            identity = _head(content, place)
        elif "open" in content:
            _add_scope(content, scopes, place)
        else:
            verdict = _verdict(content, place)
            problem = _refusal(verdict, scopes, by_place, model)
            if problem:
                raise JudgeError(f"{place}: {problem}", "restore the file from a copy")
            by_place[verdict.place] = verdict
            model = verdict.model
        whole = end
    if identity is None and not data.startswith(_BEGINNING[: len(data)]):
        # A stranger's file without a whole line would be taken for a torn one, and cut.
        raise JudgeError(f"{path} is no file of verdicts", "name another file with --judge-file")
    return (None if identity is None else Verdicts(identity, scopes, by_place)), whole


def _head(content: Mapping[str, Any], place: str) -> JudgeIdentity:
    if "judge" not in content:
        raise JudgeError(f"{place} does not name a judge", "this is no file of verdicts; name another one")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise JudgeError(f"{place}: verdicts of schema {content.get('schema_version')!r:.40}, not {SCHEMA_VERSION}")
    return identity_from_json(content["judge"])


def _add_scope(content: Mapping[str, Any], scopes: dict[str, Scope], place: str) -> None:
    task, data_hash, samples = content.get("task"), content.get("data_hash"), content["open"]
    if (
        not isinstance(task, str)
        or not isinstance(data_hash, str)
        or not isinstance(samples, list)
        or not all(isinstance(sample, str) for sample in samples)
    ):
        raise JudgeError(f"{place} does not name open samples", "restore the file from a copy")
    earlier = scopes.get(task, Scope(data_hash, frozenset()))
    if earlier.data_hash != data_hash:
        raise JudgeError(f"{place}: {task} comes from two sets of annotation files", "restore the file from a copy")
    scopes[task] = Scope(data_hash, earlier.samples | set(samples))


def _verdict(content: Mapping[str, Any], place: str) -> Verdict:
    kinds = {field.name: field.type for field in dataclasses.fields(Verdict)}
    if content.keys() != kinds.keys() or any(type(value).__name__ != kinds[name] for name, value in content.items()):
        raise JudgeError(f"{place} is not a verdict", "restore the file from a copy")
    return Verdict(**content)


def _refusal(
    verdict: Verdict, scopes: Mapping[str, Scope], by_place: Mapping[_Place, Verdict], model: str | None
) -> str:
    scope = scopes.get(verdict.task)
    if scope is None or verdict.sample_id not in scope.samples:
        return f"a verdict on {verdict.task} {verdict.sample_id!r}, which is not an open sample"
    if verdict.place in by_place:
        return f"second verdict on the same answer to {verdict.task} {verdict.sample_id!r}"
    if model is not None and verdict.model != model:
        return f"verdicts of two models, {model!r} and {verdict.model!r}"
    return ""


def _write_error(path: Path, error: OSError) -> JudgeError:
    if disk_is_full(error):
        return JudgeError(f"disk full while writing {path}; what was judged is safe", "free space and go on")
    return JudgeError(f"cannot write {path}: {error.strerror}", "mend this, or name another file with --judge-file")
