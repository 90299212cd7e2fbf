"""ReXTime: cause and effect across time, answered and grounded, validation split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from vital_eval.errors import DataError
from vital_eval.parsing.options import parse_option_and_span
from vital_eval.parsing.spans import parse_span
from vital_eval.sample import Sample, Target
from vital_eval.task import Answer, AnswerKind, Metric, Scores, SubmissionForm, Task, Unparsed

from .annotations import Record, checked, has_hub_rows, read_hub_rows, read_lines, video_path
from .moment_retrieval import first_span_iou
from .multiple_choice import accuracy

_FILE, _HUB_STEM = "rextime_val.jsonl", "rextime_val_hub"
_SOURCE = "rextime_eval.py of ReXTime/ReXTime at cb9f484"
#: Every question has four options; without the hub file their texts are unknown, their letters are not.
_UNSEEN_OPTIONS = ("", "", "", "")


class ReXTime(Task):
    """ReXTime val: 921 questions on 696 videos, one window each.

    The repository's ``rextime_val.jsonl`` has the windows and the right letters but no options; these exist only in
    the hub's data set. Put that beside it as ``rextime_val_hub.jsonl`` or ``.parquet`` and they are joined by
    ``qid``. Without it a run is grounding alone: a span is asked for, and the accuracy metrics have no samples instead
    of a score of 0. Result files are scored on their letters either way, as officially.
    """

    name: ClassVar[str] = "rextime"
    title: ClassVar[str] = "ReXTime"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("mIoU", "iou", f"hull IoU of the first predicted window; {_SOURCE}"),
        Metric("R1@0.3", "r1@0.3", f"share with IoU >= 0.3; {_SOURCE}"),
        Metric("R1@0.5", "r1@0.5", f"share with IoU >= 0.5; {_SOURCE}"),
        Metric("R1@0.7", "r1@0.7", f"share with IoU >= 0.7; {_SOURCE}"),
        Metric("VQA", "accuracy", f"right option; {_SOURCE}"),
        Metric("GQA@0.3", "gqa@0.3", f"right option and IoU >= 0.3; {_SOURCE}"),
        Metric("GQA@0.5", "gqa@0.5", f"right option and IoU >= 0.5; {_SOURCE}"),
        Metric("GQA@0.7", "gqa@0.7", f"right option and IoU >= 0.7; {_SOURCE}"),
    )
    primary: ClassVar[str] = "mIoU"
    scorer_version: ClassVar[int] = 2
    broken_down: ClassVar[tuple[str, ...]] = ("mIoU", "VQA", "GQA@0.5")
    submission: ClassVar[SubmissionForm | None] = SubmissionForm("qid", windows="pred_relevant_windows", answer="ans")

    def annotation_files(self) -> tuple[str, ...]:
        """Return the repository's file and, in either form, the hub's (optional, see the class)."""
        return (_FILE, f"{_HUB_STEM}.jsonl", f"{_HUB_STEM}.parquet")

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the validation questions, with options where the hub file is there."""
        return checked(self._questions(folder, keyed=False), folder)

    def submission_samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the questions, with the repository's letters where the hub file is not there."""
        return checked(self._questions(folder, keyed=True), folder)

    def answer_kind(self, sample: Sample) -> AnswerKind:
        """Ask for a letter and a span, or for the span alone where there are no options."""
        return AnswerKind.OPTION_AND_SPAN if sample.options else AnswerKind.SPAN

    def parse(self, text: str, sample: Sample) -> Answer | Unparsed:
        """Read the span, and the letter where there are options."""
        return parse_option_and_span(text, sample.options) if sample.options else parse_span(text)

    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Score the span; score the letter where there are options."""
        iou = first_span_iou(answer, sample.target.windows)
        right = accuracy(answer, sample) if sample.options else None
        scores: dict[str, float | None] = {"iou": iou, "accuracy": right}
        for threshold in (0.3, 0.5, 0.7):
            scores[f"r1@{threshold}"] = float(iou >= threshold)
            scores[f"gqa@{threshold}"] = None if right is None else float(right > 0 and iou >= threshold)
        return scores

    def _questions(self, folder: Path, *, keyed: bool) -> Iterator[Sample]:
        hub: dict[str, Record] = {}
        if has_hub_rows(folder, _HUB_STEM):
            hub = {row.key("qid"): row for row in read_hub_rows(folder, _HUB_STEM)}
            if not hub:
                raise DataError(f"the hub file {_HUB_STEM} in {folder} is empty", "download it again, or remove it")
        for row in read_lines(folder / _FILE):
            qid, video = row.key("qid"), row.text("vid")
            if hub and qid not in hub:
                raise row.fault(f"question {qid} is not in the hub file {_HUB_STEM}")
            windows = row.windows("relevant_windows")
            if not windows:
                raise row.fault("field 'relevant_windows' is empty")
            options: tuple[str, ...] = ()
            if hub:
                options = hub[qid].options("options")
            elif keyed:
                options = _UNSEEN_OPTIONS
            letter = (hub[qid] if hub else row).letter("ans", options) if options else None
            yield Sample(
                id=qid,
                task=self.name,
                # QVHighlights ids hold dots: nothing is ever split off them.
                video=video_path(row, f"{video}.mp4"),
                duration=row.duration(),
                question=row.text("query"),
                options=options,
                target=Target(windows=windows, letter=letter),
                cluster=video,
                attributes={"source": qid.partition("_")[0]},
            )
