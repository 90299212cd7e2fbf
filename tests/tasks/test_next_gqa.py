"""NExT-GQA: answer and evidence."""

from __future__ import annotations

import pytest

from vital_eval.registry import Registry
from vital_eval.task import Answer


def test_golden_case(load) -> None:
    task, (sample, _) = load("next_gqa")
    # Segments [2, 6] and [10, 12]; the answer spans [4, 8].
    scores = task.score(task.parse("B, 4 to 8", sample), sample)
    assert scores == pytest.approx(
        {
            "iou": 2 / 6,
            "iou@0.3": 1.0,
            "iou@0.5": 0.0,
            "iop": 0.5,
            "iop@0.3": 1.0,
            "iop@0.5": 1.0,
            "accuracy": 1.0,
            "acc@gqa": 1.0,
            "iou-set": 2 / (4 + 6 - 2),
        }
    )


def test_acc_at_gqa_needs_both(load) -> None:
    task, (sample, _) = load("next_gqa")
    assert task.score(task.parse("A, 4 to 6", sample), sample)["acc@gqa"] == 0.0
    assert task.score(task.parse("B, 6 to 8", sample), sample)["acc@gqa"] == 0.0
    assert task.score(task.parse("B", sample), sample)["acc@gqa"] == 0.0


def test_iou_and_iop_take_their_own_best_segment(load) -> None:
    task, (sample, _) = load("next_gqa")
    scores = task.score(task.parse("B, 3 to 12", sample), sample)
    assert scores["iou"] == pytest.approx(3 / 10)
    assert scores["iop"] == pytest.approx(3 / 9)


def test_equal_options_are_equally_right(load) -> None:
    task, (sample, _) = load("next_gqa")
    assert sample.target.letter == "B"
    assert [task.score(Answer("", letter=letter), sample)["accuracy"] for letter in "ABCDE"] == [0, 1, 1, 0, 0]


def test_fields(load) -> None:
    _, (first, second) = load("next_gqa")
    assert (first.id, second.id) == ("77/0", "77/3")
    assert first.video == "0001/77.mp4"
    assert first.duration == 30.0
    assert second.options[4] == "eat, drink"
    assert second.attributes["question_type"] == "TN"


def test_official_counts(official) -> None:
    samples = Registry("task").load("next_gqa")().samples(official("next_gqa"))
    assert len(samples) == 5553
    assert len({sample.cluster for sample in samples}) == 990
    assert sum(len(sample.target.windows) for sample in samples) == 6600
    assert sum(len(sample.target.windows) > 1 for sample in samples) == 591
    assert sum(len(set(sample.options)) < 5 for sample in samples) == 3
