"""``vital-eval compare`` from run folders to a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.toy_world import run_arguments
from vital_eval.cli.main import main


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    # The table wraps its words where the terminal is narrow.
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "one"
    assert main(run_arguments(tmp_path, folder)) == 0
    return folder


def test_tool_against_text_in_one_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    data, page = tmp_path / "x" / "c.json", tmp_path / "c.md"
    assert main(["compare", str(run), "--json", str(data), "--markdown", str(page), "--out", str(tmp_path / "o")]) == 0
    told = capsys.readouterr().out
    assert "Charades-STA" in told
    assert "Holm p" in told
    assert "tool (run one)" in told
    assert json.loads(data.read_text())["sections"][0]["comparisons"][0]["task"] == "charades_sta"
    assert "Charades-STA" in page.read_text()
    assert sorted(path.suffix for path in (tmp_path / "o").iterdir()) == [".csv", ".json", ".md", ".tex"]
    assert all(str(path) in told for path in (data, page))


def test_a_run_against_itself_shows_no_difference(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["compare", f"{run}@cot", f"{run}@cot"]) == 0
    told = capsys.readouterr().out
    assert "1.000" in told
    assert "no difference shown" in told


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["RUN@tool"], "alone is compared with nothing"),
        (["RUN", "RUN", "--modes", "tool,cot"], "write FOLDER@MODE"),
        (["RUN", "--modes", "tool"], "name two modes"),
        (["RUN", "--modes", "tool,quick"], "no mode 'quick'"),
        (["RUN", "--allow", "frames"], "no field 'frames'"),
        (["RUN", "NOWHERE"], "no run in"),
    ],
)
def test_mistakes_are_one_line(run: Path, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    given = [text.replace("RUN", str(run)).replace("NOWHERE", str(run / "nowhere")) for text in arguments]
    assert main(["compare", *given]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert error in told
