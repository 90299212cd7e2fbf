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
from safetensors.numpy import load_file, save_file

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
    with pytest.raises(SystemExit):
        main([*command, "--threads", "0"])
    assert "must be at least 1" in capsys.readouterr().err
    assert main([*command, "--threads", "999999999999"]) == 1
    assert "give 1 to 4096" in capsys.readouterr().err


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


def trained(stage: StageRecipe, where: Circumstances) -> list[str]:
    told: list[str] = []
    asyncio.run(train_stages([stage], where, told.append))
    return told


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("start", "the checkpoint of the base differ"),
        ("records", "records differ"),
        ("settings", "settings differ"),
        ("length", "length differ"),
        ("seed", "seed differ"),
    ],
)
def test_a_stage_that_was_trained_from_something_else_is_refused(
    change: str, named: str, data: Path, tmp_path: Path
) -> None:
    packaged(tmp_path / "base")
    shutil.copytree(data, tmp_path / "data")
    stage = short("2-dgrpo")
    stage = dataclasses.replace(stage, init="")
    where = Circumstances(tmp_path / "base", tmp_path / "data", tmp_path, 3, "cpu")
    trained(stage, where)
    # Positive control: the same again is the same.
    assert trained(stage, where)[-1] == "2-dgrpo is trained already"
    weights = (tmp_path / "2-dgrpo" / "checkpoint" / "model.safetensors").read_bytes()
    match change:
        case "start":
            path = tmp_path / "base" / "model.safetensors"
            tensors = {name: value + np.float32(0.001) for name, value in load_file(path).items()}
            save_file(tensors, path, metadata={"format": "pt"})
        case "records":
            for path in (tmp_path / "data" / "MTVR_RL").glob("*.json"):
                path.write_text(path.read_text().replace('"text": "', '"text": "Now: '))
        case "settings":
            stage = dataclasses.replace(stage, train=dataclasses.replace(stage.train, rate=0.5))
        case "length":
            stage = dataclasses.replace(stage, train=dataclasses.replace(stage.train, steps=2))
        case "seed":
            where = dataclasses.replace(where, seed=4)
    with pytest.raises(VitalError, match=named):
        trained(stage, where)
    assert (tmp_path / "2-dgrpo" / "checkpoint" / "model.safetensors").read_bytes() == weights


def test_a_stage_begun_from_something_else_does_not_go_on_but_may_be_made_longer(data: Path, tmp_path: Path) -> None:
    packaged(tmp_path / "base")
    stage = dataclasses.replace(short("2-dgrpo"), init="")
    where = Circumstances(tmp_path / "base", data, tmp_path, 3, "cpu")
    trained(stage, where)
    shutil.rmtree(tmp_path / "2-dgrpo" / "checkpoint")
    # What a kill leaves that came after the state and before the checkpoint.
    origin = (tmp_path / "2-dgrpo" / "origin.json").read_text()
    state = tmp_path / "2-dgrpo" / "2-dgrpo.safetensors"
    state.write_bytes(b"begun")
    longer = dataclasses.replace(stage, train=dataclasses.replace(stage.train, steps=2))
    with pytest.raises(VitalError, match="cannot read the state"):
        trained(longer, where)
    with pytest.raises(VitalError, match="trained from something else: seed differ"):
        trained(stage, dataclasses.replace(where, seed=4))
    (tmp_path / "2-dgrpo" / "origin.json").unlink()
    with pytest.raises(VitalError, match="unknown origin"):
        trained(stage, where)
    (tmp_path / "2-dgrpo" / "origin.json").write_text(origin[:20])
    with pytest.raises(VitalError, match=r"cannot read .*origin\.json"):
        trained(stage, where)


@pytest.mark.parametrize("damage", ["empty", "cut"])
def test_a_damaged_checkpoint_says_how_to_mend_it(damage: str, data: Path, tmp_path: Path) -> None:
    packaged(tmp_path / "base")
    stage = short("1-sft")
    where = Circumstances(tmp_path / "base", data, tmp_path, 3, "cpu")
    trained(stage, where)
    checkpoint = tmp_path / "1-sft" / "checkpoint"
    if damage == "empty":
        shutil.rmtree(checkpoint)
        checkpoint.mkdir()
    else:
        (checkpoint / "config.json").unlink()
    with pytest.raises(VitalError, match="to train stage 1-sft again"):
        trained(stage, where)


def test_trained_weights_are_float32_whatever_the_forward_pass_is(data: Path, tmp_path: Path) -> None:
    packaged(tmp_path / "base")
    stage = dataclasses.replace(short("2-dgrpo"), init="")
    where = Circumstances(tmp_path / "base", data, tmp_path, 3, "cpu", dtype="bfloat16")
    trained(stage, where)
    weights = load_file(tmp_path / "2-dgrpo" / "checkpoint" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {np.dtype("float32")}


def test_one_interrupt_ends_a_base(data: Path, tmp_path: Path) -> None:
    def busy(folder: Path, seed: int, report: Callable[[str], None]) -> Path:
        signal.raise_signal(signal.SIGINT)
        report("not interrupted")
        return folder

    told: list[str] = []
    where = Circumstances(tmp_path / "base" / "checkpoint", data, tmp_path, 3, "cpu", make_base=busy)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(train_stages([short("1-sft")], where, told.append))
    assert told == []


def test_faulty_records_are_left_out_and_counted_and_half_of_them_must_be_sound(data: Path, tmp_path: Path) -> None:
    packaged(tmp_path / "base")
    shutil.copytree(data, tmp_path / "data")
    stage = dataclasses.replace(short("2-dgrpo"), init="")
    where = Circumstances(tmp_path / "base", tmp_path / "data", tmp_path, 3, "cpu")
    paths = sorted((tmp_path / "data" / "MTVR_RL").glob("*.json"))
    grounding = [path for path in paths if isinstance(json.loads(path.read_text())[0]["solution"], list)]
    records = json.loads(grounding[0].read_text())
    sound = len(records)
    records.append({**records[0], "id": "far", "solution": [5000.0, 6000.0]})
    grounding[0].write_text(json.dumps(records))
    told = trained(stage, where)
    assert any(f"{sound} of {sound + 1} records kept; span-outside-video 1" in line for line in told)

    for path in paths:
        path.write_text(json.dumps([json.loads(path.read_text())[0]] * 10))
    with pytest.raises(VitalError, match=r"only \d+ of \d+ records are sound"):
        trained(stage, dataclasses.replace(where, out=tmp_path / "other"))
