"""Errors written for people: one line that says what is wrong, where, and how to mend it."""

from __future__ import annotations


class VitalError(Exception):
    """Base of every error that the command line shows as one line with a non-zero exit status.

    Args:
        problem: what is wrong and where, one sentence without a final stop.
        mend: what the user can do about it, or ``""`` when nothing useful can be said.
    """

    def __init__(self, problem: str, mend: str = "") -> None:
        super().__init__(problem, mend)
        self.problem = problem
        self.mend = mend

    def __str__(self) -> str:
        """Return the one line shown to the user."""
        return f"{self.problem}; {self.mend}" if self.mend else self.problem


class UnknownNameError(VitalError):
    """A task, engine, tool, decoder or preset that is not known."""


class DataError(VitalError):
    """Annotation files that are missing, unreadable or not in the official form."""


class MediaError(VitalError):
    """One video that is missing, unreadable or refused; it concerns one sample and never stops a run.

    Args:
        kind: short stable code that records count: ``missing``, ``outside-root``, ``no-video-stream``,
            ``unreadable``, ``truncated``, ``too-large``, ``timeout`` or ``decoder-crashed``.
        problem: see :class:`VitalError`.
        mend: see :class:`VitalError`.
    """

    def __init__(self, kind: str, problem: str, mend: str = "") -> None:
        super().__init__(problem, mend)
        self.kind = kind

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:
        """Keep the three arguments when the error travels between processes."""
        return (MediaError, (self.kind, self.problem, self.mend))


class CheckpointError(VitalError):
    """A checkpoint folder that is missing, incomplete, not safetensors, or asks for remote code."""


class ProtocolError(VitalError):
    """A protocol that contradicts itself or cannot be read."""


class EngineError(VitalError):
    """The engine failed on one request; the sample is owed again."""


class RunLogError(VitalError):
    """A run folder that is locked, damaged, or belongs to another specification."""


class MissingExtraError(VitalError):
    """An optional part that is not installed."""
