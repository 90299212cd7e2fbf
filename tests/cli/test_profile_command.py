"""``vital-eval profile`` on a run made by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_merge import make_manifest, write_shard
from tests.toy_world import run_arguments
from vital_eval.cli.main import main
from vital_eval.cli.profile import bar_text


def test_tables_bars_and_what_is_not_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(tmp_path, tmp_path / "run", "--modes", "direct,tool", videos=2)) == 0
    capsys.readouterr()
    assert main(["profile", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    lines = told.out.splitlines()
    assert lines[0].startswith("8 episodes: ")
    (busy,) = (line for line in lines if line.startswith("engine busy "))
    assert len([letter for letter in busy if letter in "#-"]) == 36
    rows = [line.split() for line in lines]
    assert [row[1:3] for row in rows if row[:1] == ["charades_sta"]][:2] == [["direct", "4"], ["tool", "4"]]
    bars = [row[-1] for row in rows if row[:1] in (["charades_sta"], ["all"])][:3]
    assert [len(bar) for bar in bars] == [36] * 3
    assert set("".join(bars)) <= set("odet.")
    # The scripted engine does not tell queue, prefill and writing; no column stands for what is not there.
    header = next(row for row in rows if row[:3] == ["task", "mode", "open"])
    assert {"engine", "tool", "other"} <= set(header)
    assert not {"queue", "prefill", "writing"} & set(header)
    assert "not recorded:" in told.out


def test_json_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "run", make_manifest(range(6)))
    assert main(["profile", str(tmp_path / "run"), "--json"]) == 0
    told = capsys.readouterr()
    assert told.err.startswith("12 records of an older version do not say when")
    data = json.loads(told.out)
    assert [cell["mode"] for cell in data["cells"]] == ["cot", "tool"]
    assert data["whole"]["episodes"] == sum(cell["episodes"] for cell in data["cells"]) == 10
    assert set(data["whole"]["stages"]) >= {"decode", "queue", "prefill", "writing", "tool"}
    assert data["rates"] is None, "'2026' is no time"
    assert data["untimed"] == 12
    assert len(data["not_recorded"]) == 2


def test_a_rescored_run_keeps_its_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    assert main(run_arguments(tmp_path, run, "--modes", "direct,tool", videos=2)) == 0
    assert main(["rescore", str(run), "--data-root", str(tmp_path / "data"), "--out", str(again)]) == 0
    capsys.readouterr()
    printed = []
    for folder in (run, again):
        assert main(["profile", str(folder), "--json"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert json.loads(printed[0])["rates"]["engine_busy"] > 0


@pytest.mark.parametrize(
    ("parts", "bar"),
    [
        ((1, 1, 2), "aabbcccc"),
        ((0, 0, 3), "cccccccc"),
        ((1, 0, 1), "aaaacccc"),
        ((1000, 1, 1000), "aaaacccc"),
        ((0, 0, 0), ""),
        ((1e-9, 1e-9, 1e-9), "aaabbccc"),
    ],
)
def test_a_bar_is_exactly_as_long_as_it_should_be(parts: tuple[float, ...], bar: str) -> None:
    assert bar_text(parts, "abc", 8) == bar


def test_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: no run in")
