"""Charades-STA, ActivityNet-MR and VidChapters."""

from __future__ import annotations

import json

import pytest

from vital_eval.errors import DataError
from vital_eval.registry import Registry
from vital_eval.span import Span
from vital_eval.task import Answer, AnswerKind

# Query 0 of the small files is [4, 12]. [8, 16] shares 4 of a hull of 12 seconds.
GOLDEN = {"iou": 4 / 12, "r1@0.3": 1.0, "r1@0.5": 0.0, "r1@0.7": 0.0}


@pytest.mark.parametrize("name", ["charades_sta", "activitynet_mr"])
def test_golden_case(name, load) -> None:
    task, samples = load(name)
    answer = task.parse("From 8s to 16s", samples[0])
    assert task.score(answer, samples[0]) == pytest.approx(GOLDEN)


@pytest.mark.parametrize(("name", "video"), [("charades_sta", "ABCDE"), ("activitynet_mr", "v_abc")])
def test_fields(name, video, load) -> None:
    task, (first, second) = load(name)
    assert (first.id, second.id) == (f"{video}/0", f"{video}/1")
    assert first.question == second.question == "A ball rolls."
    assert first.video == f"{video}.mp4"
    assert first.cluster == second.cluster == video
    assert first.duration == 30.5
    assert task.answer_kind(first) is AnswerKind.SPAN


def test_ground_truth_after_the_end_of_the_video_is_kept(load) -> None:
    task, samples = load("charades_sta")
    assert samples[1].target.windows == ((20.0, 31.0),)
    assert task.score(Answer("", spans=(Span(20.0, 31.0),)), samples[1])["iou"] == 1.0


def test_thresholds_are_inclusive(load) -> None:
    task, samples = load("charades_sta")
    assert task.score(Answer("", spans=(Span(4.0, 8.0),)), samples[0])["r1@0.5"] == 1.0


def test_vidchapters_golden_case(load) -> None:
    task, (first, second) = load("vidchapters")
    assert first.video == second.video == "7abcdefghi_.mp4"
    assert (first.id, second.id) == ("0", "1")
    assert second.target.windows == ((40.5, 100.7),)
    # [0, 27] lies inside [0, 40.5]: 27 / 40.5.
    assert task.score(task.parse("0 to 27", first), first)["iou"] == pytest.approx(2 / 3)


def test_charades_official_counts(official) -> None:
    samples = Registry("task").load("charades_sta")().samples(official("charades_sta"))
    assert len(samples) == 3720
    assert len({sample.cluster for sample in samples}) == 1334
    assert sum(sample.target.windows[0][1] > sample.duration for sample in samples) == 562


def test_activitynet_official_counts(official) -> None:
    folder = official("activitynet_mr")
    samples = Registry("task").load("activitynet_mr")().samples(folder)
    assert len(samples) == 17031
    assert len({sample.cluster for sample in samples}) == 4885
    assert sum(sample.target.windows[0][1] > sample.duration for sample in samples) == 111
    from vital_eval.tasks.annotations import read_json

    raw = [text for entry in read_json(folder / "val_2.json").values() for text in entry["sentences"]]
    assert sum(text != text.strip() for text in raw) == 11483
    assert all(sample.question == text.strip() for sample, text in zip(samples, raw, strict=True))


@pytest.mark.parametrize(("name", "file"), [("charades_sta", "charades_train.json"), ("activitynet_mr", "train.json")])
def test_training_moments_are_optional(name, file, tmp_path, load) -> None:
    task, samples = load(name)
    assert task.training_moments(tmp_path) == ()
    # One window is reversed, as four are in the official Charades file: read as annotated.
    entry = {"duration": 20, "timestamps": [[1, 5.5], [9, 8]], "sentences": ["a", "b"]}
    (tmp_path / file).write_text(json.dumps({"T": entry}), encoding="utf-8")
    assert task.training_moments(tmp_path) == (((1.0, 5.5), 20.0), ((9.0, 8.0), 20.0))
    assert task.samples(tmp_path) == samples
    assert file not in task.annotation_files()
    (tmp_path / file).write_text(json.dumps({"T": {**entry, "duration": "20"}}), encoding="utf-8")
    with pytest.raises(DataError, match=file):
        task.training_moments(tmp_path)


def test_vidchapters_training_rows_hold_lists(tmp_path, load) -> None:
    task, _ = load("vidchapters")
    assert task.training_moments(tmp_path) == ()
    row = {"qid": 0, "query": ["a", "b"], "vid": "x", "duration": 90, "relevant_windows": [[0, 40.5], [40.5, 90.7]]}
    (tmp_path / "chapters_vmr_train.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert task.training_moments(tmp_path) == (((0.0, 40.5), 90.0), ((40.5, 90.7), 90.0))
