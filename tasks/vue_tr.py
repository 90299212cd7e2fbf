"""VUE-TR: find every moment that fits a query, in videos up to an hour and a half long."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vital_eval.metrics.vue_tr import area_above, official_iou, precision_area, recall_area
from vital_eval.parsing.spans import parse_spans
from vital_eval.sample import Sample, Target
from vital_eval.span import Window
from vital_eval.task import Answer, AnswerKind, Metric, Scores, SubmissionForm, Task, Unparsed

from .annotations import Record, checked, read_records, video_path

_FILE = "VUE-TR_ground_truth.json"
_SOURCE = "qa_eval.py of bytedance/vidi"
_THRESHOLDS = (0.3, 0.5, 0.7)


class VUETR(Task):
    """VUE-TR (first version): 1,598 queries on 424 videos, several spans allowed on both sides.

    Break-downs of the official table (duration, format, modality) are attributes; the vision subset has a metric of
    its own, because vision-only models are compared on it.

    Official precision leaves out queries without a prediction, so answering less raises it; beside it stands a second
    one in which they count 0. Official recall gives such queries 0.005, because its curve starts at recall >= 0.
    Result files are scored on their raw windows, as officially. Where a model's text is read, reversed and empty spans
    are refused instead of turned round.
    """

    name: ClassVar[str] = "vue_tr"
    title: ClassVar[str] = "VUE-TR"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("IoU AUC", "iou-auc", f"area under the share of queries with IoU > t; {_SOURCE}"),
        Metric("Precision AUC", "precision-auc", f"area under the share with precision >= t, of answered; {_SOURCE}"),
        Metric("Precision AUC (all)", "precision-auc-all", "the same with unanswered queries counted as 0; ours"),
        Metric("Recall AUC", "recall-auc", f"area under the share of queries with recall >= t; {_SOURCE}"),
        *(
            Metric(f"Success@{threshold}", f"success@{threshold}", f"share with IoU > {threshold}; {_SOURCE}")
            for threshold in _THRESHOLDS
        ),
        Metric("Vision IoU AUC", "vision-iou-auc", f"IoU AUC on queries about what is seen only; {_SOURCE}"),
    )
    primary: ClassVar[str] = "IoU AUC"
    scorer_version: ClassVar[int] = 2
    digits: ClassVar[int] = 1
    broken_down: ClassVar[tuple[str, ...]] = ("Precision AUC", "Precision AUC (all)", "Recall AUC", "IoU AUC")
    submission: ClassVar[SubmissionForm | None] = SubmissionForm("query_id", windows="answer")

    def annotation_files(self) -> tuple[str, ...]:
        """Return the ground truth."""
        return (_FILE,)

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the queries."""
        return checked((self._query(row) for row in read_records(folder / _FILE)), folder)

    def answer_kind(self, sample: Sample) -> AnswerKind:
        """Ask for all spans."""
        del sample
        return AnswerKind.SPANS

    def parse(self, text: str, sample: Sample) -> Answer | Unparsed:
        """Read all spans in the order stated; rounding to whole seconds belongs to the score."""
        del sample
        return parse_spans(text)

    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Return the sample's own areas; their means are the official figures."""
        return self.score_windows(tuple(span.as_window() for span in answer.spans) if answer else (), sample)

    def score_windows(self, windows: tuple[Window, ...], sample: Sample) -> Scores:
        """Score a prediction as the official script does: raw windows, in the order given."""
        annotated = sample.target.windows
        iou = official_iou(windows, annotated)
        area = area_above(iou)
        precision = precision_area(windows, annotated)
        return {
            "iou-auc": area,
            "precision-auc": precision,
            "precision-auc-all": precision or 0.0,
            "recall-auc": recall_area(windows, annotated),
            **{f"success@{threshold}": float(iou > threshold) for threshold in _THRESHOLDS},
            "vision-iou-auc": area if sample.attributes["query_modality"] == "vision" else None,
        }

    def _query(self, row: Record) -> Sample:
        video = row.text("video_id")
        return Sample(
            id=row.key("query_id"),
            task=self.name,
            video=video_path(row, f"{video}.mp4"),
            duration=row.duration(),
            question=row.text("query"),
            target=Target(windows=row.windows("gt")),
            cluster=video,
            attributes={name: row.text(name) for name in ("duration_category", "query_format", "query_modality")},
        )
