"""Figures: what is drawn, what is not, equal bytes for equal boards, and no name that is read as a formula."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.errors import RunLogError
from vital_eval.generation import FinishReason
from vital_eval.leaderboards.board import Board, build_board
from vital_eval.leaderboards.plots import (
    DURATION_CUTS,
    DURATION_NAMES,
    duration_bucket,
    scores_by_duration,
    write_plots,
)
from vital_eval.leaderboards.sides import Side, read_runs
from vital_eval.manifest import Entry, Manifest
from vital_eval.outcome import Outcome
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.record import Record
from vital_eval.run_log import RunLog
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

_METRICS = {
    "next_gqa": {"Acc@GQA": "acc@gqa", "mIoU": "iou", "Accuracy": "accuracy"},
    "mmvu": {"MC accuracy": "mc-accuracy"},
    "charades_sta": {"mIoU": "iou"},
}
_DURATIONS = (12.0, 45.0, 100.0, 400.0)

Made = tuple[Board, tuple[Side, ...]]
MakeBoard = Callable[..., Made]


def _record(entry: Entry, index: int) -> Record:
    tool = entry.protocol.mode is Mode.TOOL
    share = ((index * 37) % 100) / 100
    right = float(share < (0.6 if tool else 0.4))
    turn = Turn("x", FinishReason.STOP_STRING, 4, 0, 2, 1, 0.1)
    called = dataclasses.replace(turn, tool_call=ToolCall("{}", "clip", "", "", (0, 1), frame_times=(0.0,)))
    return Record(
        task=entry.task,
        mode=entry.protocol.mode,
        protocol=entry.protocol.hash,
        sample_id=f"s{index}",
        attempt=0,
        cluster=f"v{index // 2}",
        outcome=Outcome.ANSWERED,
        reason="",
        answer=None,
        scores={key: share if key == "iou" else right for key in entry.metrics.values()},
        trajectory=Trajectory(
            (called, turn) if tool else (turn,), StopReason.ANSWERED, "A", (0.0,), _DURATIONS[index % 40 // 12], "", 1.0
        ),
    )


@pytest.fixture
def make_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeBoard:
    """Return a function that makes a board of one run."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def make(
        *,
        label: str = "nano",
        tasks: tuple[str, ...] = tuple(_METRICS),
        modes: tuple[Mode, ...] = (Mode.DIRECT, Mode.COT, Mode.TOOL),
        samples: int = 40,
        done: int | None = None,
        titles: dict[str, str] | None = None,
    ) -> Made:
        owed = tuple((f"s{index}", f"v{index // 2}") for index in range(samples))
        entries = tuple(
            Entry(task, 1, next(iter(_METRICS[task])), _METRICS[task], preset("nano", mode, task), "d1", owed)
            for task in tasks
            for mode in modes
        )
        manifest = Manifest(label, EngineInfo("hf", "nano", "f1", FrameGeometry(32, 2)), entries, "2026", "0.1.0")
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        with RunLog.open(folder, manifest) as log:
            for entry in entries:
                for index in range(samples if done is None else done):
                    log.append(_record(entry, index))
        return build_board([folder], titles), read_runs([folder]).sides

    return make


def _names(paths: tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


def _texts(path: Path) -> str:
    """Return the words of an SVG file: matplotlib keeps each text as a comment beside its outlines."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))  # noqa: S314
    root = ElementTree.parse(path, parser).getroot()  # noqa: S314
    return "\n".join(node.text or "" for node in root.iter() if node.tag is ElementTree.Comment)


def test_writes_every_figure_as_png_and_svg(make_board: MakeBoard, tmp_path: Path) -> None:
    from PIL import Image

    paths = write_plots(*make_board(), tmp_path / "new" / "plots")
    stems = ("accuracy_iou", "duration", "forest")
    assert _names(paths) == [f"{stem}.{ending}" for stem in stems for ending in ("png", "svg")]
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert 700 <= image.width <= 1600
                assert [round(value) for value in image.info["dpi"]] == [150, 150]
    assert "NExT-GQA" in _texts(paths[1])
    assert "MMVU" not in _texts(paths[1])
    assert {"NExT-GQA", "MMVU", "Charades-STA"} <= {line.strip() for line in _texts(paths[3]).split("\n")}
    assert "n 12" in _texts(paths[3])
    assert "adjusted p" in _texts(paths[5])


def test_equal_boards_give_equal_bytes(make_board: MakeBoard, tmp_path: Path) -> None:
    import matplotlib

    made = make_board()
    first = [path.read_bytes() for path in write_plots(*made, tmp_path / "a")]
    with matplotlib.rc_context({"font.size": 30.0, "svg.hashsalt": "other", "axes.facecolor": "red"}):
        second = [path.read_bytes() for path in write_plots(*made, tmp_path / "b")]
        assert matplotlib.rcParams["font.size"] == 30.0, "the reader's settings must come back"
    assert first == second
    # The positive control: another board gives other bytes.
    assert first != [path.read_bytes() for path in write_plots(*make_board(samples=38), tmp_path / "c")]


def test_nothing_to_show_writes_nothing(make_board: MakeBoard, tmp_path: Path) -> None:
    assert write_plots(*make_board(done=39), tmp_path / "incomplete") == ()
    assert not (tmp_path / "incomplete").exists()
    assert _names(write_plots(*make_board(tasks=("mmvu",), modes=(Mode.DIRECT,)), tmp_path / "direct")) == []
    only_text = write_plots(*make_board(tasks=("charades_sta",), modes=(Mode.COT,)), tmp_path / "cot")
    assert _names(only_text) == ["duration.png", "duration.svg"]


def test_names_are_never_formulas(make_board: MakeBoard, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    label = r"$\frac{a$ <b> & 日本 --> \n"
    titles = {task: f"${task}_$" for task in _METRICS}
    paths = write_plots(*make_board(label=label, titles=titles), tmp_path / "plots")
    assert len(paths) == 6
    for path in paths:
        if path.suffix == ".svg":
            assert "$next_gqa_$" in _texts(path)
    assert r"$\frac{a$ <b> & " in _texts(paths[1]).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_buckets_of_durations() -> None:
    assert [duration_bucket(seconds) for seconds in (0.1, 29.99, 30, 59, 60, 180, 3599.9, 3600, 9000)] == [
        0, 0, 1, 1, 2, 3, 5, 6, 6,
    ]  # fmt: skip
    assert len(DURATION_NAMES) == len(DURATION_CUTS) + 1


def test_scores_by_duration_are_the_means_of_their_samples(make_board: MakeBoard) -> None:
    _, sides = make_board(tasks=("charades_sta",), modes=(Mode.COT,))
    (side,) = sides
    found = scores_by_duration(side)
    assert [estimate.n for estimate in found.values()] == [12, 12, 12, 4]
    for bucket, estimate in found.items():
        inside = [
            record.scores["iou"] or 0.0
            for record in side.records
            if duration_bucket(record.trajectory.duration) == bucket
        ]
        assert estimate.value == pytest.approx(sum(inside) / len(inside))
        assert estimate.clusters == len(inside) // 2
    whole = side.cell.headline
    assert whole.value == pytest.approx(sum((one.value or 0) * one.n for one in found.values()) / whole.n)


def test_a_folder_that_cannot_be_written_is_named(make_board: MakeBoard, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunLogError, match="cannot write"):
        write_plots(*make_board(), tmp_path / "file")


def test_importing_plots_does_not_load_matplotlib() -> None:
    code = "import sys, vital_eval.leaderboards.plots; assert not {'matplotlib', 'pandas', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)
