"""Floors: expected scores of answers that need no video."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from vital_eval.baseline_estimates import (
    CENTRE_SPAN,
    MAJORITY_OPTION,
    PRIOR_SPAN,
    RANDOM,
    WHOLE_VIDEO,
    BaselineTask,
    baseline_figures,
    estimate_baselines,
)
from vital_eval.baselines import CENTRE, constant_span, fit_shares, majority_answers, random_guess, whole_video
from vital_eval.metrics.iou import hull_iou
from vital_eval.registry import Registry
from vital_eval.sample import Sample, Target
from vital_eval.task import Task


def task(name: str) -> Task:
    return Registry("task").load(name)()


def sample(of: str, name: str = "s", duration: float | None = 20.0, **fields) -> Sample:
    fields = {"target": Target(windows=((0.0, 10.0),)), "attributes": {}} | fields
    return Sample(id=name, task=of, video="v.mp4", duration=duration, question="q", cluster="v", **fields)


def number(name: str, value: float, kind: str = "object_counting") -> Sample:
    return sample("vsi_bench", name, target=Target(number=value), attributes={"question_type": kind})


GROUNDED_QUESTION: Mapping[str, object] = {
    "options": ("x", "y", "z", "u", "w"),
    "target": Target(windows=((0.0, 12.0),), letter="A", text="x"),
}


def test_whole_video_is_one_span() -> None:
    assert whole_video(task("charades_sta"), sample("charades_sta"))["iou"] == 0.5


def test_whole_video_guesses_the_letter_uniformly() -> None:
    scores = whole_video(task("next_gqa"), sample("next_gqa", **GROUNDED_QUESTION))
    assert scores["iop"] == pytest.approx(0.6)
    assert scores["accuracy"] == pytest.approx(0.2)
    assert scores["acc@gqa"] == pytest.approx(0.2)


def test_whole_video_does_not_apply_without_a_span_or_a_duration() -> None:
    letters = sample(
        "video_mme", options=("x", "y"), target=Target(letter="A"), attributes={"duration_category": "short"}
    )
    assert whole_video(task("video_mme"), letters) is None
    assert whole_video(task("charades_sta"), sample("charades_sta", duration=None)) is None


def test_a_guessed_letter_is_exact() -> None:
    options = tuple("abcdefg")
    question = sample(
        "video_mme", options=options, target=Target(letter="C"), attributes={"duration_category": "short"}
    )
    scores = random_guess(task("video_mme"), question, ())
    assert scores["accuracy"] == pytest.approx(1 / 7)
    assert scores["long"] is None


def test_a_guessed_span_has_its_expected_score() -> None:
    # Two sorted uniform times on [0, 1] against [0, 1]: the expected IoU is the expected length, 1/3.
    question = sample("charades_sta", duration=1.0, target=Target(windows=((0.0, 1.0),)))
    assert random_guess(task("charades_sta"), question, (), draws=4000)["iou"] == pytest.approx(1 / 3, abs=0.02)


def test_letter_and_span_are_guessed_together() -> None:
    scores = random_guess(task("next_gqa"), sample("next_gqa", **GROUNDED_QUESTION), ())
    assert scores["accuracy"] == pytest.approx(0.2)
    assert 0 < scores["acc@gqa"] < 0.2


def test_a_number_comes_from_others_of_the_same_type() -> None:
    own = number("own", 4.0)
    strangers = [own, number("size", 4.0, "room_size_estimation")]
    vsi = task("vsi_bench")
    key = vsi.primary_metric().score
    assert random_guess(vsi, own, strangers)[key] == 0.0
    assert random_guess(vsi, own, [*strangers, number("peer", 4.0)])[key] == 1.0


def test_open_answers_are_not_guessed() -> None:
    question = sample("mmvu", target=Target(text="zoom"))
    scores = random_guess(task("mmvu"), question, ())
    assert scores["mc-accuracy"] is None
    assert scores["open-exact-match"] == 0.0


def test_no_duration_leaves_nothing_to_guess() -> None:
    assert random_guess(task("charades_sta"), sample("charades_sta", duration=None), ())["iou"] == 0.0


def test_guesses_repeat_and_depend_on_the_sample() -> None:
    first, again = (random_guess(task("charades_sta"), sample("charades_sta"), ()) for _ in range(2))
    other = random_guess(task("charades_sta"), sample("charades_sta", "t"), ())
    assert first == again
    assert first["iou"] != other["iou"]
    # The figure itself is pinned, so that no process, version or machine draws differently.
    assert first["iou"] == pytest.approx(0.276191574386, abs=1e-9)


def test_the_centre_span_is_the_middle_half() -> None:
    # [5, 15] of 20 seconds against [0, 10]: 5 shared of a hull of 15.
    assert CENTRE == (0.25, 0.75)
    assert constant_span(task("charades_sta"), sample("charades_sta"), CENTRE)["iou"] == pytest.approx(1 / 3)


def moments(*shares: tuple[float, float], length: float = 40.0) -> tuple[tuple[tuple[float, float], float], ...]:
    return tuple(((start * length, end * length), length) for start, end in shares)


def test_the_prior_span_is_the_best_constant_stretch() -> None:
    assert fit_shares(moments((0.2, 0.6))) == (0.2, 0.6)
    assert fit_shares(moments((0.2, 0.6), (0.2, 0.6), (0.8, 0.9))) == (0.2, 0.6)
    # Durations do not count, only shares do.
    assert fit_shares((*moments((0.5, 1.0), length=7.0), *moments((0.5, 1.0), length=700.0))) == (0.5, 1.0)


def test_the_prior_span_beats_every_other_stretch_of_the_grid() -> None:
    seen = moments((0.0, 0.3), (0.1, 0.35), (0.05, 0.9), (0.4, 0.62), (0.93, 1.02))
    best = fit_shares(seen)
    assert best is not None

    def mean_iou(shares: tuple[float, float]) -> float:
        span = (shares[0] * 40.0, shares[1] * 40.0)
        return sum(hull_iou(span, window) for window, _ in seen) / len(seen)

    grid = [(first / 20, last / 20) for first in range(20) for last in range(first + 1, 21)]
    assert len(grid) == 210
    assert mean_iou(best) == pytest.approx(max(map(mean_iou, grid)))


def test_moments_that_cannot_be_met_do_not_move_the_prior() -> None:
    broken = (((3.0, 3.0), 10.0), ((9.0, 1.0), 10.0), ((0.0, 1.0), 0.0))
    assert fit_shares(broken) is None
    assert fit_shares(()) is None
    assert fit_shares((*broken, *moments((0.2, 0.6)))) == (0.2, 0.6)


def test_the_prior_is_fitted_on_training_moments_and_never_on_the_scored_ones() -> None:
    charades = task("charades_sta")
    asked = tuple(sample("charades_sta", f"s{i}", target=Target(windows=((0.0, 10.0),))) for i in range(3))
    training = moments((0.5, 1.0))
    own = tuple((question.target.windows[0], 20.0) for question in asked)
    # The control: fitted on the scored samples it would be another stretch with a perfect score.
    assert fit_shares(own) == (0.0, 0.5)
    figures = estimate_baselines([BaselineTask(charades, asked, training)])["charades_sta"]
    assert figures[PRIOR_SPAN].value == 0.0
    assert estimate_baselines([BaselineTask(charades, asked, own)])["charades_sta"][PRIOR_SPAN].value == 1.0
    assert PRIOR_SPAN not in estimate_baselines([BaselineTask(charades, asked)])["charades_sta"]


def letters(of: str, *right: str, options: int = 4, **fields) -> tuple[Sample, ...]:
    fields = {"attributes": {"duration_category": "short"}} | fields
    return tuple(
        sample(of, f"s{i}", options=tuple("pqrstuvw"[:options]), target=Target(letter=letter), **fields)
        for i, letter in enumerate(right)
    )


def test_the_majority_letter_and_its_ties() -> None:
    mme = task("video_mme")
    metric = mme.primary_metric()
    answers = majority_answers(mme, metric, letters("video_mme", "B", "C", "C", "A"))
    assert {answer.letter for answer in answers.values()} == {"C"}
    answers = majority_answers(mme, metric, letters("video_mme", "D", "B"))
    assert {answer.letter for answer in answers.values()} == {"B"}


def test_the_majority_letter_belongs_to_what_a_metric_counts() -> None:
    mme = task("video_mme")
    short = letters("video_mme", "B", "B")
    long = tuple(
        dataclasses.replace(question, id=f"long{i}", attributes={"duration_category": "long"})
        for i, question in enumerate(letters("video_mme", "C", "C", "C"))
    )
    figures = baseline_figures(mme, (*short, *long))[MAJORITY_OPTION]
    assert figures["Accuracy"].value == pytest.approx(3 / 5)
    assert figures["Short"].value == figures["Long"].value == 1.0
    assert "Medium" not in figures


def test_the_majority_goes_by_stratum_and_numbers_by_type() -> None:
    vsi = task("vsi_bench")

    def turn(name: str, level: str, letter: str) -> Sample:
        kind = {"question_type": f"object_rel_direction_{level}"}
        return sample("vsi_bench", name, options=("p", "q"), target=Target(letter=letter), attributes=kind)

    asked = (
        turn("e1", "easy", "A"),
        turn("h1", "hard", "B"),
        turn("h2", "hard", "B"),
        number("n1", 2.0),
        number("n2", 4.0),
        number("n3", 4.0),
        number("r1", 20.0, "room_size_estimation"),
    )
    answers = majority_answers(vsi, vsi.primary_metric(), asked)
    assert [answers[name].letter for name in ("e1", "h1", "h2")] == ["A", "B", "B"]
    assert [answers[name].number for name in ("n1", "n2", "n3", "r1")] == [4.0, 4.0, 4.0, 20.0]
    figures = baseline_figures(vsi, asked)
    # MRA of 4 against 2 is 0, so the counting task has 2/3; the other two tasks are all right.
    assert figures[MAJORITY_OPTION]["Average"].value == pytest.approx((2 / 3 + 1 + 1) / 3)
    # The official reading takes the answer's own words, so a guess must have some.
    assert figures[RANDOM]["Average"].value > 0


def test_majority_letter_goes_with_the_whole_video() -> None:
    (asked,) = (sample("next_gqa", **GROUNDED_QUESTION),)
    gqa = task("next_gqa")
    (answer,) = majority_answers(gqa, gqa.primary_metric(), (asked,)).values()
    assert answer.letter == "A"
    assert [span.as_window() for span in answer.spans] == [(0.0, 20.0)]


def test_a_majority_letter_that_a_question_lacks_is_no_answer() -> None:
    mme = task("video_mme")
    asked = (*letters("video_mme", "D", "D"), dataclasses.replace(letters("video_mme", "A", options=2)[0], id="few"))
    answers = majority_answers(mme, mme.primary_metric(), asked)
    assert answers["few"].letter is None
    assert mme.score(answers["few"], asked[-1])["accuracy"] == 0.0


def test_open_questions_stay_in_the_majority_denominator() -> None:
    mmvu = task("mmvu")
    kinds = [{"question_type": kind, "subject": "Art"} for kind in ("multiple-choice", "open-ended")]
    asked = (
        sample("mmvu", "mc", options=("p", "q"), target=Target(letter="B"), attributes=kinds[0]),
        sample("mmvu", "open", target=Target(text="zoom"), attributes=kinds[1]),
    )
    figures = baseline_figures(mmvu, asked)[MAJORITY_OPTION]
    assert figures["MC accuracy"].value == 1.0
    assert figures["Accuracy"].value == 0.5


def test_baselines_that_do_not_apply_are_left_out() -> None:
    spans = estimate_baselines([BaselineTask(task("charades_sta"), (sample("charades_sta"),))])
    assert set(spans["charades_sta"]) == {WHOLE_VIDEO, CENTRE_SPAN, RANDOM}
    lettered = estimate_baselines([BaselineTask(task("video_mme"), letters("video_mme", "A"))])
    assert set(lettered["video_mme"]) == {RANDOM, MAJORITY_OPTION}
    assert estimate_baselines([BaselineTask(task("charades_sta"), ())]) == {"charades_sta": {}}


def test_all_figures_hold_the_headline_ones() -> None:
    asked = tuple(sample("next_gqa", f"s{i}", **GROUNDED_QUESTION) for i in range(4))
    gqa = task("next_gqa")
    figures = baseline_figures(gqa, asked, moments((0.0, 0.5)))
    headline = estimate_baselines([BaselineTask(gqa, asked, moments((0.0, 0.5)))])["next_gqa"]
    assert set(figures) == set(headline) == {WHOLE_VIDEO, CENTRE_SPAN, PRIOR_SPAN, RANDOM, MAJORITY_OPTION}
    for name, estimate in headline.items():
        assert figures[name][gqa.primary] == estimate
        assert set(figures[name]) == {metric.name for metric in gqa.metrics}
