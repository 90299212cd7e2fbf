"""The four stages as typed recipes: VITAL's for 7B and 3B, and nano's for two CPU cores.

Numbers of ``vital-7b``: the stage scripts of VITAL's release (docs/training.md names them). Which of them the paper
states too is not known. No 3B number was published; ``vital-3b`` takes those of 7B.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from vital_eval.errors import UnknownNameError
from vital_eval.presets import preset
from vital_eval.protocol import Mode, Protocol, Sampling
from vital_eval.registry import suggest

from .advantages import Difficulty
from .dgrpo import DgrpoStage
from .mtvr.records import Form
from .policy_loss import LossSettings
from .rewards import RewardRules, ToolBonus
from .sft import SftStage
from .vital_views import RL_FRAMES, SFT_FRAMES, training_protocol


class Base(StrEnum):
    """What the first stage starts from."""

    CHECKPOINT = "checkpoint"
    #: Trained by the recipe itself, before the first stage.
    SCRATCH = "scratch"
    PACKAGED_NANO = "packaged-nano"


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Lessons of another form or mode that a supervised stage mixes in, so that what was learned before is kept.

    Attributes:
        form: form of the records, with written-out solutions; all files of it are read.
        protocol: what they are played under.
        every: one record in so many is taken.

    Raises:
        ValueError: if the form has no solutions to play, or ``every`` is below 1.
    """

    form: Form
    protocol: Protocol
    every: int

    def __post_init__(self) -> None:
        """Refuse what would rehearse nothing."""
        if self.form not in (Form.COT, Form.TOOL_COT) or self.every < 1:
            raise ValueError(f"cannot rehearse one in {self.every} of {self.form.value}")


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
        rehearsed: mixed in beside the records; supervised stages only.

    Raises:
        ValueError: if a stage that is not supervised is to rehearse.
    """

    name: str
    init: str
    form: Form
    files: tuple[str, ...]
    train: SftStage | DgrpoStage
    mode: Mode
    ablation: bool = False
    rehearsed: tuple[Rehearsal, ...] = ()

    def __post_init__(self) -> None:
        """Refuse rehearsals that would be forgotten."""
        if self.rehearsed and not isinstance(self.train, SftStage):
            raise ValueError(f"stage {self.name} is not supervised and cannot rehearse")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole training.

    Attributes:
        name: as ``--recipe`` names it.
        purpose: what it is for, in words.
        base: what the first stage starts from.
        stages: in the order in which they are trained; a stage comes after the one it starts from.
        hardware: what it needs, in words.
        parameters: of the model, for estimates.
        groups: GPUs (or processes) it was published with.
    """

    name: str
    purpose: str
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

#: One update a rollout and a KL term of 0.01, as released.
_LOSS = LossSettings(kl=0.01)


def recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        UnknownNameError: if there is no such recipe.
    """
    if name == "nano":
        return _nano(
            name,
            "the whole training in miniature, about 45 minutes on two cores, half of them for the base",
            Base.SCRATCH,
            sft_steps=110,
            rl_steps=24,
            tool_steps=280,
            tool_rl_steps=40,
            prompts=24,
            group=6,
        )
    if name == "nano-ci":
        return _nano(
            name,
            "a few steps of every stage, to see that training runs here; no gain is to be expected",
            Base.PACKAGED_NANO,
            sft_steps=6,
            rl_steps=2,
            tool_steps=6,
            tool_rl_steps=2,
            prompts=2,
            group=4,
        )
    if name == "vital-7b":
        hardware = "stages 1 and 3: 8 GPUs of 80 GB; stages 2 and 4: 16; the paper's 640 H100 hours (second-hand)"
        return _vital(name, "VITAL's training, by the stage scripts of its release", 8.3e9, hardware)
    if name == "vital-3b":
        purpose = "vital-7b's numbers for a model of 3B; none were published"
        return _vital(name, purpose, 3.8e9, "8 GPUs of 80 GB a stage (an estimate)")
    raise UnknownNameError(f"unknown recipe {name!r}", suggest(name, RECIPES))


#: A model as small as nano keeps no mode that it does not practise. Mode of a stage to what it rehearses, one record of
#: the CoT form in so many.
_REHEARSED: Mapping[Mode, tuple[tuple[Mode, int], ...]] = {
    Mode.DIRECT: (),
    Mode.COT: ((Mode.DIRECT, 5), (Mode.BLIND, 5)),
    Mode.TOOL: ((Mode.COT, 2), (Mode.DIRECT, 5), (Mode.BLIND, 5)),
}


def _nano(
    name: str,
    purpose: str,
    base: Base,
    *,
    sft_steps: int,
    rl_steps: int,
    tool_steps: int,
    tool_rl_steps: int,
    prompts: int,
    group: int,
) -> Recipe:
    def asked(mode: Mode, temperature: float = 0.0) -> Protocol:
        return dataclasses.replace(
            preset("nano", mode, ""), sampling=Sampling(max_new_tokens=112, temperature=temperature)
        )

    def taught(stage: str, init: str, mode: Mode, steps: int, ablation: bool = False) -> StageRecipe:
        train = SftStage(name=stage, protocol=asked(mode), steps=steps, rate=1e-3, batch=16)
        form = Form.TOOL_COT if mode is Mode.TOOL else Form.COT
        rehearsed = tuple(Rehearsal(Form.COT, asked(again), every) for again, every in _REHEARSED[mode])
        return StageRecipe(stage, init, form, (), train, mode, ablation, rehearsed)

    def reinforced(
        stage: str, init: str, mode: Mode, difficulty: Difficulty = Difficulty.RELEASED, ablation: bool = False
    ) -> StageRecipe:
        train = DgrpoStage(
            name=stage,
            # At temperature 1 so small a model says something malformed in one rollout of six, and that noise drowns
            # what is to be learned.
            protocol=asked(mode, temperature=0.6),
            steps=tool_rl_steps if mode is Mode.TOOL else rl_steps,
            rate=1e-4,
            prompts=prompts,
            group=group,
            difficulty=difficulty,
            loss=_LOSS,
            rules=RewardRules(tool_bonus=ToolBonus.ONCE, thought=mode is not Mode.DIRECT),
        )
        form = Form.TOOL_RL if mode is Mode.TOOL else Form.RL
        return StageRecipe(stage, init, form, (), train, mode, ablation)

    stages = (
        taught("1-direct-sft", "", Mode.DIRECT, sft_steps, ablation=True),
        reinforced("2-direct-grpo", "1-direct-sft", Mode.DIRECT, Difficulty.NONE, ablation=True),
        taught("1-sft", "", Mode.COT, sft_steps),
        reinforced("2-grpo", "1-sft", Mode.COT, Difficulty.NONE, ablation=True),
        reinforced("2-dgrpo", "1-sft", Mode.COT),
        taught("3-tool-sft", "2-dgrpo", Mode.TOOL, tool_steps),
        reinforced("4-tool-grpo", "3-tool-sft", Mode.TOOL, Difficulty.NONE, ablation=True),
        reinforced("4-tool-dgrpo", "3-tool-sft", Mode.TOOL),
    )
    return Recipe(name, purpose, base, stages, "two CPU cores, 4 GB of memory", 1.5e6, 1)


def _vital(name: str, purpose: str, parameters: float, hardware: str) -> Recipe:
    def asked(mode: Mode, frames: int, tokens: int, temperature: float) -> Protocol:
        # The release samples with a repetition penalty of 1.05 that its log-probabilities do not know.
        return training_protocol(mode, frames, Sampling(max_new_tokens=tokens, temperature=temperature))

    def taught(stage: str, mode: Mode, micro: int) -> SftStage:
        return SftStage(
            name=stage,
            protocol=asked(mode, SFT_FRAMES, 1024, 0.0),
            epochs=1,
            rate=1e-5,
            batch=256,
            micro_batch=micro,
            gradient_checkpointing=True,
        )

    def reinforced(stage: str, mode: Mode) -> DgrpoStage:
        return DgrpoStage(
            name=stage,
            protocol=asked(mode, RL_FRAMES, 1024, 1.0),
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
    return Recipe(name, purpose, Base.CHECKPOINT, stages, hardware, parameters, 16)


_TOOL_FILES = ("longvideo-reason", "vidchapters")
#: Video files only: records of images are not supported.
_RL_FILES = ("actnet", "charades", "nextgqa", "rextime", "vidchapters", "Video-R1-data-video")
_COT_FILES = (*_RL_FILES[:5], "longvideo-reason", "Video-R1-data-video")


def describe_base(base: Base) -> str:
    """Say where the first stage's start comes from, for people."""
    match base:
        case Base.CHECKPOINT:
            return "the checkpoint given with --checkpoint"
        case Base.SCRATCH:
            return "trained first, from random weights, in six lessons (docs/nano.md)"
        case Base.PACKAGED_NANO:
            return "the packaged vital-nano, whose training is over"


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
        rehearsed = "".join(
            f" + 1/{again.every} of {again.form.value} as {again.protocol.mode}" for again in stage.rehearsed
        )
        view = train.protocol.view
        rows.append(
            (
                stage.name,
                stage.init or "base",
                f"{stage.form.value}: {files}{rehearsed}",
                method,
                f"{train.protocol.mode.value}, {view.max_frames} frames of at most {view.max_pixels} pixels",
            )
        )
    return rows
