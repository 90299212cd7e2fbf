"""``vital-eval profile`` on a run made by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_merge import make_manifest, write_shard
from tests.toy_world import run_arguments
from vital_eval.cli.main import main


def test_tables_and_what_is_not_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(tmp_path, tmp_path / "run", "--modes", "direct,tool", videos=2)) == 0
    capsys.readouterr()
    assert main(["profile", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    lines = [line.split() for line in told.out.splitlines()]
    assert [line[1:3] for line in lines if line[:1] == ["charades_sta"]][:2] == [["direct", "4"], ["tool", "4"]]
    assert "not recorded:" in told.out
    assert "busy share" in told.out
    assert "the engine timed no turn" in told.err  # The scripted one does not; vital-nano and all real ones do.


def test_json_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "run", make_manifest(range(6)))
    assert main(["profile", str(tmp_path / "run"), "--json"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    data = json.loads(told.out)
    assert [cell["mode"] for cell in data["cells"]] == ["cot", "tool"]
    assert data["whole"]["episodes"] == sum(cell["episodes"] for cell in data["cells"]) == 10
    assert data["rates"] is None, "'2026' is no time"
    assert len(data["not_recorded"]) == 4


def test_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: no run in")
