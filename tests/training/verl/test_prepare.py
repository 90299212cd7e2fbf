"""From a file of MTVR to the rows of a stage, by the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vital_eval.training.mtvr.files import write_records
from vital_eval.training.mtvr.records import CotRecord, Media, RlRecord
from vital_eval.training.verl_plugin.prepare import main

RECORD = RlRecord(
    id="a",
    text="When is it bright?",
    media=Media("video", "long.mp4"),
    duration=20.0,
    data_source="./data/charades",
    solution=(2.0, 5.0),
)


def prepare(stage: int, records: Path, media: Path, checkpoint: Path, output: Path) -> int:
    given: list[Any] = ["--stage", stage, "--records", records, "--media-root", media, "--model", checkpoint]
    return main([str(argument) for argument in [*given, "--output", output]])


def test_faulty_records_and_images_are_left_out_and_counted(
    tmp_path: Path, media: Path, plain_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("omegaconf", reason="it comes with verl, in an environment of its own (tox -e verl)")
    gone = dataclasses.replace(RECORD, id="gone", media=Media("video", "gone.mp4"))
    picture = dataclasses.replace(RECORD, id="picture", media=Media("image", "a.png"), duration=None)
    path, output = tmp_path / "MTVR_RL" / "charades.json", tmp_path / "rows" / "train.parquet"
    write_records(path, [RECORD, gone, picture])
    assert prepare(2, path, media, plain_checkpoint, output) == 0
    (row,) = pq.read_table(output).to_pylist()
    assert row["extra_info"]["id"] == "a"
    assert json.loads(row["reward_model"]["ground_truth"]) == [2.0, 5.0]
    shown = capsys.readouterr().out
    assert "1 record(s) show an image" in shown
    assert "1 of 2 records kept; missing-media 1" in shown


def test_supervised_rows(tmp_path: Path, media: Path, plain_checkpoint: Path) -> None:
    solution = "<think>seen</think><answer>2.00 to 5.00</answer>"
    record = CotRecord(
        id="a", text=RECORD.text, media=RECORD.media, duration=20.0, data_source="./data/charades", solution=solution
    )
    path, output = tmp_path / "MTVR_CoT" / "charades.json", tmp_path / "train.parquet"
    write_records(path, [record])
    assert prepare(1, path, media, plain_checkpoint, output) == 0
    (row,) = pq.read_table(output).to_pylist()
    assert (row["turns"], row["kind"]) == ([solution], "span")


def test_nothing_to_train_on_is_an_error_and_writes_nothing(
    tmp_path: Path, media: Path, plain_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "MTVR_RL" / "charades.json", tmp_path / "train.parquet"
    write_records(path, [dataclasses.replace(RECORD, media=Media("video", "gone.mp4"))])
    assert prepare(2, path, media, plain_checkpoint, output) == 2
    assert "nothing to train on" in capsys.readouterr().err
    assert not output.exists()
