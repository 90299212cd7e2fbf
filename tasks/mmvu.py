"""MMVU: expert-level questions from 27 subjects, validation split."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vital_eval.metrics.choice import letter_accuracy
from vital_eval.parsing.options import parse_option
from vital_eval.parsing.text import exact_match, parse_open
from vital_eval.sample import Sample, Target
from vital_eval.task import Answer, AnswerKind, Metric, Scores, Task, Unparsed

from .annotations import Record, checked, read_records, record, video_path

_FILE = "validation.json"
_LETTERS = "ABCDE"


class MMVU(Task):
    """MMVU validation: 625 multiple-choice and 375 open-ended questions on 583 videos.

    The official figure has GPT-4o judge both types. Here the multiple-choice part is scored by rule and reported on
    its own. Open answers count as right only if they equal the reference after normalisation: a strict lower bound,
    kept apart because it is not the judged figure (``vital-eval judge`` gives that one). Nothing is ever matched as a
    part of something else.
    """

    name: ClassVar[str] = "mmvu"
    title: ClassVar[str] = "MMVU"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("MC accuracy", "mc-accuracy", "right letter, multiple-choice questions only; no judge"),
        Metric("Open exact match", "open-exact-match", "normalised text equal, open-ended questions only; no judge"),
        Metric("Accuracy", "accuracy", "both types together, by rule; the official figure has a judge"),
    )
    primary: ClassVar[str] = "MC accuracy"
    scorer_version: ClassVar[int] = 2
    digits: ClassVar[int] = 1
    broken_down: ClassVar[tuple[str, ...]] = ("Accuracy", "MC accuracy", "Open exact match")

    def annotation_files(self) -> tuple[str, ...]:
        """Return the validation file."""
        return (_FILE,)

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the validation questions."""
        return checked((self._question(row, folder) for row in read_records(folder / _FILE)), folder)

    def answer_kind(self, sample: Sample) -> AnswerKind:
        """Ask for a letter, or for a short text where there are no options."""
        return AnswerKind.OPTION if sample.options else AnswerKind.OPEN

    def parse(self, text: str, sample: Sample) -> Answer | Unparsed:
        """Read the letter or the text."""
        return parse_option(text, sample.options) if sample.options else parse_open(text)

    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Score under both types together and under the sample's own type; the other one does not apply."""
        if sample.options:
            value = letter_accuracy(answer.letter if answer else None, sample.target.letter)
            return {"mc-accuracy": value, "open-exact-match": None, "accuracy": value}
        value = float(answer is not None and exact_match(answer.text, sample.target.text or ""))
        return {"mc-accuracy": None, "open-exact-match": value, "accuracy": value}

    def _question(self, row: Record, folder: Path) -> Sample:
        kind = row.text("question_type")
        if kind not in {"multiple-choice", "open-ended"}:
            raise row.fault(f"unknown question type {kind!r:.60}")
        _, found, path = row.text("video").partition("videos/")
        if not found:
            raise row.fault("field 'video' must be an address with 'videos/' in it")
        metadata = record(row.value("metadata"), folder / _FILE, f"{row.key('id')}, metadata")
        options: tuple[str, ...] = ()
        if kind == "multiple-choice":
            # Open-ended records carry five empty choices; these are not options.
            choices = record(row.value("choices"), folder / _FILE, f"{row.key('id')}, choices")
            options = tuple(choices.text(letter) for letter in _LETTERS)
        return Sample(
            id=row.key("id"),
            task=self.name,
            video=video_path(row, path),
            duration=None,
            question=row.text("question"),
            options=options,
            target=Target(letter=row.letter("answer", options)) if options else Target(text=row.text("answer")),
            cluster=path,
            attributes={"question_type": kind, "subject": metadata.text("subject")},
        )
