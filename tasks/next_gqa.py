"""NExT-GQA: answer a question and show the moment that proves it, test split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from vital_eval.errors import DataError
from vital_eval.metrics.choice import option_text_accuracy
from vital_eval.metrics.iou import best_hull_iou, best_iop, set_iou
from vital_eval.parsing.options import parse_option_and_span
from vital_eval.sample import Sample, Target, option_letter
from vital_eval.task import Answer, AnswerKind, Metric, Scores, Task, Unparsed

from .annotations import Record, checked, read_csv, read_json, read_mapping, record, video_path

_QUESTIONS, _SEGMENTS, _VIDEOS = "test.csv", "gsub_test.json", "map_vid_vidorID.json"
_SOURCE = "eval_ground.py of doc-doc/NExT-GQA"


class NExTGQA(Task):
    """NExT-GQA test: 5,553 questions on 990 videos, five options and one or more segments each.

    IoU and IoP are each the best over the segments. Two deviations from the official script, both against inflated
    figures: a question without a prediction counts as 0 instead of leaving the denominator, and a zero-length
    prediction has IoP 0. The key is the option's text, because three questions offer the same text twice.
    """

    name: ClassVar[str] = "next_gqa"
    title: ClassVar[str] = "NExT-GQA"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("Acc@GQA", "acc@gqa", f"right answer and IoP >= 0.5; {_SOURCE}"),
        Metric("mIoP", "iop", f"best intersection / predicted length over segments; {_SOURCE}"),
        Metric("IoP@0.3", "iop@0.3", f"share with IoP >= 0.3; {_SOURCE}"),
        Metric("IoP@0.5", "iop@0.5", f"share with IoP >= 0.5; {_SOURCE}"),
        Metric("mIoU", "iou", f"best hull IoU over segments; {_SOURCE}"),
        Metric("IoU@0.3", "iou@0.3", f"share with IoU >= 0.3; {_SOURCE}"),
        Metric("IoU@0.5", "iou@0.5", f"share with IoU >= 0.5; {_SOURCE}"),
        Metric("Accuracy", "accuracy", "right option, compared by text"),
        Metric("mIoU (set)", "iou-set", "IoU with the union of all segments; src_eval of OpenGVLab/VideoChat-R1"),
    )
    primary: ClassVar[str] = "Acc@GQA"
    scorer_version: ClassVar[int] = 2
    digits: ClassVar[int] = 1
    broken_down: ClassVar[tuple[str, ...]] = ("Acc@GQA", "mIoP", "mIoU", "Accuracy")

    def annotation_files(self) -> tuple[str, ...]:
        """Return the questions, the segments and the map from video id to path."""
        return (_QUESTIONS, _SEGMENTS, _VIDEOS)

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the test questions and join their segments."""
        return checked(self._questions(folder), folder)

    def official_id(self, sample: Sample) -> str:
        """Return ``<video>_<qid>``, the key of official prediction files."""
        return sample.id.replace("/", "_")

    def answer_kind(self, sample: Sample) -> AnswerKind:
        """Ask for a letter and a span."""
        del sample
        return AnswerKind.OPTION_AND_SPAN

    def parse(self, text: str, sample: Sample) -> Answer | Unparsed:
        """Read the chosen letter and the span."""
        return parse_option_and_span(text, sample.options)

    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Score the answer and its evidence."""
        target = sample.target
        window = answer.spans[0].as_window() if answer and answer.spans else None
        iou = best_hull_iou(window, target.windows) if window else 0.0
        proof = best_iop(window, target.windows) if window else 0.0
        right = option_text_accuracy(answer.letter if answer else None, sample.options, target.text or "")
        return {
            "acc@gqa": float(right > 0 and proof >= 0.5),
            "iop": proof,
            "iop@0.3": float(proof >= 0.3),
            "iop@0.5": float(proof >= 0.5),
            "iou": iou,
            "iou@0.3": float(iou >= 0.3),
            "iou@0.5": float(iou >= 0.5),
            "accuracy": right,
            "iou-set": set_iou((window,), target.windows) if window else 0.0,
        }

    def _questions(self, folder: Path) -> Iterator[Sample]:
        segments = dict(read_mapping(folder / _SEGMENTS))
        videos = read_json(folder / _VIDEOS)
        if not isinstance(videos, dict):
            raise DataError(f"{folder / _VIDEOS} must hold an object", "compare it with the official release")
        for row in read_csv(folder / _QUESTIONS):
            video, qid = row.text("video_id"), row.text("qid")
            if video not in segments:
                raise row.fault(f"video {video} is not in {_SEGMENTS}")
            path = videos.get(video)
            if not isinstance(path, str):
                raise row.fault(f"video {video} is not in {_VIDEOS}")
            options = tuple(row.text(f"a{index}") for index in range(5))
            right = row.text("answer")
            if right not in options:
                raise row.fault(f"the answer {right!r:.60} is none of the options")
            yield Sample(
                id=f"{video}/{qid}",
                task=self.name,
                video=video_path(row, f"{path}.mp4"),
                duration=segments[video].duration(),
                question=row.text("question"),
                options=options,
                target=Target(
                    windows=_location(segments[video], folder, video).windows(qid),
                    letter=option_letter(options.index(right)),
                    text=right,
                ),
                cluster=video,
                attributes={"question_type": row.text("type")},
            )


def _location(entry: Record, folder: Path, video: str) -> Record:
    return record(entry.value("location"), folder / _SEGMENTS, f"{video}, location")
