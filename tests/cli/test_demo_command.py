"""``vital-eval demo`` with the packaged checkpoint, on a world as small as it gets."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from vital_eval.cli.main import main
from vital_eval.protocol import Mode
from vital_eval.run_log import read_run


def test_the_demo_makes_a_board_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (files("vital_eval.nano") / "checkpoint" / "config.json").is_file()
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--per-task", "1"]) == 0
    (run,) = out.glob("run-*")
    manifest, records = read_run(run)
    assert len({entry.task for entry in manifest.entries}) == 11
    assert [entry.protocol.mode.value for entry in manifest.entries[:4]] == ["blind", "direct", "cot", "tool"]
    assert len(records) == sum(len(entry.samples) for entry in manifest.entries)
    assert {path.suffix for path in (out / "board").iterdir()} >= {".md", ".csv", ".html"}
    blind = [record for record in records if record.mode is Mode.BLIND]
    assert len(blind) == len(records) / 4
    shown = {record.task for record in blind if record.trajectory.frame_times}
    assert shown == {"videommmu"}, "only there the question itself holds an image"
    baselines = json.loads((run / "summary.json").read_text())["baselines"]
    for task in ("charades_sta", "activitynet_mr", "vidchapters"):
        assert set(baselines[task]) == {"whole video", "centre span", "prior span", "random"}
    assert set(baselines["mmvu"]) == {"random", "majority option"}
    before = (run / "summary.json").read_bytes()
    capsys.readouterr()
    assert main(["demo", "--out", str(out), "--per-task", "1"]) == 0
    assert (run / "summary.json").read_bytes() == before
    assert "board.html" in capsys.readouterr().out
