"""Perfect and best possible predictions on the real files, against figures computed independently of this code."""

from __future__ import annotations

import pytest

from vital_eval.predictions import Prediction, PredictionFile
from vital_eval.registry import Registry
from vital_eval.score import figure, score_predictions


def scored(name, folder, predict):
    task = Registry("task").load(name)()
    samples = task.submission_samples(folder)
    file = PredictionFile({task.official_id(sample): predict(sample) for sample in samples}, ())
    result = score_predictions(task, samples, file)
    return {metric.name: 100 * figure(result, metric).value for metric in task.metrics}


def longest(sample):
    return max(sample.target.windows, key=lambda window: window[1] - window[0])


@pytest.mark.parametrize("name", ["charades_sta", "activitynet_mr"])
def test_the_annotation_itself_scores_full_marks(name, official) -> None:
    figures = scored(name, official(name), lambda sample: Prediction(windows=sample.target.windows))
    assert all(value == pytest.approx(100.0) for value in figures.values())


def test_rextime_loses_its_two_degenerate_windows(official) -> None:
    figures = scored(
        "rextime",
        official("rextime"),
        lambda sample: Prediction(windows=sample.target.windows, answer=sample.target.letter),
    )
    assert figures["VQA"] == 100.0
    for name in ("mIoU", "R1@0.7", "GQA@0.7"):
        assert figures[name] == pytest.approx(100 * 919 / 921)


def test_rextime_majority_letter(official) -> None:
    figures = scored("rextime", official("rextime"), lambda sample: Prediction(answer="A"))
    assert figures["VQA"] == pytest.approx(100 * 248 / 921)
    assert figures["GQA@0.3"] == 0.0


def test_next_gqa_longest_segment(official) -> None:
    figures = scored(
        "next_gqa",
        official("next_gqa"),
        lambda sample: Prediction(windows=(longest(sample),), answer=sample.target.letter),
    )
    assert round(figures["mIoU (set)"], 2) == 95.10
    for name in ("mIoU", "mIoP", "Acc@GQA", "Accuracy"):
        assert figures[name] == pytest.approx(100.0)


def test_next_gqa_midpoints_prove_nothing(official) -> None:
    def middle(sample):
        start, end = sample.target.windows[0]
        return Prediction(windows=(((start + end) / 2,) * 2,), answer=sample.target.letter)

    figures = scored("next_gqa", official("next_gqa"), middle)
    assert (figures["mIoP"], figures["Acc@GQA"], figures["Accuracy"]) == (0.0, 0.0, 100.0)


def test_vue_tr_oracles(official) -> None:
    folder = official("vue_tr")
    every = scored("vue_tr", folder, lambda sample: Prediction(windows=sample.target.windows))
    one = scored("vue_tr", folder, lambda sample: Prediction(windows=(longest(sample),)))
    assert (round(every["IoU AUC"], 2), round(every["Vision IoU AUC"], 2)) == (99.42, 99.32)
    assert (round(one["IoU AUC"], 2), round(one["Vision IoU AUC"], 2)) == (87.77, 86.29)


def test_vue_tr_answering_half_keeps_official_precision_and_halves_ours(official) -> None:
    figures = scored(
        "vue_tr",
        official("vue_tr"),
        lambda sample: Prediction(windows=sample.target.windows if int(sample.id) % 2 else ()),
    )
    assert figures["Precision AUC"] > 99.9
    assert figures["Precision AUC (all)"] == pytest.approx(50, abs=0.5)


@pytest.mark.parametrize(("name", "right"), [("mmvu", "MC accuracy"), ("videommmu", "Overall")])
def test_the_key_itself_scores_full_marks(name, right, official) -> None:
    figures = scored(name, official(name), lambda sample: Prediction(answer=sample.target.letter or sample.target.text))
    assert figures[right] == 100.0 if name == "mmvu" else figures[right] > 99.8


def test_majority_letters_of_mmvu_and_videommmu(official) -> None:
    figures = scored("mmvu", official("mmvu"), lambda sample: Prediction(answer="C"))
    assert round(figures["MC accuracy"], 1) == 22.7
    figures = scored("videommmu", official("videommmu"), lambda sample: Prediction(answer="C"))
    assert round(3 * figures["Perception"]) == 59
    assert round(3 * figures["Comprehension"]) == 54
