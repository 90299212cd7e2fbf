"""LongVideo-Reason-eval: multiple choice on long videos, test split."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, ClassVar

from vital_eval.sample import Sample, Target
from vital_eval.task import Metric

from .annotations import Record, checked, read_lines, video_path
from .multiple_choice import MultipleChoice

_FILE = "test.jsonl"
_OWN_LINE = re.compile(r"^[ \t]*\(?([A-Z])[.):]\s+", re.MULTILINE)
_INLINE = re.compile(r"(?:\A|(?<=\s))\(?([A-Z])[.):]\s+")
_ANSWER = re.compile(r"(?:<answer>)?\s*\(?([A-Z])(?:[.):].*)?\s*(?:</answer>)?", re.DOTALL)


class LongVideoReason(MultipleChoice):
    """LongVideo-Reason test: ``videos``, ``problem`` (with the options inside) and ``answer`` of the hub's file.

    The official script is a skeleton that keys its output by video, so that the second question on a video gets the
    first one's answer. Here a question is keyed by video and a digest of its text.
    """

    name: ClassVar[str] = "longvideo_reason"
    title: ClassVar[str] = "LongVideo-Reason"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("Accuracy", "accuracy", "right letter; NVlabs/Long-RL eval"),)
    primary: ClassVar[str] = "Accuracy"
    scorer_version: ClassVar[int] = 2
    digits: ClassVar[int] = 1

    def annotation_files(self) -> tuple[str, ...]:
        """Return the hub's test file."""
        return (_FILE,)

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the test questions."""
        return checked((self._question(row) for row in read_lines(folder / _FILE)), folder)

    def _question(self, row: Record) -> Sample:
        problem = row.text("problem")
        question, options = split_problem(problem)
        if not question or len(options) < 2:
            raise row.fault("field 'problem' must be a question followed by its lettered options")
        answer = _ANSWER.fullmatch(row.text("answer"))
        if not answer or ord(answer[1]) - ord("A") >= len(options):
            raise row.fault(f"field 'answer' must be the letter of one of {len(options)} options")
        video = video_path(row, _single(row.value("videos"), row))
        digest = hashlib.sha256(problem.encode()).hexdigest()[:12]
        return Sample(
            id=f"{video}/{digest}",
            task=self.name,
            video=video,
            duration=None,
            question=question,
            options=options,
            target=Target(letter=answer[1]),
            cluster=video,
            attributes={"category": row.text("category")} if "category" in row.fields else {},
        )


def split_problem(problem: str) -> tuple[str, tuple[str, ...]]:
    """Take a problem text apart into its question and its options.

    Options are marked letters that count up from A ("A. ... B. ..."), each on its own line or all in one line.
    """
    marks = _counted_up(problem, _OWN_LINE) or _counted_up(problem, _INLINE)
    if not marks:
        return problem.strip(), ()
    ends = [mark.start() for mark in marks[1:]] + [len(problem)]
    options = tuple(problem[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True))
    return re.sub(r"\s*(?:Options|Choices):?\s*\Z", "", problem[: marks[0].start()]).strip(), options


def _counted_up(problem: str, marker: re.Pattern[str]) -> list[re.Match[str]]:
    marks: list[re.Match[str]] = []
    for mark in marker.finditer(problem):
        if ord(mark[1]) == ord("A") + len(marks):
            marks.append(mark)
        elif mark[1] == "A" and len(marks) == 1:
            # The first "A." was an initial in the question.
            marks = [mark]
    return marks if len(marks) > 1 else []


def _single(videos: Any, row: Record) -> str:
    if isinstance(videos, list) and len(videos) == 1:
        videos = videos[0]
    if not isinstance(videos, str) or not videos:
        raise row.fault(f"field 'videos' must name one video, got {videos!r:.60}")
    return videos
