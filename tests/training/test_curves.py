"""Curves come from the log alone: nothing doubled after a resume, nothing lost, nothing drawn from half a line."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vital_eval.errors import MissingExtraError
from vital_eval.training import event_files
from vital_eval.training.curves import draw_curves, smooth
from vital_eval.training.event_files import write_events
from vital_eval.training.step_log import read_log


def line(step: int, reward: float = 0.5) -> str:
    entry = {"step": step, "reward": reward, "calls": 0.5, "loss": {"kl": 0.01 * step, "entropy": 1.0}, "seconds": 2.0}
    return json.dumps(entry) + "\n"


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_a_log_is_read_with_nested_names_and_without_half_lines(tmp_path) -> None:
    log = write(tmp_path / "a.jsonl", line(0), line(1), '["no step"]\n', '{"step": true}\n', '{"step": 2, "rew')
    steps = read_log(log)
    assert [entry.step for entry in steps] == [0, 1]
    assert steps[1].values == {"reward": 0.5, "calls": 0.5, "loss/kl": 0.01, "loss/entropy": 1.0, "seconds": 2.0}
    assert read_log(tmp_path / "none.jsonl") == ()


def test_of_a_step_that_was_taken_twice_the_last_counts(tmp_path) -> None:
    log = write(tmp_path / "a.jsonl", line(0), line(1, 0.1), line(2), line(1, 0.9))
    assert [(entry.step, entry.values["reward"]) for entry in read_log(log)] == [(0, 0.5), (1, 0.9), (2, 0.5)]


@given(st.lists(st.floats(-1e6, 1e6), max_size=40), st.integers(0, 12).map(lambda half: 2 * half + 1))
def test_smoothing_stays_within_the_values_and_keeps_straight_lines(values: list[float], width: int) -> None:
    found = smooth(values, width)
    assert len(found) == len(values)
    for value in found:
        assert min(values) - 1e-6 <= value <= max(values) + 1e-6
    straight = [3.0 * place - 7 for place in range(len(values))]
    np.testing.assert_allclose(smooth(straight, width), straight, atol=1e-9)
    assert smooth(values, 1) == values


def test_smoothing_leaves_out_what_is_no_number() -> None:
    assert smooth([1.0, math.nan, 3.0], 3) == [1.0, 2.0, 3.0]
    assert math.isnan(smooth([math.nan], 5)[0])


def test_the_picture_is_that_of_the_log(tmp_path) -> None:
    rising = write(tmp_path / "a.jsonl", *(line(step, step / 10) for step in range(10)))
    falling = write(tmp_path / "b.jsonl", *(line(step, 1 - step / 10) for step in range(10)))
    one = draw_curves({"stage": rising}, tmp_path / "deep" / "one.png")
    assert one is not None
    with Image.open(one) as image:
        assert image.format == "PNG"
        assert len(set(np.asarray(image.convert("RGB")).reshape(-1, 3).sum(1).tolist())) > 10
    again = draw_curves({"stage": rising}, tmp_path / "again.png")
    other = draw_curves({"stage": falling}, tmp_path / "other.png")
    both = draw_curves({"$a$": rising, "b": falling}, tmp_path / "both.png")
    assert again is not None
    assert other is not None
    assert both is not None
    assert one.read_bytes() == again.read_bytes()
    assert one.read_bytes() != other.read_bytes()
    assert draw_curves({"nothing": tmp_path / "none.jsonl"}, tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard itself reads in a folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_reads_every_number_of_the_log_once(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    log = write(tmp_path / "a.jsonl", line(0, 0.25), line(1, math.nan), line(2, 0.75))
    write_events(log, tmp_path / "board" / "a")
    found = scalars(tmp_path / "board" / "a")
    assert found["reward"] == [(0, 0.25), (2, 0.75)]
    assert [step for step, _ in found["loss/kl"]] == [0, 1, 2]
    assert [value for _, value in found["loss/kl"]] == pytest.approx([0.0, 0.01, 0.02])
    assert "step" not in found


def test_an_event_file_grows_with_its_log_and_no_step_is_double_after_a_resume(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    log, folder = tmp_path / "a.jsonl", tmp_path / "board"
    write(log, line(0), line(1))
    path = write_events(log, folder)
    before, place = path.read_bytes(), path.stat().st_ino
    # Killed while it wrote: the file ends in the middle of a step.
    path.write_bytes(before[:-5])
    write(log, line(0), line(1), line(2))
    write_events(log, folder)
    assert path.read_bytes().startswith(before)
    assert path.stat().st_ino == place, "a TensorBoard that holds the file open would see nothing new"
    assert [step for step, _ in scalars(folder)["reward"]] == [0, 1, 2]
    # A log that was begun anew: nothing of the old one stays.
    write(log, line(0, 0.875))
    write_events(log, folder)
    assert scalars(folder)["reward"] == [(0, 0.875)]
    assert [entry.name for entry in folder.iterdir()] == [event_files.NAME]


def test_control_appending_to_an_event_file_doubles_steps(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    steps = read_log(write(tmp_path / "a.jsonl", line(0), line(1)))
    content = event_files.event_bytes(steps)
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / event_files.NAME).write_bytes(content + content)
    assert [step for step, _ in scalars(tmp_path / "board")["reward"]] != [0, 1]


def test_without_tensorboard_the_way_to_get_it_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"vital-eval\[tensorboard\]"):
        write_events(write(tmp_path / "a.jsonl", line(0)), tmp_path / "board")
    assert not (tmp_path / "board").exists()
