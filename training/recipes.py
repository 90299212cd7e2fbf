"""The four stages as typed recipes: VITAL's for 7B and 3B, and nano's for two CPU cores.

Numbers of ``vital-7b``: the stage scripts of VITAL's release (docs/training.md names them). Which of them the paper
states too is not known. No 3B number was published; ``vital-3b`` takes those of 7B.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from vital_eval.errors import UnknownNameError
from vital_eval.presets import preset
from vital_eval.protocol import Mode, Protocol, Sampling, View
from vital_eval.registry import suggest

from .advantages import Difficulty
from .dgrpo import DgrpoStage
from .mtvr.records import Form
from .policy_loss import LossSettings
from .rewards import RewardRules, ToolBonus
from .sft import SftStage


class Base(StrEnum):
    """What the first stage starts from."""

    CHECKPOINT = "checkpoint"
    PACKAGED_NANO = "packaged-nano"


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """One stage of a recipe.

    Attributes:
        name: unique in the recipe; names its folder.
        init: the stage whose checkpoint it starts from, ``""`` for the recipe's base.
        form: form of its records.
        files: stems of the files it reads, in order; all files of the form if empty.
        train: how it is trained.
        mode: how its checkpoint is scored afterwards.
        ablation: a side branch, trained only when ablations are asked for.
    """

    name: str
    init: str
    form: Form
    files: tuple[str, ...]
    train: SftStage | DgrpoStage
    mode: Mode
    ablation: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole training.

    Attributes:
        name: as ``--recipe`` names it.
        base: what the first stage starts from.
        stages: in the order in which they are trained; a stage comes after the one it starts from.
        hardware: what it needs, in words.
        parameters: of the model, for estimates.
        groups: GPUs (or processes) it was published with.
    """

    name: str
    base: Base
    stages: tuple[StageRecipe, ...]
    hardware: str
    parameters: float
    groups: int

    def chosen(self, name: str | None, ablations: bool) -> tuple[StageRecipe, ...]:
        """Return the stages to train: all of the main line, with side branches if asked for, or a single one.

        Raises:
            UnknownNameError: if there is no stage of that name.
        """
        if name is None:
            return tuple(stage for stage in self.stages if ablations or not stage.ablation)
        found = tuple(stage for stage in self.stages if stage.name == name)
        if not found:
            known = [stage.name for stage in self.stages]
            raise UnknownNameError(f"recipe {self.name} has no stage {name!r}", suggest(name, known))
        return found


RECIPES = ("nano", "nano-ci", "vital-7b", "vital-3b")

_PIXELS = 224 * 224
_MIN_PIXELS = 4 * 28 * 28
#: One update a rollout and a KL term of 0.01, as released.
_LOSS = LossSettings(kl=0.01)


def recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        UnknownNameError: if there is no such recipe.
    """
    if name == "nano":
        return _nano(name, sft_steps=1200, tool_steps=1200, rl_steps=150, prompts=8, group=8)
    if name == "nano-ci":
        return _nano(name, sft_steps=6, tool_steps=6, rl_steps=2, prompts=2, group=4)
    if name == "vital-7b":
        hardware = "stages 1 and 3: 8 GPUs of 80 GB; stages 2 and 4: 16; 640 H100 hours in all (second-hand)"
        return _vital(name, 8.3e9, hardware)
    if name == "vital-3b":
        return _vital(name, 3.8e9, "8 GPUs of 80 GB a stage (an estimate: no 3B run is described)")
    raise UnknownNameError(f"unknown recipe {name!r}", suggest(name, RECIPES))


def _nano(name: str, *, sft_steps: int, tool_steps: int, rl_steps: int, prompts: int, group: int) -> Recipe:
    def asked(mode: Mode, temperature: float = 0.0) -> Protocol:
        return dataclasses.replace(
            preset("nano", mode, ""), sampling=Sampling(max_new_tokens=112, temperature=temperature)
        )

    def taught(stage: str, mode: Mode, steps: int) -> SftStage:
        return SftStage(name=stage, protocol=asked(mode), steps=steps, rate=5e-4, batch=16)

    def reinforced(stage: str, mode: Mode, difficulty: Difficulty) -> DgrpoStage:
        return DgrpoStage(
            name=stage,
            protocol=asked(mode, temperature=1.0),
            steps=rl_steps,
            rate=5e-5,
            prompts=prompts,
            group=group,
            difficulty=difficulty,
            loss=_LOSS,
            rules=RewardRules(tool_bonus=ToolBonus.ONCE),
        )

    stages = (
        StageRecipe("1-sft", "", Form.COT, (), taught("1-sft", Mode.COT, sft_steps), Mode.COT),
        StageRecipe(
            "2-grpo", "1-sft", Form.RL, (), reinforced("2-grpo", Mode.COT, Difficulty.NONE), Mode.COT, ablation=True
        ),
        StageRecipe("2-dgrpo", "1-sft", Form.RL, (), reinforced("2-dgrpo", Mode.COT, Difficulty.RELEASED), Mode.COT),
        StageRecipe("3-tool-sft", "2-dgrpo", Form.TOOL_COT, (), taught("3-tool-sft", Mode.TOOL, tool_steps), Mode.TOOL),
        StageRecipe(
            "4-tool-dgrpo",
            "3-tool-sft",
            Form.TOOL_RL,
            (),
            reinforced("4-tool-dgrpo", Mode.TOOL, Difficulty.RELEASED),
            Mode.TOOL,
        ),
    )
    return Recipe(name, Base.PACKAGED_NANO, stages, "two CPU cores, 4 GB of memory", 1.5e6, 1)


def _vital(name: str, parameters: float, hardware: str) -> Recipe:
    def asked(mode: Mode, frames: int, tokens: int, temperature: float, calls: int = 2) -> Protocol:
        view = View(fps=2.0, max_frames=frames, min_pixels=_MIN_PIXELS, max_pixels=_PIXELS, clock=True)
        clip = View(fps=2.0, max_frames=64, min_pixels=_MIN_PIXELS, max_pixels=_PIXELS, clock=True)
        plain = dataclasses.replace(
            preset("vital", mode, ""),
            view=view,
            clip_view=clip,
            # The release samples with a repetition penalty of 1.05 that its log-probabilities do not know.
            sampling=Sampling(max_new_tokens=tokens, temperature=temperature),
        )
        return plain if mode is not Mode.TOOL else dataclasses.replace(plain, max_tool_calls=calls, max_turns=calls + 1)

    def taught(stage: str, mode: Mode, micro: int) -> SftStage:
        return SftStage(
            name=stage,
            protocol=asked(mode, 128, 1024, 0.0),
            epochs=1,
            rate=1e-5,
            batch=256,
            micro_batch=micro,
            gradient_checkpointing=True,
        )

    def reinforced(stage: str, mode: Mode) -> DgrpoStage:
        return DgrpoStage(
            name=stage,
            protocol=asked(mode, 64, 1024, 1.0),
            steps=0,
            epochs=1,
            rate=1e-6,
            prompts=64,
            group=8,
            difficulty=Difficulty.RELEASED,
            loss=_LOSS,
            rules=RewardRules(tool_bonus=ToolBonus.ONCE),
            micro_batch=2,
            freeze_vision=True,
        )

    stages = (
        StageRecipe("1-sft", "", Form.COT, _COT_FILES, taught("1-sft", Mode.COT, 4), Mode.COT),
        StageRecipe("2-dgrpo", "1-sft", Form.RL, _RL_FILES, reinforced("2-dgrpo", Mode.COT), Mode.COT),
        StageRecipe("3-tool-sft", "2-dgrpo", Form.TOOL_COT, _TOOL_FILES, taught("3-tool-sft", Mode.TOOL, 2), Mode.TOOL),
        StageRecipe(
            "4-tool-dgrpo", "3-tool-sft", Form.TOOL_RL, _TOOL_FILES, reinforced("4-tool-dgrpo", Mode.TOOL), Mode.TOOL
        ),
    )
    return Recipe(name, Base.CHECKPOINT, stages, hardware, parameters, 16)


_TOOL_FILES = ("longvideo-reason", "vidchapters")
#: Video files only: records of images are not supported.
_RL_FILES = ("actnet", "charades", "nextgqa", "rextime", "vidchapters", "Video-R1-data-video")
_COT_FILES = (*_RL_FILES[:5], "longvideo-reason", "Video-R1-data-video")


def describe(stages: Sequence[StageRecipe]) -> list[tuple[str, str, str, str, str]]:
    """Return name, start, data, method and protocol of every stage, for people."""
    rows = []
    for stage in stages:
        train = stage.train
        if isinstance(train, DgrpoStage):
            length = f"{train.steps} steps" if train.steps else f"{train.epochs} epoch"
            method = (
                f"DGRPO ({train.difficulty.value}), {length} of {train.prompts} x {train.group} rollouts, "
                f"rate {train.rate:g}, KL {train.loss.kl:g}"
            )
        else:
            length = f"{train.steps} steps" if train.steps else f"{train.epochs} epoch"
            method = f"supervised, {length} of {train.batch}, rate {train.rate:g}"
        files = ", ".join(stage.files) or "all files"
        view = train.protocol.view
        rows.append(
            (
                stage.name,
                stage.init or "base",
                f"{stage.form.value}: {files}",
                method,
                f"{train.protocol.mode.value}, {view.max_frames} frames of at most {view.max_pixels} pixels",
            )
        )
    return rows
