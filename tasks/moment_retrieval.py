"""What the single-moment benchmarks share: one span per query, R1@IoU and mIoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from vital_eval.metrics.iou import best_hull_iou
from vital_eval.parsing.spans import parse_span
from vital_eval.sample import Sample, Target
from vital_eval.span import Window
from vital_eval.task import Answer, AnswerKind, Metric, Scores, Task, Unparsed

from .annotations import read_mapping, video_path


class MomentRetrieval(Task):
    """One query, one span: R1@{.3, .5, .7} with IoU >= threshold, and mIoU over all queries.

    The IoU is the hull form; ground truth is never clipped to the video, though hundreds of Charades-STA ends lie
    after it. No answer scores 0 and stays in the denominator.
    """

    thresholds: ClassVar[Mapping[str, float]] = {"r1@0.3": 0.3, "r1@0.5": 0.5, "r1@0.7": 0.7}
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("mIoU", "iou", "mean of hull IoU over queries, as in the TALL line of work"),
        Metric("R1@0.3", "r1@0.3", "share of queries with IoU >= 0.3"),
        Metric("R1@0.5", "r1@0.5", "share of queries with IoU >= 0.5"),
        Metric("R1@0.7", "r1@0.7", "share of queries with IoU >= 0.7"),
    )
    primary: ClassVar[str] = "mIoU"
    scorer_version: ClassVar[int] = 2

    def answer_kind(self, sample: Sample) -> AnswerKind:
        """Ask for one span."""
        del sample
        return AnswerKind.SPAN

    def parse(self, text: str, sample: Sample) -> Answer | Unparsed:
        """Read the last span that the answer states."""
        del sample
        return parse_span(text)

    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Score the one span."""
        iou = first_span_iou(answer, sample.target.windows)
        return {"iou": iou} | {key: float(iou >= threshold) for key, threshold in self.thresholds.items()}


def first_span_iou(answer: Answer | None, windows: tuple[Window, ...]) -> float:
    """Return the best hull IoU of the answer's first span, 0 without one."""
    return best_hull_iou(answer.spans[0].as_window(), windows) if answer and answer.spans else 0.0


def captioned_training_moments(path: Path) -> tuple[tuple[Window, float], ...]:
    """Return every window of a training file in the form of :func:`captioned_moments`, with its video's duration.

    Empty if the file is not there: it serves a baseline only.
    """
    if not path.is_file():
        return ()
    return tuple(
        (window, entry.duration()) for _, entry in read_mapping(path) for window in entry.windows("timestamps")
    )


def captioned_moments(path: Path, task: str) -> Iterator[Sample]:
    """Read the JSON form shared by Charades-STA and ActivityNet Captions.

    One object per video with ``duration`` and the parallel lists ``timestamps`` and ``sentences``. The place in
    these lists is the only official key of a query: ids are ``<video>/<place>``.
    """
    for video, entry in read_mapping(path):
        duration = entry.duration()
        windows, sentences = entry.windows("timestamps"), entry.items("sentences")
        if len(windows) != len(sentences):
            raise entry.fault(f"{len(windows)} timestamps do not match {len(sentences)} sentences")
        for place, (window, sentence) in enumerate(zip(windows, sentences, strict=True)):
            if not isinstance(sentence, str) or not sentence.strip():
                raise entry.fault(f"sentence {place} must be a text")
            yield Sample(
                id=f"{video}/{place}",
                task=task,
                video=video_path(entry, f"{video}.mp4"),
                duration=duration,
                question=sentence.strip(),
                target=Target(windows=(window,)),
                cluster=video,
            )
