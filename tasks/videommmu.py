"""Video-MMMU: learning from lectures in three tracks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from vital_eval.parsing.numbers import parse_number
from vital_eval.parsing.options import parse_option
from vital_eval.parsing.text import exact_match, parse_open
from vital_eval.sample import Sample, Target
from vital_eval.task import Answer, AnswerKind, Metric, Scores, Task, Unparsed

from .annotations import Record, checked, read_mapping, record, video_path
from .multiple_choice import accuracy

_TRACKS = {"Perception": "perception", "Comprehension": "comprehension", "Adaptation": "adaptation"}
_SOURCE = "EvolvingLMMs-Lab/VideoMMMU"
_ID = re.compile(r"[a-z]+_(.+)_[0-9]+")
_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")
_LISTED = re.compile(r"[^\[\]',\s][^\[\]',]*")


class VideoMMMU(Task):
    """Video-MMMU test: 300 videos with one question in each of Perception, Comprehension and Adaptation.

    Adaptation's question shows an image, which is the last frame of its video. Its 20 open questions are scored by
    the stated answer alone: numbers are equal if they agree after rounding to two decimals (the MMMU convention),
    texts if they agree after normalisation. An empty answer is wrong and stays in the denominator.

    The gain from the video (delta knowledge) is that of Adaptation over a second run that sees the question and its
    image only: the blind mode. The hub files videos by a category map that the annotation files do not hold; videos
    are looked up as ``<subject>/<id>.mp4`` with the subject taken from the id.
    """

    name: ClassVar[str] = "videommmu"
    title: ClassVar[str] = "Video-MMMU"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("Overall", "accuracy", f"accuracy over the questions of all tracks; {_SOURCE}"),
        Metric("Perception", "perception", f"accuracy in this track; {_SOURCE}"),
        Metric("Comprehension", "comprehension", f"accuracy in this track; {_SOURCE}"),
        Metric("Adaptation", "adaptation", f"accuracy in this track; {_SOURCE}"),
    )
    primary: ClassVar[str] = "Overall"
    scorer_version: ClassVar[int] = 2
    gain_metric: ClassVar[str] = "Adaptation"

    def annotation_files(self) -> tuple[str, ...]:
        """Return one file per track."""
        return tuple(f"{track}_video.json" for track in _TRACKS.values())

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the questions of all three tracks."""
        return checked(self._questions(folder), folder)

    def answer_kind(self, sample: Sample) -> AnswerKind:
        """Ask for a letter, or for a short text where there are no options."""
        return AnswerKind.OPTION if sample.options else AnswerKind.OPEN

    def parse(self, text: str, sample: Sample) -> Answer | Unparsed:
        """Read the letter, or the text and the number it states."""
        if sample.options:
            return parse_option(text, sample.options)
        answer = parse_open(text)
        if isinstance(answer, Unparsed) or sample.target.number is None:
            return answer
        number = parse_number(text)
        return answer if isinstance(number, Unparsed) else number

    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Score under the overall figure and under the sample's own track."""
        value = (
            accuracy(answer, sample)
            if sample.options
            else float(answer is not None and _is_right(answer, sample.target))
        )
        return {"accuracy": value} | {
            key: value if sample.attributes["track"] == track else None for track, key in _TRACKS.items()
        }

    def _questions(self, folder: Path) -> Iterator[Sample]:
        for track, stem in _TRACKS.items():
            path = folder / f"{stem}_video.json"
            for name, questions in read_mapping(path):
                if name != track:
                    raise questions.fault(f"expected the track {track!r}")
                for key, fields in questions.fields.items():
                    yield self._question(record(fields, path, f"{track} {key}"), track)

    def _question(self, row: Record, track: str) -> Sample:
        video = row.text("id")
        subject = _ID.fullmatch(video)
        if not subject:
            raise row.fault(f"field 'id' must be source, subject and number (dev_Biology_3), got {video!r:.60}")
        options = row.options("options")
        return Sample(
            id=f"{track}/{video}",
            task=self.name,
            video=video_path(row, f"{subject[1]}/{video}.mp4"),
            duration=None,
            question=row.text("question"),
            options=options,
            target=Target(letter=row.letter("answer", options)) if options else _open_target(row.text("answer")),
            cluster=video,
            attributes={
                "track": track,
                "subject": subject[1],
                "question_type": "multiple-choice" if options else "open",
            },
            ends_with_question_image=track == "Adaptation",
        )


def _open_target(text: str) -> Target:
    return Target(text=text, number=float(text) if _NUMBER.fullmatch(text) else None)


def _is_right(answer: Answer, target: Target) -> bool:
    if target.number is not None:
        return answer.number is not None and round(answer.number, 2) == round(target.number, 2)
    text = target.text or ""
    # One official answer is a (broken) list of accepted forms.
    accepted = [text, *_LISTED.findall(text)] if text.startswith("[") else [text]
    return any(exact_match(answer.text, form) for form in accepted)
