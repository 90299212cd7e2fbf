"""One benchmark question and what counts as right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from vital_eval.span import Window


@dataclass(frozen=True, slots=True)
class Target:
    """The structured ground truth of one sample; only the fields its task scores are set.

    Ground truth is never parsed out of prose (ReXTime's sentence form misleads every number parser).

    Attributes:
        windows: annotated spans in seconds, as the file gives them (they may be degenerate or end
            after the video).
        letter: the right option's letter.
        text: the right answer as text.
        number: the right answer as a number.
    """

    windows: tuple[Window, ...] = ()
    letter: str | None = None
    text: str | None = None
    number: float | None = None


#: One for all samples without attributes.
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of one benchmark.

    Attributes:
        id: stable and unique within the task (built from the official keys, never a row index).
        task: name of the task it belongs to.
        video: path of the video below the task's ``videos/`` folder, with ``/`` separators.
        duration: length of the video in seconds as the annotation gives it; ``None`` where the official
            file has none (the probe's value is used then).
        question: the query sentence or question, outer white space stripped.
        target: the ground truth.
        options: option texts in order; the first is option A. Empty for questions without options.
        cluster: unit that shares context, for clustered statistics (the video; VSI-Bench: the scene).
        attributes: string facts for break-downs (question type, duration bucket, discipline ...).
        ends_with_question_image: the last frame of the video belongs to the question and must be among
            the frames shown (Video-MMMU).
    """

    id: str
    task: str
    video: str
    duration: float | None
    question: str
    target: Target
    cluster: str
    options: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    ends_with_question_image: bool = False

    def option_letters(self) -> tuple[str, ...]:
        """Return the letters that exist for this sample: ``A``, ``B``, ... one per option."""
        return tuple(option_letter(index) for index in range(len(self.options)))


def option_letter(index: int) -> str:
    """Return the letter of the option at ``index`` (0 is A).

    Raises:
        ValueError: beyond Z; no benchmark here offers more than 14 options.
    """
    if not 0 <= index < 26:
        raise ValueError(f"option index {index} has no letter")
    return chr(ord("A") + index)
