"""What holds for every benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vital_eval.errors import DataError
from vital_eval.registry import Registry
from vital_eval.task import Answer, Unparsed

NAMES = Registry("task").names()

#: Score keys whose official definition gives something for an empty prediction.
SILENCE = {("vue_tr", "recall-auc")}

NOT_ANSWERS = ["", "   ", "I do not know", "<tool_call>", "\ud800", "[]", "nan to inf", "]" * 50, "0" * 500]


def test_all_eleven_are_registered_under_their_own_names() -> None:
    assert len(NAMES) == 11
    for name in NAMES:
        task = Registry("task").load(name)
        assert task.name == name
        assert task().primary_metric().name == task.primary


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_complete_and_unique(name, load) -> None:
    _, samples = load(name)
    assert samples
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert sample.task == name
        assert sample.question == sample.question.strip() != ""
        assert sample.cluster
        assert not sample.video.startswith("/")
        assert ".." not in sample.video.split("/")
        assert sample.duration is None or isinstance(sample.duration, float)


@pytest.mark.parametrize("name", NAMES)
def test_no_answer_scores_nothing_above_what_the_official_script_gives_for_silence(name, load) -> None:
    task, samples = load(name)
    keys = {metric.score for metric in task.metrics}
    applicable = set()
    for sample in samples:
        scores = task.score(None, sample)
        assert set(scores) == keys
        assert {value for key, value in scores.items() if (name, key) not in SILENCE} <= {0.0, None}
        applicable |= {key for key, value in scores.items() if value is not None}
    assert task.primary_metric().score in applicable


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_answer_object_scores_as_no_answer(name, load) -> None:
    task, samples = load(name)
    for sample in samples:
        assert task.score(Answer(""), sample) == task.score(None, sample)


@pytest.mark.parametrize("name", NAMES)
def test_nonsense_never_raises_and_never_scores_full_marks(name, load) -> None:
    task, samples = load(name)
    for sample in samples:
        for text in NOT_ANSWERS:
            answer = task.parse(text, sample)
            scores = task.score(None if isinstance(answer, Unparsed) else answer, sample)
            assert scores == task.score(None, sample)


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_one_line_that_names_the_file(name, tmp_path) -> None:
    task = Registry("task").load(name)()
    with pytest.raises(DataError) as caught:
        task.samples(tmp_path)
    assert "\n" not in str(caught.value)
    assert any(Path(file).stem in str(caught.value) for file in task.annotation_files())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", ["", "[]", "{}", "[1]", '{"a": 1}', "{", '[{"id": 1}]', "null", "[" * 5000])
def test_files_of_another_form_are_data_errors(name, content, tmp_path, load) -> None:
    task, _ = load(name)
    for path in tmp_path.iterdir():
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError):
        task.samples(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_are_no_text_are_a_data_error(name, tmp_path, load) -> None:
    task, _ = load(name)
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError):
        task.samples(tmp_path)


@pytest.mark.parametrize("name", ["vidchapters", "rextime", "vsi_bench", "video_mme", "longvideo_reason"])
def test_a_repeated_record_is_an_error(name, tmp_path, load) -> None:
    task, _ = load(name)
    path = next(iter(tmp_path.iterdir()))
    text = path.read_text(encoding="utf-8")
    path.write_text(text + text, encoding="utf-8")
    with pytest.raises(DataError, match="twice"):
        task.samples(tmp_path)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("vidchapters", "duration", "100"),
        ("vidchapters", "duration", 0),
        ("vidchapters", "duration", True),
        ("vidchapters", "relevant_windows", [[1, float("nan")]]),
        ("vidchapters", "relevant_windows", [[1, 2, 3]]),
        ("vidchapters", "relevant_windows", "1, 2"),
        ("vidchapters", "query", "  "),
        ("vidchapters", "vid", "short"),
        ("vidchapters", "vid", "../../../etc/passwd"),
        ("rextime", "vid", "../../outside"),
        ("rextime", "relevant_windows", []),
        ("vsi_bench", "ground_truth", "Z"),
        ("vsi_bench", "ground_truth", ""),
        ("vsi_bench", "question_type", "smell"),
        ("video_mme", "answer", "E"),
        ("video_mme", "duration", "12.5"),
        ("video_mme", "options", ["A", 2]),
        ("video_mme", "videoID", "/etc/passwd"),
        ("longvideo_reason", "problem", "no options here"),
        ("longvideo_reason", "answer", "Z"),
        ("longvideo_reason", "videos", ["a.mp4", "b.mp4"]),
    ],
)
def test_a_wrong_field_names_file_and_record(name, field, value, tmp_path, load) -> None:
    task, _ = load(name)
    path = next(iter(tmp_path.iterdir()))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[-1][field] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        task.samples(tmp_path)
    assert path.name in str(caught.value)
    assert f"record {len(rows)}" in str(caught.value)
