"""``vital-eval board`` from run folders to files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy_world import run_arguments
from vital_eval.cli.main import main


def test_a_board_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        assert main(run_arguments(tmp_path, tmp_path / name, "--label", name)) == 0
    out = tmp_path / "board"
    assert main(["board", str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "Charades-STA" in told
    assert {path.suffix for path in out.iterdir()} == {".csv", ".html", ".md", ".tex", ".png", ".svg"}
    assert all(path.stat().st_size for path in out.iterdir())
    assert all(str(path) in told for path in out.iterdir())


def test_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", str(tmp_path), "--out", str(tmp_path / "board")]) == 1
    assert capsys.readouterr().err.startswith("error: no run in")


def test_plots_can_be_left_out(tmp_path: Path) -> None:
    assert main(run_arguments(tmp_path, tmp_path / "one")) == 0
    out = tmp_path / "board"
    assert main(["board", str(tmp_path / "one"), "--out", str(out), "--no-plots"]) == 0
    assert {path.suffix for path in out.iterdir()} == {".csv", ".html", ".md", ".tex"}
