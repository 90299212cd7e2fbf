"""Engines by name and with options of their own, for the rollouts of training and of `data roll`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vital_eval.cli.main import main
from vital_eval.engine import EngineInfo, GenerationRequest
from vital_eval.engines.hf import HFEngine, load_engine
from vital_eval.errors import VitalError
from vital_eval.generation import Generation
from vital_eval.training.nano_mtvr import write_nano_mtvr
from vital_eval.training.pipeline import Circumstances, train_stages
from vital_eval.training.processes import Processes
from vital_eval.training.recipes import recipe

_PLUGIN = """
import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    told: str
    cache_gib: float = 1.0
    eager: bool = False


def make(checkpoint, device, dtype, batch_size, options: Options | None = None):
    # Here, because every decoding process reads this file too.
    from vital_eval.engines.hf import load_engine

    Path(options.told).write_text(json.dumps(asdict(options)))
    return load_engine(checkpoint, device, dtype, batch_size)


def register(registries):
    registries.engines.add("own", lambda: make)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_nano_mtvr(folder, seed=5, per_source=1)
    return folder


class Beside:
    """An engine with weights of its own, which counts what it is asked for."""

    def __init__(self, engine: HFEngine) -> None:
        self.engine = engine
        self.turns = self.received = 0
        self.closed = False

    @property
    def info(self) -> EngineInfo:
        """Return whoever is within."""
        return self.engine.info

    async def generate(self, request: GenerationRequest) -> Generation:
        """Have it write."""
        self.turns += 1
        return await self.engine.generate(request)

    def release(self, episode: str) -> None:
        """Have it forget."""
        self.engine.release(episode)

    async def close(self) -> None:
        """Close it."""
        self.closed = True
        await self.engine.close()

    async def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Hand them on."""
        self.received += 1
        await self.engine.load_weights(weights)


def test_an_engine_beside_the_model_plays_the_rollouts_and_trains_the_same(data: Path, tmp_path: Path) -> None:
    (stage,) = (stage for stage in recipe("nano-ci").stages if stage.name == "2-dgrpo")
    made: list[Beside] = []
    asked: list[tuple[Path, str, str, int]] = []

    def make(checkpoint: Path, device: str, dtype: str, batch_size: int) -> Beside:
        asked.append((checkpoint, device, dtype, batch_size))
        made.append(Beside(load_engine(checkpoint, device, dtype, batch_size)))
        return made[-1]

    weights = []
    for name, factory in (("inside", None), ("beside", make)):
        out = tmp_path / name
        with as_file(files("vital_eval.nano") / "checkpoint") as base:
            shutil.copytree(base, out / "1-sft" / "checkpoint")
        where = Circumstances(tmp_path / "none", data, out, 3, "cpu", rollout_engine=factory)
        asyncio.run(train_stages([stage], where, lambda line: None))
        weights.append(load_file(out / "2-dgrpo" / "checkpoint" / "model.safetensors"))
        with pytest.raises(VitalError, match="needs a single process"):
            asyncio.run(train_stages([stage], dataclasses.replace(where, rollout_engine=make), print, Processes(0, 2)))
    (engine,) = made
    assert asked == [(tmp_path / "beside" / "1-sft" / "checkpoint", "cpu", "auto", 16)]
    # Told before the first step and after each, asked by every rollout of both steps, and by the probe.
    assert engine.received == 1 + stage.train.steps
    assert engine.turns >= stage.train.steps * stage.train.prompts * stage.train.group + 1
    assert engine.closed
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--engine", "hff"], "did you mean hf"),
        (["--engine-option", "x=1"], "engine 'hf' has no options of its own"),
        (["--engine", "openai", "--stage", "1-sft"], "no stage here has rollouts for engine 'openai'"),
    ],
)
def test_mistakes_with_engines_are_one_line_and_write_nothing(
    arguments: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["train", "--recipe", "nano-ci", "--out", str(out), *arguments]) == 1
    assert problem in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


def test_rolls_are_played_by_an_engine_with_options(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin, told, out = tmp_path / "own.py", tmp_path / "told.json", tmp_path / "rolls.jsonl"
    plugin.write_text(_PLUGIN)
    with as_file(files("vital_eval.nano") / "checkpoint") as base:
        command = ["data", "roll", str(data / "MTVR_RL" / "charades.json"), "--media-root", str(data)]
        command += ["--checkpoint", str(base), "--preset", "nano", "--rollouts", "2", "--device", "cpu"]
        command += ["--out", str(out), "--plugin", str(plugin), "--engine", "own", "--engine-option", f"told={told}"]
        assert main([*command, "--engine-option", "cashe-gib=2"]) == 1
        assert "no option 'cashe_gib'; did you mean cache_gib?" in capsys.readouterr().err
        assert not out.exists()
        assert main([*command, "--engine-option", "cache-gib=2", "--engine-option", "eager=true"]) == 0
    assert json.loads(told.read_text()) == {"told": str(told), "cache_gib": 2.0, "eager": True}
    assert "1 records with 2 rollouts" in capsys.readouterr().out
