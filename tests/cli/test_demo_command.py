"""``vital-eval demo`` with the packaged checkpoint, on a world as small as it gets."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from vital_eval.cli.main import main
from vital_eval.run_log import read_run


def test_the_demo_makes_a_board_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (files("vital_eval.nano") / "checkpoint" / "config.json").is_file()
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--per-task", "1"]) == 0
    (run,) = out.glob("run-*")
    manifest, records = read_run(run)
    assert len({entry.task for entry in manifest.entries}) == 11
    assert len(records) == sum(len(entry.samples) for entry in manifest.entries)
    assert {path.suffix for path in (out / "board").iterdir()} >= {".md", ".csv", ".html"}
    before = (run / "summary.json").read_bytes()
    capsys.readouterr()
    assert main(["demo", "--out", str(out), "--per-task", "1"]) == 0
    assert (run / "summary.json").read_bytes() == before
    assert "board.html" in capsys.readouterr().out
