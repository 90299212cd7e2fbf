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
from vital_eval.span import Span, Window

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


@dataclass(frozen=True, slots=True)
class SubmissionForm:
    """Names of the fields in a benchmark's official result records.

    Attributes:
        identity: field that names the question.
        windows: field that holds a list of [start, end] pairs in seconds, ``""`` if there is none.
        answer: field that holds the letter or text, ``""`` if there is none.
    """

    identity: str
    windows: str = ""
    answer: str = ""


class Task(ABC):
    """One benchmark.

    Class attributes:
        name: registry name and folder name below the data root.
        title: name as printed in tables.
        metrics: every figure the task reports; each is a weighted mean of per-sample scores.
        primary: name of the headline metric.
        scorer_version: raised whenever parsing or scoring changes a number.
        digits: decimals of a percent figure in the official output.
        broken_down: names of the metrics that break-downs by attribute show; the headline alone if empty.
        gain_metric: metric whose gain over a question-only run the benchmark reports (delta knowledge), or ``""``.
        submission: official form of a result file, if there is one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    primary: ClassVar[str]
    scorer_version: ClassVar[int] = 1
    digits: ClassVar[int] = 2
    broken_down: ClassVar[tuple[str, ...]] = ()
    gain_metric: ClassVar[str] = ""
    submission: ClassVar[SubmissionForm | None] = None

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
        """Score a parsed answer, or ``None`` (no usable answer).

        Nothing may score above 0 without an answer, unless the official definition gives something for it
        (VUE-TR recall).

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

    def submission_samples(self, folder: Path) -> tuple[Sample, ...]:
        """Return the samples that predictions made elsewhere are scored on; the same ones, unless the key says more.

        Raises:
            DataError: as :meth:`samples`.
        """
        return self.samples(folder)

    def official_id(self, sample: Sample) -> str:
        """Return the id under which official result files name this sample."""
        return sample.id

    def score_windows(self, windows: tuple[Window, ...], sample: Sample) -> Scores | None:
        """Score raw windows of a result file as the official script does, reversed and empty ones included.

        Returns:
            ``None`` where the official script takes no such windows: they are then read as spans and scored as
            any other answer.
        """
        del windows, sample
        return None

    def training_moments(self, folder: Path) -> tuple[tuple[Window, float], ...]:
        """Return every annotated window of the training split with the duration of its video, in seconds.

        Empty where the benchmark has no training annotations or their file does not lie in ``folder``. They serve
        a baseline and nothing else.
        """
        del folder
        return ()

    def subtitles(self, sample: Sample) -> str | None:
        """Return the path of the sample's subtitle file below the task's folder; ``None`` if it has none."""
        del sample
        return None

    def primary_metric(self) -> Metric:
        """Return the headline metric."""
        return next(metric for metric in self.metrics if metric.name == self.primary)
