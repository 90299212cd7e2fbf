"""VSI-Bench: two kinds of answer, eight tasks."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet
import pytest

from vital_eval.errors import DataError
from vital_eval.registry import Registry
from vital_eval.task import Answer, AnswerKind

from . import official_forms as forms


def test_golden_case(load) -> None:
    task, samples = load("vsi_bench")
    count, choice = samples[4], samples[0]
    # 4.5 for 5 is 10 % off: it passes .50 to .90, nine of ten thresholds.
    scores = task.score(task.parse("4.5 meters.", count), count)
    assert (scores["official"], scores["lenient"]) == (0.9, 0.9)
    assert task.score(task.parse("B.", choice), choice)["official"] == 1.0
    assert task.score(task.parse("A.", choice), choice)["official"] == 0.0


@pytest.mark.parametrize(
    ("index", "text", "official", "lenient"),
    [
        (0, "(B)", 0.0, 1.0),
        (0, "**B**", 0.0, 1.0),
        (0, "The answer is B", 0.0, 1.0),
        (0, "b", 1.0, 1.0),
        (0, "B and C", 1.0, 0.0),
        (4, "about 5", 0.0, 1.0),
        (4, "five", 0.0, 1.0),
        (4, "5 chairs", 1.0, 1.0),
        (4, "5.0.", 1.0, 1.0),
    ],
)
def test_official_and_lenient_reading(index, text, official, lenient, load) -> None:
    task, samples = load("vsi_bench")
    answer = task.parse(text, samples[index])
    scores = task.score(answer, samples[index])
    assert (scores["official"], scores["lenient"]) == (official, lenient)


def test_scores_fall_under_the_samples_own_task(load) -> None:
    task, samples = load("vsi_bench")
    scores = task.score(Answer("B", letter="B"), samples[1])
    assert {key for key, value in scores.items() if value is not None} == {
        "official",
        "lenient",
        "micro",
        "object_rel_direction",
    }


def test_strata_give_eight_tasks_and_nest_directions(load) -> None:
    task, samples = load("vsi_bench")
    primary = task.primary_metric()
    assert task.strata(primary, samples[0]) == ("object_rel_direction", "easy")
    assert task.strata(primary, samples[2]) == ("object_rel_distance",)
    own = next(metric for metric in task.metrics if metric.score == "object_rel_direction")
    assert task.strata(own, samples[1]) == ("hard",)
    assert task.strata(next(metric for metric in task.metrics if metric.score == "micro"), samples[0]) == ()
    assert len(task.metrics) == 11


def test_fields(load) -> None:
    task, samples = load("vsi_bench")
    assert samples[0].options == ("left", "right", "back")
    assert samples[0].video == "scannet/scene0000_00.mp4"
    assert samples[0].cluster == "scannet/scene0000_00"
    assert samples[0].duration is None
    assert samples[3].target.number == 4.0
    assert task.answer_kind(samples[3]) is AnswerKind.NUMBER
    assert task.answer_kind(samples[0]) is AnswerKind.OPTION


def test_parquet_reads_the_same(tmp_path, load) -> None:
    task, samples = load("vsi_bench")
    (tmp_path / "test.jsonl").unlink()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(forms.vsi_rows()), tmp_path / "test.parquet")
    assert task.samples(tmp_path) == samples


@pytest.mark.parametrize("truth", ["Dolly Zoom", "0", "-1", "nan", "inf", 0, None])
def test_a_numeric_target_must_be_a_number_above_zero(truth, tmp_path) -> None:
    rows = forms.vsi_rows()
    rows[-1]["ground_truth"] = truth
    forms.write_lines(tmp_path / "test.jsonl", rows)
    with pytest.raises(DataError, match="ground_truth"):
        Registry("task").load("vsi_bench")().samples(tmp_path)
