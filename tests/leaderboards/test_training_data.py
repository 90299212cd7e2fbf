"""The register of what checkpoints were trained on, and the remark it leaves on boards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.toy_world import TASK, run_arguments
from vital_eval.cli.main import main
from vital_eval.errors import DataError
from vital_eval.leaderboards.published import published_tables
from vital_eval.leaderboards.training_data import read_register, register_from_json, remark_on

ENTRY = {
    "model": "Mine-7B",
    "task": TASK,
    "trained_on": "training split",
    "evidence": "its own log",
    "confidence": "first-hand",
}


def test_the_packaged_register_names_model_task_part_and_evidence() -> None:
    register = read_register()
    assert "trained on the training split" in remark_on(register, "vital-7b", "charades_sta")
    assert "probably the validation split" in remark_on(register, "VITAL-7B", "next_gqa")
    # Not in the register: nothing is claimed.
    assert remark_on(register, "VITAL-7B", "mmvu") == ""
    assert remark_on(register, "vital-7b-other", "charades_sta") == ""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"task": "charades"}, "unknown task"),
        ({"confidence": "sure"}, "confidence"),
        ({"evidence": " "}, "evidence"),
        ({"more": "x"}, "unknown field more"),
    ],
)
def test_a_wrong_entry_is_named(change, problem) -> None:
    with pytest.raises(DataError, match=f"register.json, entry 2.*{problem}"):
        register_from_json([ENTRY, ENTRY | change], "register.json", [TASK])


def test_published_rows_say_so() -> None:
    (table,) = published_tables(["charades_sta"], {})
    remarks = {row[0]: row[-1] for row in table.rows}
    assert "in-domain" in remarks["VITAL-7B"]
    assert "in-domain" not in remarks["GPT-5"]


def test_a_measured_row_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(tmp_path, tmp_path / "run", "--label", "mine-7b")) == 0
    path = tmp_path / "register.json"
    path.write_text(json.dumps([ENTRY]))
    arguments = ["board", str(tmp_path / "run"), "--out", str(tmp_path / "board"), "--no-plots"]
    assert main(arguments) == 0
    assert "in-domain" not in capsys.readouterr().out
    assert main([*arguments, "--training-data", str(path)]) == 0
    assert "in-domain: trained on the training split (first-hand: its own log)" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_register_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(tmp_path, tmp_path / "run")) == 0
    path = tmp_path / "register.json"
    path.write_text("{}")
    arguments = ["board", str(tmp_path / "run"), "--out", str(tmp_path / "board"), "--training-data", str(path)]
    capsys.readouterr()
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")
