"""The order of a training: a base that has to be made first, and several processes that leave what one leaves."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import signal
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.training.launch import launch
from tests.training.lessons import distance
from vital_eval.cli.main import main
from vital_eval.errors import VitalError
from vital_eval.training.nano_mtvr import write_nano_mtvr
from vital_eval.training.pipeline import Circumstances, train_stages, write_plan
from vital_eval.training.recipes import StageRecipe, recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_nano_mtvr(folder, seed=5, per_source=1)
    return folder


def packaged(folder: Path) -> None:
    with as_file(files("vital_eval.nano") / "checkpoint") as source:
        shutil.copytree(source, folder)


class Maker:
    """Makes a base by copying the packaged one."""

    def __init__(self) -> None:
        self.calls: list[tuple[Path, int]] = []

    def __call__(self, folder: Path, seed: int, report: Callable[[str], None]) -> Path:
        """Make it once."""
        self.calls.append((folder, seed))
        if not (folder / "checkpoint").is_dir():
            packaged(folder / "checkpoint")
            report("a base was made")
        return folder / "checkpoint"


def short(name: str) -> StageRecipe:
    (stage,) = (stage for stage in recipe("nano-ci").stages if stage.name == name)
    return dataclasses.replace(stage, train=dataclasses.replace(stage.train, steps=1))


def test_a_base_that_is_not_there_is_made_first_and_scored_or_trained_from(data: Path, tmp_path: Path) -> None:
    maker, told = Maker(), []
    out = tmp_path / "out"
    where = Circumstances(out / "base" / "checkpoint", data, out, 3, "cpu", make_base=maker)
    write_plan(where, "made")
    plan = json.loads((out / "training.json").read_text())
    assert plan["base"] == "made here"
    stages = [short("1-sft")]
    asyncio.run(train_stages(stages, where, told.append))
    assert maker.calls == [(out / "base", 3)]
    assert told[0] == "a base was made"
    trained = load_file(out / "1-sft" / "checkpoint" / "model.safetensors")
    base = load_file(out / "base" / "checkpoint" / "model.safetensors")
    assert any(not np.array_equal(trained[name], base[name]) for name in base)
    # It goes on, and with the same plan only.
    write_plan(where, "made")
    asyncio.run(train_stages(stages, where, told.append))
    assert told[-1] == "1-sft is trained already"
    with pytest.raises(VitalError, match="differs in base"):
        write_plan(dataclasses.replace(where, make_base=None), "made")


def test_no_base_is_made_for_a_stage_that_starts_elsewhere(data: Path, tmp_path: Path) -> None:
    maker = Maker()
    where = Circumstances(tmp_path / "base" / "checkpoint", data, tmp_path, 3, "cpu", make_base=maker)
    with pytest.raises(VitalError, match="train 2-dgrpo first"):
        asyncio.run(train_stages([short("1-sft"), short("3-tool-sft")], where, print))
    assert maker.calls == []
    packaged(tmp_path / "2-dgrpo" / "checkpoint")
    asyncio.run(train_stages([short("3-tool-sft")], where, lambda line: None))
    assert maker.calls == []
    # A maker that makes nothing is found out.
    where = dataclasses.replace(where, make_base=lambda folder, seed, report: folder)
    with pytest.raises(VitalError, match="which is no checkpoint"):
        asyncio.run(train_stages([short("1-sft")], where, lambda line: None))


def test_one_interrupt_ends_a_supervised_stage_and_it_goes_on(data: Path, tmp_path: Path) -> None:
    packaged(tmp_path / "base")
    where = Circumstances(tmp_path / "base", data, tmp_path, 3, "cpu")
    stage = short("1-sft")
    stage = dataclasses.replace(stage, train=dataclasses.replace(stage.train, steps=3))
    told: list[str] = []

    def interrupt(line: str) -> None:
        told.append(line)
        if " step 1/" in line:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(train_stages([stage], where, interrupt))
    assert " step 1/3" in told[-1]
    assert not (tmp_path / "1-sft" / "checkpoint").exists()
    asyncio.run(train_stages([stage], where, told.append))
    assert " step 3/3" in told[-1]


def test_what_a_stage_rehearses_is_played_in_its_mode_and_trained_on(data: Path, tmp_path: Path) -> None:
    packaged(tmp_path / "base")
    stage = short("3-tool-sft")
    tokens = []
    for name, rehearsed in (("with", stage.rehearsed), ("without", ())):
        told: list[str] = []
        # One step over all there is, so that what is rehearsed is in it.
        train = dataclasses.replace(stage.train, steps=0, epochs=1, batch=1000)
        out = tmp_path / name
        where = Circumstances(tmp_path / "base", data, out, 3, "cpu")
        asyncio.run(
            train_stages([dataclasses.replace(stage, init="", train=train, rehearsed=rehearsed)], where, told.append)
        )
        kept = [line for line in told if "records kept" in line]
        records = sum(len(json.loads(path.read_text())) for path in (data / "MTVR_CoT").glob("*.json"))
        expected = ["tool"]
        for again in rehearsed:
            count = -(-records // again.every)
            expected.append(f"{again.protocol.mode}: {count} of {count} records kept")
        assert len(kept) == len(expected)
        assert all(one in line for one, line in zip(expected, kept, strict=True))
        (line,) = (out / stage.name / f"{stage.name}.jsonl").read_text().splitlines()
        tokens.append(json.loads(line)["tokens"])
    assert tokens[0] > tokens[1]


def test_threads_are_those_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    command = ["train", "--recipe", "vital-7b", "--out", str(tmp_path / "o")]
    try:
        assert main([*command, "--threads", str(before + 1)]) == 1
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert main([*command, "--threads", "0"]) == 1
    assert "--threads is 0; give at least one" in capsys.readouterr().err


def test_two_processes_leave_the_checkpoint_of_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself, alone and started by torchrun."""
    command = ["train", "--recipe", "nano-ci", "--stage", "1-sft", "--data", str(data), "--device", "cpu"]
    command += ["--threads", "1", "--tasks", "charades_sta", "--limit", "1", "--out"]
    before = torch.get_num_threads()
    try:
        assert main([*command, str(tmp_path / "one")]) == 0
    finally:
        torch.set_num_threads(before)
    told = {"one": capsys.readouterr()}
    done = launch(["-m", "vital_eval", *command, str(tmp_path / "two")])
    assert done.returncode == 0, done.stderr[-3000:]
    logs = []
    for name, out, err in (("one", *told["one"]), ("two", done.stdout, done.stderr)):
        folder = tmp_path / name / "1-sft"
        # One process speaks, and one writes.
        assert out.count("checkpoint: ") == 1
        assert err.count("1-sft step 6/6") == 1
        lines = (folder / "1-sft.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
        assert [line["step"] for line in logs[-1]] == list(range(6))
        assert len((folder / "run" / "records.jsonl").read_text().splitlines()) == 1
        assert not list(folder.glob("*.safetensors"))
    one, two = (load_file(tmp_path / name / "1-sft" / "checkpoint" / "model.safetensors") for name in ("one", "two"))
    for alone, together in zip(*logs, strict=True):
        assert together["tokens"] == alone["tokens"]
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert together["gradient"] == pytest.approx(alone["gradient"], rel=1e-4)
    # Next to how far the stage moved them, the weights are the same.
    packaged(tmp_path / "base")
    moved = distance(one, load_file(tmp_path / "base" / "model.safetensors"))
    assert moved > 0.1
    assert distance(one, two) < 1e-3 * moved
