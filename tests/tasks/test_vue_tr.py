"""VUE-TR against its released predictions and published table."""

from __future__ import annotations

import csv
import json

import pytest

from vital_eval.metrics.vue_tr import iou_area, precision_area, recall_area
from vital_eval.registry import Registry
from vital_eval.task import AnswerKind

FILES = {"GPT-4o": "predictions_gpt-4o.json", "Gemini-2.5-Pro": "predictions_gemini-2.5-pro.json"}


def test_golden_case(load) -> None:
    task, (sample, other) = load("vue_tr")
    assert task.answer_kind(sample) is AnswerKind.SPANS
    # 0.5 to 7.5 widens to [0, 8]; 16 to 32 holds [16, 24]: shared 16, predicted 24, annotated 16, union 24.
    scores = task.score(task.parse("0.5 to 7.5, 16 to 32", sample), sample)
    # IoU 2/3 exceeds the 67 thresholds 0 to .66; precision 2/3 reaches the same ones; recall 1 reaches all.
    assert scores == pytest.approx(
        {
            "iou-auc": 0.665,
            "precision-auc": 0.665,
            "precision-auc-all": 0.665,
            "recall-auc": 1.0,
            "success@0.3": 1.0,
            "success@0.5": 1.0,
            "success@0.7": 0.0,
            "vision-iou-auc": 0.665,
        }
    )
    assert task.score(task.parse("0 to 32", other), other)["vision-iou-auc"] is None


def test_no_prediction_leaves_official_precision_and_counts_in_the_second(load) -> None:
    task, (sample, _) = load("vue_tr")
    scores = task.score(None, sample)
    assert scores["precision-auc"] is None
    assert scores["precision-auc-all"] == 0.0
    # The official curve begins at recall >= 0, which silence passes as well.
    assert scores["recall-auc"] == pytest.approx(0.005)
    assert {scores[key] for key in ("iou-auc", "success@0.3", "vision-iou-auc")} == {0.0}


def test_result_files_are_scored_on_raw_windows(load) -> None:
    task, (sample, _) = load("vue_tr")
    turned = task.score_windows(((24.0, 16.0),), sample)
    # Reversed: officially nothing for IoU, all of it for precision.
    assert turned["iou-auc"] == 0.0
    assert turned["precision-auc"] == 1.0


def test_reversed_spans_are_left_out_and_noted(load) -> None:
    task, (sample, _) = load("vue_tr")
    answer = task.parse("0 to 8, 24 to 16", sample)
    assert len(answer.spans) == 1
    assert answer.notes == ("reversed-span",)


def test_official_counts(official) -> None:
    samples = Registry("task").load("vue_tr")().samples(official("vue_tr"))
    assert len(samples) == 1598
    assert len({sample.cluster for sample in samples}) == 424
    vision = [sample for sample in samples if sample.attributes["query_modality"] == "vision"]
    assert (len(vision), len({sample.cluster for sample in vision})) == (562, 268)
    assert sum(len(sample.target.windows) > 1 for sample in samples) == 458


@pytest.mark.parametrize("method", FILES)
def test_published_rows_to_the_printed_digit(method, official) -> None:
    folder = official("vue_tr")
    predictions = {
        str(row["query_id"]): [window for window in row["answer"] if window]
        for row in json.loads((folder / FILES[method]).read_text(encoding="utf-8"))
    }
    samples = Registry("task").load("vue_tr")().samples(folder)
    with (folder / "published_rows.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == method]
    assert len(rows) == 12
    areas = {
        sample.id: [f(predictions[sample.id], sample.target.windows) for f in (precision_area, recall_area, iou_area)]
        for sample in samples
    }
    for row in rows:
        chosen = [
            areas[sample.id]
            for sample in samples
            if row["attribute"] == "overall" or row["attribute"] in sample.attributes.values()
        ]
        printed = []
        for column in zip(*chosen, strict=True):
            values = [value for value in column if value is not None]
            printed.append(f"{100 * sum(values) / len(values):.1f}%")
        assert printed == [row["precision"], row["recall"], row["iou"]], row["attribute"]
