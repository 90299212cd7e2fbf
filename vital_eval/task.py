"""What a benchmark is: its samples, how an answer is read, how it is scored.

A task holds no prompts, frames or model settings: those are the protocol's. Parsing and scoring are pure,
so a finished run can be scored again without a model, a video or a GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from vital_eval.sample import Sample
from vital_eval.span import Span

#: Per-sample metric values in [0, 1]. ``None`` takes the sample out of that one metric's denominator, which
#: only metrics that are officially defined so may do (VUE-TR precision).
Scores = Mapping[str, float | None]


class AnswerKind(StrEnum):
    """What the answer field must hold; the protocol words the request for each kind."""

    SPAN = "span"
    SPANS = "spans"
    OPTION = "option"
    OPTION_AND_SPAN = "option-and-span"
    NUMBER = "number"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer field; only the parts the task asked for are set.

    Attributes:
        text: the answer field, outer white space stripped.
        spans: predicted spans in the order written.
        letter: chosen option, always one that exists for the sample.
        number: stated number.
        notes: what was odd about it (``no-span``, ``several-numbers`` ...), counted in reports.
    """

    text: str
    spans: tuple[Span, ...] = ()
    letter: str | None = None
    number: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unparsed:
    """An answer field that does not hold an answer: score 0, counted by ``reason``."""

    reason: str


@dataclass(frozen=True, slots=True)
class Metric:
    """A named mean of one per-sample score.

    Attributes:
        name: official name, as printed.
        score: key into :data:`Scores`.
        source: where the definition comes from (official script or paper).
    """

    name: str
    score: str
    source: str


class Task(ABC):
    """One benchmark.

    Class attributes:
        name: registry name and folder name below the data root.
        title: name as printed in tables.
        metrics: every figure the task reports; each is a weighted mean of per-sample scores.
        primary: name of the headline metric.
        scorer_version: raised whenever parsing or scoring changes a number.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    primary: ClassVar[str]
    scorer_version: ClassVar[int] = 1

    @abstractmethod
    def annotation_files(self) -> tuple[str, ...]:
        """Return the files below the task's folder that :meth:`samples` may read; some are alternatives or optional."""

    @abstractmethod
    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the official annotation files in ``folder`` (``<data root>/<task name>``).

        Raises:
            DataError: if a file is missing or not in the official form.
        """

    @abstractmethod
    def answer_kind(self, sample: Sample) -> AnswerKind:
        """Return what the answer field of this sample must hold."""

    @abstractmethod
    def parse(self, text: str, sample: Sample) -> Answer | Unparsed:
        """Read the answer field of the final turn. Never raises on any text."""

    @abstractmethod
    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Score a parsed answer, or ``None`` (no usable answer: nothing may score above 0).

        Returns:
            One value in [0, 1] (or ``None``, see :data:`Scores`) for each score key of :attr:`metrics`.
        """

    def strata(self, metric: Metric, sample: Sample) -> tuple[str, ...]:
        """Return the path of strata that ``metric`` averages over before it averages samples.

        ``()`` is a plain mean. ``("rel_direction", "easy")`` means: the strata named ``rel_direction`` count
        as one beside their siblings, and inside it ``easy`` counts as one beside its siblings.
        """
        del metric, sample
        return ()

    def primary_metric(self) -> Metric:
        """Return the headline metric."""
        return next(metric for metric in self.metrics if metric.name == self.primary)
