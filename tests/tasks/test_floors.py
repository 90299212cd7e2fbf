"""Whole-video floors on the real files, against figures computed independently of this code."""

from __future__ import annotations

import pytest

from vital_eval.baselines import random_guess, whole_video
from vital_eval.registry import Registry

FLOORS = {
    "charades_sta": {"iou": 26.99, "r1@0.3": 34.30, "r1@0.5": 0.43, "r1@0.7": 0.00},
    "activitynet_mr": {"iou": 34.57, "r1@0.3": 48.02, "r1@0.5": 21.21, "r1@0.7": 12.41},
    "rextime": {"iou": 37.25, "r1@0.3": 43.97, "r1@0.5": 32.14, "r1@0.7": 20.30},
    "next_gqa": {"iou": 21.14, "iou-set": 22.65, "iop": 21.14, "iou@0.3": 20.57, "iop@0.5": 8.68, "accuracy": 20.0},
    "vue_tr": {"iou-auc": 17.23, "vision-iou-auc": 28.38, "precision-auc": 17.24, "recall-auc": 100.0},
}


@pytest.mark.parametrize("name", FLOORS)
def test_whole_video_floor(name, official) -> None:
    task = Registry("task").load(name)()
    scores = [whole_video(task, sample) for sample in task.samples(official(name))]
    for key, expected in FLOORS[name].items():
        values = [score[key] for score in scores if score[key] is not None]
        mean = 100 * sum(values) / len(values)
        # The three NExT-GQA questions with equal options are a little easier to guess.
        assert mean == pytest.approx(expected, abs=0.02 if key == "accuracy" else 0.005)


def test_blind_floors_of_lettered_questions(official) -> None:
    task = Registry("task").load("videommmu")()
    samples = task.samples(official("videommmu"))
    scores = [random_guess(task, sample, samples, draws=1) for sample in samples]
    for track, expected in {"perception": 11.21, "comprehension": 10.88, "adaptation": 11.96}.items():
        values = [score[track] for score in scores if score[track] is not None]
        assert len(values) == 300
        assert 100 * sum(values) / 300 == pytest.approx(expected, abs=0.005)
