"""VUE-TR: find every moment that fits a query, in videos up to an hour and a half long."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vital_eval.metrics.vue_tr import iou_area, precision_area, recall_area
from vital_eval.parsing.spans import parse_spans
from vital_eval.sample import Sample, Target
from vital_eval.task import Answer, AnswerKind, Metric, Scores, Task, Unparsed

from .annotations import Record, checked, read_records, video_path

_FILE = "VUE-TR_ground_truth.json"
_SOURCE = "qa_eval.py of bytedance/vidi"


class VUETR(Task):
    """VUE-TR (first version): 1,598 queries on 424 videos, several spans allowed on both sides.

    Break-downs of the official table (duration, format, modality) are attributes; the vision subset has a metric of
    its own, because vision-only models are compared on it. Precision leaves out queries without a prediction, as
    officially: it means nothing without the other two. Reversed and empty spans are refused when the answer is read,
    where the official script would turn them round for precision and recall.
    """

    name: ClassVar[str] = "vue_tr"
    title: ClassVar[str] = "VUE-TR"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("IoU AUC", "iou-auc", f"area under the share of queries with IoU > t; {_SOURCE}"),
        Metric("Precision AUC", "precision-auc", f"area under the share with precision >= t, of answered; {_SOURCE}"),
        Metric("Recall AUC", "recall-auc", f"area under the share of queries with recall >= t; {_SOURCE}"),
        Metric("Vision IoU AUC", "vision-iou-auc", f"IoU AUC on queries about what is seen only; {_SOURCE}"),
    )
    primary: ClassVar[str] = "IoU AUC"

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
        predicted = tuple(span.as_window() for span in answer.spans) if answer else ()
        annotated = sample.target.windows
        iou = iou_area(predicted, annotated)
        return {
            "iou-auc": iou,
            "precision-auc": precision_area(predicted, annotated),
            # The official area starts at recall >= 0, which an empty prediction passes too: it would get 0.005 for
            # nothing. No answer never scores above 0 here; the figure is lower by 0.5 points x the share unanswered.
            "recall-auc": recall_area(predicted, annotated) if predicted else 0.0,
            "vision-iou-auc": iou if sample.attributes["query_modality"] == "vision" else None,
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
