"""``vital-eval train`` from the command line to checkpoints that ``run`` scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vital_eval.cli.main import main
from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.folder_lock import locked
from vital_eval.run_log import read_run

SCORED = ("--tasks", "charades_sta,rextime", "--limit", "3", "--device", "cpu", "--batch-size", "32")


def test_the_whole_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["train", "--recipe", "nano-ci", "--out", str(out), *SCORED]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "against" in told
    assert "4-tool-dgrpo" in told
    # What the figures rest on stands beside them: two tasks of three samples, and that this is no result.
    assert "6 in " in told
    assert "limited to 3 samples a benchmark" in told
    fingerprints = set()
    for stage in ("1-sft", "2-dgrpo", "3-tool-sft", "4-tool-dgrpo"):
        fingerprints.add(open_checkpoint(out / stage / "checkpoint").fingerprint)
        lines = [json.loads(line) for line in (out / stage / f"{stage}.jsonl").read_text().splitlines()]
        assert lines
        assert [line["step"] for line in lines] == list(range(len(lines)))
        manifest, records = read_run(out / stage / "run")
        assert manifest.label == stage
        assert len(records) == 6
    # Every stage moved the weights.
    assert len(fingerprints) == 4

    # A finished stage is not trained again; one that is not there is.
    shutil.rmtree(out / "4-tool-dgrpo")
    before = {path: path.read_bytes() for path in out.glob("*/checkpoint/model.safetensors")}
    moved = tmp_path / "moved"
    out.rename(moved)
    command[command.index(str(out))] = str(moved)
    assert main([*command, "--stage", "4-tool-dgrpo"]) == 0
    told = capsys.readouterr()
    assert "is trained already" not in told.err
    # Alone, it is compared with the stage of the earlier call.
    assert "3-tool-sft  +" in told.out or "3-tool-sft  -" in told.out
    assert main(command) == 0
    assert capsys.readouterr().err.count("is trained already") == 4
    assert {path: (moved / path.relative_to(out)).read_bytes() for path in before} == before
    assert open_checkpoint(moved / "4-tool-dgrpo" / "checkpoint").fingerprint in fingerprints

    assert main([*command, "--seed", "9"]) == 1
    assert "differs in seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--recipe", "nano-cl"], "did you mean nano-ci"),
        (["--recipe", "nano-ci"], "--out is missing"),
        (["--recipe", "vital-7b", "--out", "OUT"], "--checkpoint is missing"),
        (["--recipe", "nano-ci", "--out", "OUT", "--stage", "5"], "no stage '5'"),
        (["--recipe", "nano-ci", "--out", "OUT", "--stage", "2-dgrpo", "--data", "DATA"], "train 1-sft first"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [text.replace("OUT", str(tmp_path / "o")).replace("DATA", str(tmp_path)) for text in arguments]
    assert main(["train", *given]) == 1
    told = capsys.readouterr().err.splitlines()
    assert problem in told[-1]


@pytest.mark.parametrize("name", ["nano", "nano-ci", "vital-7b", "vital-3b"])
def test_every_recipe_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--recipe", name, "--dry-run", "--ablation"]) == 0
    told = capsys.readouterr().out
    for word in ("1-sft", "2-dgrpo", "3-tool-sft", "4-tool-dgrpo", "DGRPO (released)"):
        assert word in told
    base = {"nano": "from random weights", "nano-ci": "the packaged vital-nano"}.get(name, "--checkpoint")
    assert base in told.split("base: ")[1].splitlines()[0]


def test_papers_numbers_stand_in_the_recipe() -> None:
    from vital_eval.training.dgrpo import DgrpoStage
    from vital_eval.training.recipes import recipe

    sft, dgrpo, _, tool = (stage.train for stage in recipe("vital-7b").stages)
    assert (sft.rate, sft.batch, sft.epochs) == (1e-5, 256, 1)
    assert isinstance(dgrpo, DgrpoStage)
    assert isinstance(tool, DgrpoStage)
    for stage in (dgrpo, tool):
        assert (stage.rate, stage.prompts, stage.group, stage.loss.kl) == (1e-6, 64, 8, 0.01)
        assert stage.freeze_vision
        assert stage.protocol.view.max_frames == 64
    assert (tool.protocol.max_tool_calls, tool.protocol.max_turns) == (2, 3)


def test_a_call_that_fails_leaves_nothing_that_another_would_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["train", "--recipe", "nano-ci", "--out", str(out)]
    for wrong in (
        ["--seed", "7", "--checkpoint", str(tmp_path / "none")],
        ["--device", "abacus"],
        ["--tasks", "charades"],
    ):
        assert main([*command, *wrong]) == 1
        assert not (out / "data").exists()
        assert not (out / "world").exists()
        assert not (out / "training.json").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    "option", [("--limit", "0"), ("--limit", "-3"), ("--seed", "-1"), ("--batch-size", "0"), ("--dtype", "float16")]
)
def test_numbers_that_mean_nothing_are_refused(
    option: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--recipe", "nano-ci", "--out", str(tmp_path / "o"), "--dry-run", *option])
    assert option[0] in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "garbage", "[1]"])
def test_a_damaged_plan_is_named(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "training.json").write_text(content)
    assert main(["train", "--recipe", "nano-ci", "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_one_training_at_a_time_writes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path):
        assert main(["train", "--recipe", "nano-ci", "--out", str(tmp_path), "--device", "cpu"]) == 1
        assert "is being written by process" in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]
