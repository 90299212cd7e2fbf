"""Floors: expected scores of answers that need no video."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from vital_eval.baselines import random_guess, whole_video
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
    assert random_guess(task("vsi_bench"), own, strangers)["score"] == 0.0
    assert random_guess(task("vsi_bench"), own, [*strangers, number("peer", 4.0)])["score"] == 1.0


def test_open_answers_are_not_guessed() -> None:
    question = sample("mmvu", target=Target(text="zoom"))
    assert random_guess(task("mmvu"), question, ()) == {"mc-accuracy": None, "open-exact-match": 0.0}


def test_no_duration_leaves_nothing_to_guess() -> None:
    assert random_guess(task("charades_sta"), sample("charades_sta", duration=None), ())["iou"] == 0.0


def test_guesses_repeat_and_depend_on_the_sample() -> None:
    first, again = (random_guess(task("charades_sta"), sample("charades_sta"), ()) for _ in range(2))
    other = random_guess(task("charades_sta"), sample("charades_sta", "t"), ())
    assert first == again
    assert first["iou"] != other["iou"]
    # The figure itself is pinned, so that no process, version or machine draws differently.
    assert first["iou"] == pytest.approx(0.276191574386, abs=1e-9)
