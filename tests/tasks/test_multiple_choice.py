"""Video-MME and LongVideo-Reason."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet
import pytest

from vital_eval.errors import DataError
from vital_eval.registry import Registry
from vital_eval.tasks.longvideo_reason import split_problem

from . import official_forms as forms


def test_video_mme_golden_case(load) -> None:
    task, samples = load("video_mme")
    sample = samples[1]
    assert task.score(task.parse("The best answer is: C. Three.", sample), sample) == {
        "accuracy": 1.0,
        "short": None,
        "medium": 1.0,
        "long": None,
    }


def test_video_mme_fields(load) -> None:
    _, samples = load("video_mme")
    assert samples[0].options == ("One.", "Two.", "Three.", "Four.")
    assert samples[0].video == "vid0.mp4"
    assert samples[0].id == "000-1"
    assert samples[0].question == "How many?"
    assert samples[0].attributes["duration_category"] == "short"


def test_video_mme_subtitles_lie_beside_the_table(load) -> None:
    task, samples = load("video_mme")
    assert task.subtitles(samples[1]) == "subtitle/vid1.srt"
    longvideo, others = load("longvideo_reason")
    assert longvideo.subtitles(others[0]) is None


def test_video_mme_parquet_reads_the_same(tmp_path, load) -> None:
    task, samples = load("video_mme")
    (tmp_path / "test.jsonl").unlink()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(forms.mme_rows()), tmp_path / "test.parquet")
    assert task.samples(tmp_path) == samples


def test_a_broken_parquet_file_is_a_data_error(tmp_path) -> None:
    (tmp_path / "test.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="Parquet"):
        Registry("task").load("video_mme")().samples(tmp_path)


def test_longvideo_reason_golden_case(load) -> None:
    task, (first, second) = load("longvideo_reason")
    assert task.score(task.parse("B", first), first) == {"accuracy": 1.0}
    assert task.score(task.parse("joy", first), first) == {"accuracy": 1.0}
    assert task.score(task.parse("B", second), second) == {"accuracy": 0.0}


def test_longvideo_reason_keys_by_question(load) -> None:
    _, (first, second) = load("longvideo_reason")
    assert first.id != second.id
    assert first.cluster == second.cluster == "ab.cd.mp4"
    assert first.question == "Why?"


@pytest.mark.parametrize(
    ("problem", "question", "options"),
    [
        ("Why?\nA. fear\nB. joy", "Why?", ("fear", "joy")),
        ("Why?\nOptions:\n(A) fear\n(B) joy", "Why?", ("fear", "joy")),
        ("Why? A) fear B) joy C) A. Smith", "Why?", ("fear", "joy", "A. Smith")),
        ("Why?", "Why?", ()),
    ],
)
def test_options_are_taken_out_of_the_problem(problem, question, options) -> None:
    assert split_problem(problem) == (question, options)
