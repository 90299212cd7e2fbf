"""MMVU: letters and open answers, scored apart."""

from __future__ import annotations

import pytest

from vital_eval.registry import Registry
from vital_eval.task import AnswerKind, Unparsed


def test_golden_case(load) -> None:
    task, (choice, open_ended) = load("mmvu")
    right = task.score(task.parse("The answer is D.", choice), choice)
    assert right == {"mc-accuracy": 1.0, "open-exact-match": None, "accuracy": 1.0}
    right = task.score(task.parse("a pan  shot.", open_ended), open_ended)
    assert right == {"mc-accuracy": None, "open-exact-match": 1.0, "accuracy": 1.0}


@pytest.mark.parametrize(
    "text", ["s", "pan", "It is a pan shot, I think", "I searched for pan shot but it is zoom", "D"]
)
def test_parts_of_the_reference_are_not_answers(text, load) -> None:
    task, (_, sample) = load("mmvu")
    assert task.score(task.parse(text, sample), sample)["open-exact-match"] == 0.0


def test_the_empty_answer_is_unparsed(load) -> None:
    task, (_, sample) = load("mmvu")
    assert task.parse(" . ", sample) == Unparsed("empty-answer")


def test_fields(load) -> None:
    task, (choice, open_ended) = load("mmvu")
    assert choice.video == "Art/0.mp4"
    assert open_ended.options == ()
    assert task.answer_kind(open_ended) is AnswerKind.OPEN
    assert choice.attributes == {"question_type": "multiple-choice", "subject": "Art"}


def test_official_counts(official) -> None:
    samples = Registry("task").load("mmvu")().samples(official("mmvu"))
    choices = [sample for sample in samples if sample.options]
    assert (len(samples), len(choices)) == (1000, 625)
    assert all(len(sample.options) == 5 for sample in choices)
    assert len({sample.video for sample in samples}) == 583
    assert len({sample.attributes["subject"] for sample in samples}) == 27
    assert sum(sample.target.letter == "C" for sample in choices) == 142
