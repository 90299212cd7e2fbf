"""How often the most frequent letter is right in the real files, against counts made independently of this code."""

from __future__ import annotations

import time

import pytest

from vital_eval.baseline_estimates import MAJORITY_OPTION, BaselineTask, baseline_figures, estimate_baselines
from vital_eval.baselines import majority_answers
from vital_eval.registry import Registry

#: Metric to how many questions the constant letter gets right, and of how many.
COUNTS = {
    "mmvu": {"MC accuracy": (142, 625)},
    "next_gqa": {"Accuracy": (1136, 5553)},
    "videommmu": {"Perception": (59, 300), "Comprehension": (54, 300), "Adaptation": (59, 300)},
}
LETTERS = {"mmvu": {"MC accuracy": "C"}, "next_gqa": {"Accuracy": "D"}}


@pytest.mark.parametrize("name", COUNTS)
def test_majority_letter(name, official) -> None:
    task = Registry("task").load(name)()
    samples = task.samples(official(name))
    figures = baseline_figures(task, samples)[MAJORITY_OPTION]
    for metric, (right, count) in COUNTS[name].items():
        assert figures[metric].n == count
        assert figures[metric].value == pytest.approx(right / count)
    metrics = {metric.name: metric for metric in task.metrics}
    for metric, letter in LETTERS.get(name, {}).items():
        answers = majority_answers(task, metrics[metric], samples)
        assert {answer.letter for answer in answers.values() if answer} == {letter}


def test_each_track_of_videommmu_has_its_own_letter(official) -> None:
    task = Registry("task").load("videommmu")()
    samples = task.samples(official("videommmu"))
    letters = {}
    for metric in task.metrics:
        answers = majority_answers(task, metric, samples)
        letters[metric.name] = {answer.letter for answer in answers.values() if answer and answer.letter}
    assert letters["Perception"] == {"C"}
    assert letters["Comprehension"] == {"C"}
    assert letters["Adaptation"] == {"B"}


def test_majority_letter_of_rextime(official) -> None:
    # The repository's file has the right letters; the options, which only the hub has, do not matter here.
    task = Registry("task").load("rextime")()
    samples = task.submission_samples(official("rextime"))
    figures = baseline_figures(task, samples)[MAJORITY_OPTION]
    names = {metric.score: metric.name for metric in task.metrics}
    assert figures[names["accuracy"]].value == pytest.approx(248 / 921)
    # The whole video goes with the letter.
    assert 100 * figures[names["iou"]].value == pytest.approx(37.25, abs=0.005)


def test_a_full_split_is_quick(official) -> None:
    task = Registry("task").load("activitynet_mr")()
    samples = task.samples(official("activitynet_mr"))
    started = time.process_time()
    estimate_baselines([BaselineTask(task, samples, tuple((s.target.windows[0], s.duration or 1.0) for s in samples))])
    # Four seconds when written; a bound that a busy machine does not reach and a quadratic loop does.
    assert time.process_time() - started < 30
