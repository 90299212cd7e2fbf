"""ReXTime, with and without the options of the hub."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest

from vital_eval.errors import DataError
from vital_eval.registry import Registry
from vital_eval.task import AnswerKind

from . import official_forms as forms


@pytest.fixture
def with_hub(tmp_path):
    forms.rextime(tmp_path)
    forms.rextime_hub(tmp_path)
    return tmp_path


def test_golden_case_with_options(with_hub) -> None:
    task = Registry("task").load("rextime")()
    sample = task.samples(with_hub)[0]
    assert task.answer_kind(sample) is AnswerKind.OPTION_AND_SPAN
    # [10, 30] against [10, 20]: half of the hull.
    scores = task.score(task.parse("B, 10 to 20", sample), sample)
    assert scores == {
        "iou": 0.5,
        "accuracy": 1.0,
        "r1@0.3": 1.0,
        "r1@0.5": 1.0,
        "r1@0.7": 0.0,
        "gqa@0.3": 1.0,
        "gqa@0.5": 1.0,
        "gqa@0.7": 0.0,
    }
    assert task.score(task.parse("A, 10 to 20", sample), sample)["gqa@0.3"] == 0.0


def test_without_the_hub_file_it_is_grounding_alone(load) -> None:
    task, (sample, _) = load("rextime")
    assert sample.options == ()
    assert sample.target.letter is None
    assert task.answer_kind(sample) is AnswerKind.SPAN
    scores = task.score(task.parse("10 to 20", sample), sample)
    assert scores["iou"] == 0.5
    assert scores["accuracy"] is None
    assert scores["gqa@0.5"] is None


def test_result_files_are_scored_on_letters_without_the_hub_file(tmp_path) -> None:
    forms.rextime(tmp_path)
    task = Registry("task").load("rextime")()
    (sample, _) = task.submission_samples(tmp_path)
    assert sample.target.letter == "B"
    assert task.answer_kind(sample) is AnswerKind.OPTION_AND_SPAN
    scores = task.score(task.parse("B, 10 to 20", sample), sample)
    assert (scores["accuracy"], scores["gqa@0.5"], scores["gqa@0.7"]) == (1.0, 1.0, 0.0)
    assert task.score(task.parse("C, 10 to 20", sample), sample)["accuracy"] == 0.0


def test_the_hub_file_goes_before_letters_alone(with_hub) -> None:
    task = Registry("task").load("rextime")()
    assert task.submission_samples(with_hub) == task.samples(with_hub)


def test_dots_in_video_names_survive(load) -> None:
    _, (sample, _) = load("rextime")
    assert sample.video == "ab_60.0_210.0.mp4"
    assert sample.attributes["source"] == "qvh"


def test_degenerate_windows_stay_and_score_zero(load) -> None:
    task, (_, sample) = load("rextime")
    assert sample.target.windows == ((1.0, 1.0),)
    assert task.score(task.parse("0 to 2", sample), sample)["iou"] == 0.0


def test_hub_file_as_parquet(with_hub) -> None:
    lines = with_hub / "rextime_val_hub.jsonl"
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), with_hub / "rextime_val_hub.parquet")
    lines.unlink()
    samples = Registry("task").load("rextime")().samples(with_hub)
    assert samples[0].options[1] == "it was pushed"
    assert samples[0].target.letter == "B"


def test_a_hub_file_that_lacks_a_question_is_an_error(with_hub) -> None:
    lines = with_hub / "rextime_val_hub.jsonl"
    lines.write_text(lines.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="qvh_val1"):
        Registry("task").load("rextime")().samples(with_hub)


def test_an_empty_hub_file_does_not_quietly_take_the_options_away(with_hub) -> None:
    (with_hub / "rextime_val_hub.jsonl").write_text("")
    with pytest.raises(DataError, match=r"rextime_val_hub in .* is empty"):
        Registry("task").load("rextime")().samples(with_hub)


def test_official_counts(official) -> None:
    samples = Registry("task").load("rextime")().samples(official("rextime"))
    assert len(samples) == 921
    assert len({sample.cluster for sample in samples}) == 696
    assert sum(sample.attributes["source"] == "qvh" for sample in samples) == 180
    degenerate = [s.id for s in samples if s.target.windows[0][0] == s.target.windows[0][1]]
    assert sorted(degenerate) == ["anet_val867", "anet_val889"]
