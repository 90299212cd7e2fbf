"""VITAL's four stages as verl configurations: which trainer, which settings, and how questions are asked."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from vital_eval.errors import ProtocolError
from vital_eval.presets import preset
from vital_eval.protocol import Mode, Protocol, Sampling

from .names import REGISTRATION

_PIXELS = 224 * 224
#: Texts that hydra reads as themselves.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./:-]*")
_WORDS = frozenset({"true", "false", "null", "nan", "inf"})
_TOOL_CLASS = "vital_eval.training.verl_plugin.tool.ClipTool"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        number: 1 to 4.
        mode: with or without the tool.
        max_frames: of the whole video.
        reinforced: whether it is trained by DGRPO; else by supervision.
        nodes: machines of 8 devices that the release used.
    """

    number: int
    mode: Mode
    max_frames: int
    reinforced: bool
    nodes: int

    @property
    def module(self) -> str:
        """Return verl's entry point."""
        return "verl.trainer.main_ppo" if self.reinforced else "verl.trainer.sft_trainer"

    @property
    def config_name(self) -> str:
        """Return the name of verl's base configuration."""
        return "ppo_trainer" if self.reinforced else "sft_trainer_engine"

    def protocol(self) -> Protocol:
        """Return how questions are asked: the preset ``vital`` with the stage's frames and sampling.

        No repetition penalty: the release samples with 1.05, which its log-probabilities do not know of. verl 0.9.1
        fixes it at 1 for agent loops anyway.
        """
        base = preset("vital", self.mode, "")
        return dataclasses.replace(
            base,
            name=f"stage-{self.number}",
            view=dataclasses.replace(base.view, max_frames=self.max_frames, max_pixels=_PIXELS),
            sampling=Sampling(max_new_tokens=1024, temperature=1.0, top_p=1.0),
        )


#: By number.
STAGES: Mapping[int, Stage] = {
    1: Stage(1, Mode.COT, 128, reinforced=False, nodes=1),
    2: Stage(2, Mode.COT, 64, reinforced=True, nodes=2),
    3: Stage(3, Mode.TOOL, 128, reinforced=False, nodes=1),
    4: Stage(4, Mode.TOOL, 64, reinforced=True, nodes=2),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one stage.

    Attributes:
        stage: see :class:`Stage`.
        model: checkpoint folder to start from.
        train: parquet files.
        validation: parquet files; may be empty for supervised stages.
        media_root: folder below which videos lie, the same path on every node.
        output: folder for checkpoints and for the files that the run reads, seen from every node.
        spatial_factor: pixels on a side of one visual token of the model.
        nodes: machines.
        gpus: devices on each.
        extra: further settings as hydra reads them; they win.
    """

    stage: Stage
    model: Path
    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    media_root: Path
    output: Path
    spatial_factor: int
    nodes: int
    gpus: int
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def protocol_file(self) -> Path:
        """Return where the run reads its protocol."""
        return self.output / "protocol.json"

    @property
    def tools_file(self) -> Path:
        """Return where the run reads its tools."""
        return self.output / "tools.yaml"

    def viewing(self) -> dict[str, Any]:
        """Return what :func:`~.frames.viewing` reads."""
        return {
            "protocol": str(self.protocol_file),
            "media_root": str(self.media_root),
            "spatial_factor": self.spatial_factor,
        }

    def files(self) -> dict[Path, str]:
        """Return the files that the run reads, by path."""
        found = {self.protocol_file: json.dumps(self.stage.protocol().to_json(), indent=1) + "\n"}
        if self.stage.reinforced and self.stage.mode is Mode.TOOL:
            tool = {"class_name": _TOOL_CLASS, "config": {"type": "native", **self.viewing()}}
            # JSON is YAML too.
            found[self.tools_file] = json.dumps({"tools": [tool]}, indent=1) + "\n"
        return found

    def overrides(self) -> dict[str, str]:
        """Return every setting that differs from verl's, values as hydra reads them.

        Raises:
            ProtocolError: if a reinforced stage has no validation file.
        """
        settings = stage_settings(self.stage) | {f"+data.vital.{name}": value for name, value in self.viewing().items()}
        settings |= {
            "data.train_files": [str(path) for path in self.train],
            "data.val_files": [str(path) for path in self.validation] or None,
            "trainer.default_local_dir": str(self.output / "checkpoints"),
            "trainer.nnodes": self.nodes,
            "trainer.n_gpus_per_node": self.gpus,
        }
        settings |= self._reinforced() if self.stage.reinforced else self._supervised()
        return {name: hydra_text(value) for name, value in settings.items()} | dict(self.extra)

    def command(self, python: str) -> list[str]:
        """Return the command as a list of arguments; nothing in it goes through a shell.

        Args:
            python: interpreter of the environment that holds verl.
        """
        # -P: started inside a checkout, the folder there must not stand in for the installed package.
        start = [python, "-P", "-m", self.stage.module]
        if not self.stage.reinforced:
            # On several machines it is started on each, with torch's own rendezvous arguments in the environment.
            start = [
                python,
                "-P",
                "-m",
                "torch.distributed.run",
                f"--nnodes={self.nodes}",
                f"--nproc-per-node={self.gpus}",
            ]
            start += ["-m", self.stage.module]
        return [*start, *(f"{name}={value}" for name, value in self.overrides().items())]

    def _reinforced(self) -> dict[str, Any]:
        protocol = self.stage.protocol()
        rollout = "actor_rollout_ref.rollout"
        settings: dict[str, Any] = {
            "actor_rollout_ref.model.path": str(self.model),
            f"{rollout}.temperature": protocol.sampling.temperature,
            f"{rollout}.top_p": protocol.sampling.top_p,
            f"{rollout}.multi_turn.max_assistant_turns": protocol.max_turns,
            f"{rollout}.agent.agent_loop_config_path": str(config_file("agent_loop")),
            # Every worker imports verl anew, on every node.
            "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES": REGISTRATION,
        }
        if protocol.tools:
            settings[f"{rollout}.multi_turn.tool_config_path"] = str(self.tools_file)
        if not self.validation:
            raise ProtocolError("no validation file", "verl's trainer needs one; name some rows of the training set")
        return settings

    def _supervised(self) -> dict[str, Any]:
        return {"model.path": str(self.model), "+data.vital.checkpoint": str(self.model)}


def config_file(name: str) -> Path:
    """Return a configuration file of this package."""
    return Path(str(files("vital_eval.training.verl_plugin"))) / "config" / f"{name}.yaml"


def stage_settings(stage: Stage) -> dict[str, Any]:
    """Read a stage's hyper-parameters."""
    from omegaconf import OmegaConf

    # Dotted names are names here, not paths.
    read = OmegaConf.load(config_file(f"stage_{stage.number}"))
    return {
        str(name): OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for name, value in read.items()
    }


def hydra_text(value: Any) -> str:
    """Return a value as hydra's command line reads it."""
    if isinstance(value, list):
        return f"[{','.join(hydra_text(item) for item in value)}]"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    # In hydra's quotes a backslash means itself, except in front of a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda met: met[1] * 2 + ("\\'" if met[2] else ""), text) + "'"


def read_extra(pairs: Sequence[str]) -> dict[str, str]:
    """Read ``name=value`` arguments; values stay text, as hydra reads them.

    Raises:
        ProtocolError: if one has no ``=``.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ProtocolError(f"{pair!r} is not name=value", "write it as on verl's command line")
        found[name] = value
    return found
