"""Video-MMMU: three tracks, open answers, question images."""

from __future__ import annotations

import pytest

from vital_eval.registry import Registry
from vital_eval.task import AnswerKind, Unparsed


def graded(task, text, sample) -> float:
    answer = task.parse(text, sample)
    return task.score(None if isinstance(answer, Unparsed) else answer, sample)["accuracy"]


def test_golden_case(load) -> None:
    task, samples = load("videommmu")
    sample = samples[0]
    assert task.score(task.parse("B", sample), sample) == {
        "accuracy": 1.0,
        "perception": 1.0,
        "comprehension": None,
        "adaptation": None,
    }


def test_the_same_video_in_three_tracks_gives_three_ids(load) -> None:
    _, samples = load("videommmu")
    assert [sample.id for sample in samples[:3]] == [
        f"{track}/dev_Art_Theory_3" for track in ("Perception", "Comprehension", "Adaptation")
    ]
    assert {sample.cluster for sample in samples[:3]} == {"dev_Art_Theory_3"}
    assert samples[0].video == "Art_Theory/dev_Art_Theory_3.mp4"
    assert [sample.ends_with_question_image for sample in samples[:3]] == [False, False, True]


@pytest.mark.parametrize(
    ("place", "text", "score"),
    [
        (3, "0.286", 1.0),
        (3, "about 0.29 dollars", 1.0),
        (3, "0.28", 0.0),
        (3, "", 0.0),
        (3, "no idea", 0.0),
        (4, "A", 1.0),
        (4, "a point", 0.0),
        (4, "B", 0.0),
        (5, "3.43", 1.0),
        (5, "24/7", 1.0),
        (5, "3.4", 0.0),
        (5, "", 0.0),
    ],
)
def test_open_answers(place, text, score, load) -> None:
    task, samples = load("videommmu")
    assert task.answer_kind(samples[place]) is AnswerKind.OPEN
    assert graded(task, text, samples[place]) == score


def test_only_the_stated_answer_counts(load) -> None:
    task, samples = load("videommmu")
    assert graded(task, "x is 0.286.\nThen the answer is 8", samples[3]) == 0.0


def test_an_untyped_question_with_options_is_multiple_choice(load) -> None:
    task, samples = load("videommmu")
    assert task.answer_kind(samples[6]) is AnswerKind.OPTION
    assert graded(task, "C", samples[6]) == 1.0


def test_official_counts(official) -> None:
    samples = Registry("task").load("videommmu")().samples(official("videommmu"))
    assert len(samples) == 900
    assert len({sample.cluster for sample in samples}) == 300
    assert len({sample.attributes["subject"] for sample in samples}) == 30
    assert max(len(sample.options) for sample in samples) == 14
    adaptation = [sample for sample in samples if sample.attributes["track"] == "Adaptation"]
    assert sum(not sample.options for sample in adaptation) == 20
    assert sum(sample.target.number is not None for sample in adaptation) == 17
    assert all(sample.ends_with_question_image for sample in adaptation)
