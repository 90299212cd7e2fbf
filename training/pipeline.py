"""Trains the stages of a recipe one after another; every stage leaves a checkpoint, a log and a scored run.

A folder per stage below the output folder:

    <stage>/<stage>.safetensors   weights, optimiser and step of an unfinished stage
    <stage>/<stage>.jsonl         metrics, a line a step
    <stage>/curves.png            the same as a picture
    <stage>/checkpoint/           the trained checkpoint, whole or not there
    <stage>/run/                  its run on the benchmarks, as `vital-eval run` writes it
    <stage>/origin.json           what it was trained from: start, records, settings, seed
    base/                         the base's runs, one a mode, and its checkpoint if the recipe makes it

The same call goes on where it was interrupted; a stage with a checkpoint is not trained again, and one that was trained
from something else is refused.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vital_eval.atomic import write_atomically
from vital_eval.engine import Engine
from vital_eval.engines.background_loop import BackgroundLoop
from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.engines.hf import HFEngine, load_engine
from vital_eval.errors import CheckpointError, VitalError
from vital_eval.footage import Videos
from vital_eval.protocol import Mode, Protocol
from vital_eval.registry import Registries
from vital_eval.settings import Settings
from vital_eval.toolbox import Tool

from .ablation import BASE, run_folder
from .checkpoints import save_trained
from .curves import draw_curves
from .dgrpo import DgrpoStage, train_dgrpo
from .event_files import require_tensorboard, write_events
from .interrupts import interruptible
from .lesson_player import LessonPlayer
from .mtvr.records import RlRecord
from .origin import origin_of, require_origin
from .policy import Policy
from .problems import problems_of_records
from .processes import Processes
from .recipes import Rehearsal, StageRecipe
from .rollouts import UNDER_WAY
from .scoring import Benchmarks, score_together
from .sft import SftStage, train_sft
from .stage_records import LEAST_KEPT, StageRecord, StageRecords, read_rehearsal, read_stage
from .supervised import Lesson, lessons_of_records

#: Called with one line now and then.
Report = Callable[[str], None]

#: Trains a base into a folder, as ``<folder>/checkpoint``, by a seed; goes on where it was, and a finished one is kept.
MakeBase = Callable[[Path, int, Report], Path]

#: Loads a checkpoint folder: with which device, type of weights and number of conversations at a time.
MakeEngine = Callable[[Path, str, str, int], Engine]

CHECKPOINT = "checkpoint"
CURVES = "curves.png"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where and how a recipe is trained; nothing here is part of the recipe.

    Attributes:
        base: checkpoint folder that the first stage starts from; ``<out>/base/checkpoint`` if it has to be made.
        data: folder with the four MTVR folders and the videos that their records name.
        out: output folder.
        seed: of nano's data and base, and of the order of records and problems.
        device: as for :func:`vital_eval.engines.hf.load_engine`.
        dtype: of forward passes, and of weights that are only scored: ``auto`` (bfloat16 on a GPU), ``float32`` or
            ``bfloat16``. Trained weights are float32 in any case.
        batch_size: conversations that are sampled together.
        decode_workers: decoding processes.
        benchmarks: what checkpoints are scored on; ``None`` leaves scoring out.
        make_base: makes the base before the first stage that needs it; ``None`` if it is there.
        tensorboard: write event files below ``<out>/tensorboard`` whenever a state is saved.
        rollout_engine: loads the engine that plays the rollouts of reinforced stages with a copy of the weights, which
            it is given after every step; ``None`` has the trained model play them. Not part of the recipe: its draws
            are others, from the same policy.
    """

    base: Path
    data: Path
    out: Path
    seed: int
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    batch_size: int = 16
    decode_workers: int = 2
    benchmarks: Benchmarks | None = None
    make_base: MakeBase | None = None
    tensorboard: bool = False
    rollout_engine: MakeEngine | None = None


@dataclass(frozen=True, slots=True)
class _Training:
    """What every step of a training needs, unchanged from its start to its end."""

    where: Circumstances
    registries: Registries
    report: Report
    together: Processes


async def train_stages(
    stages: Sequence[StageRecipe], where: Circumstances, report: Report, processes: Processes | None = None
) -> tuple[Path, ...]:
    """Train stages in order.

    Args:
        stages: the stage that another one starts from must come before it, or be trained already.
        where: see :class:`Circumstances`; the same in every process but for the device.
        report: called with one line now and then, by the first process only.
        processes: who trains together; this one alone if not given. All of them score, each its shard; the first
            one alone writes everything else.

    Returns:
        The run folders, the base's first, one a mode; empty without benchmarks.

    Raises:
        VitalError: if a stage cannot start or fails; what is finished is kept.
    """
    if where.tensorboard:
        require_tensorboard()
    together = processes or Processes()
    if where.rollout_engine is not None and together.world > 1:
        raise VitalError(
            "an engine of its own for rollouts needs a single process", "drop --engine, or start without a launcher"
        )
    training = _Training(where, Registries(), report if together.first else _say_nothing, together)
    for number, stage in enumerate(stages):
        made = where.make_base is not None and not stage.init
        if not made and stage.init not in {earlier.name for earlier in stages[:number]}:
            _require_start(stage, where)
        # Read again when it is trained; what is wrong with the data must not be said hours later.
        read_stage(stage, where.data)
    if where.make_base is not None and (where.benchmarks is not None or not all(stage.init for stage in stages)):
        if together.first:
            with interruptible():
                where.make_base(where.base.parent, where.seed, training.report)
        together.barrier()
    runs = []
    if where.benchmarks is not None:
        # A run a mode: a stage of another mode may be trained by a later call.
        modes = dict.fromkeys(stage.mode for stage in stages)
        runs += [await _score(where.base, BASE, mode, training) for mode in modes]
    for stage in stages:
        folder = where.out / stage.name
        work = _work(stage, where)
        # The first process says: another might look when the checkpoint is just being written.
        if together.gather([_trained_already(work, folder, where)] if together.first else [])[0]:
            training.report(f"{stage.name} is trained already")
        else:
            await _train(work, folder, training)
        if where.benchmarks is not None:
            runs.append(await _score(folder / CHECKPOINT, stage.name, stage.mode, training))
    return tuple(runs)


def _say_nothing(line: str) -> None:
    del line


def _require_start(stage: StageRecipe, where: Circumstances) -> Path:
    start = where.out / stage.init / CHECKPOINT if stage.init else where.base
    if not (start / "config.json").is_file():
        raise VitalError(
            f"stage {stage.name} starts from {start}, which is no checkpoint",
            f"train {stage.init} first" if stage.init else "give a checkpoint with --checkpoint",
        )
    return start


@dataclass(frozen=True, slots=True)
class _Work:
    """One stage and what it is trained on.

    Attributes:
        stage: the recipe.
        start: checkpoint folder that it starts from.
        records: the stage's own.
        rehearsed: likewise of each of the stage's rehearsals.
    """

    stage: StageRecipe
    start: Path
    records: StageRecords
    rehearsed: tuple[tuple[Rehearsal, StageRecords], ...]


def _work(stage: StageRecipe, where: Circumstances) -> _Work:
    start = _require_start(stage, where)
    records = read_stage(stage, where.data)
    return _Work(
        stage,
        start,
        records,
        tuple((again, read_rehearsal(again, where.data, stage.name)) for again in stage.rehearsed),
    )


def _trained_already(work: _Work, folder: Path, where: Circumstances) -> bool:
    """Tell whether a stage is trained; refuse its folder if it was trained, or begun, from something else."""
    stage = work.stage
    finished = (folder / CHECKPOINT).is_dir()
    parts = [work.records.records, *(found.records for _, found in work.rehearsed)]
    origin = origin_of(stage, open_checkpoint(work.start).fingerprint, parts, where.seed)
    begun = finished or (folder / f"{stage.name}.safetensors").is_file()
    require_origin(stage, origin, folder, begun=begun, finished=finished)
    if finished:
        try:
            open_checkpoint(folder / CHECKPOINT)
        except CheckpointError as error:
            raise CheckpointError(error.problem, f"remove {folder} to train stage {stage.name} again") from error
    return finished


async def _train(work: _Work, folder: Path, training: _Training) -> None:
    where, together, stage = training.where, training.together, work.stage
    notes = [*work.records.notes, *(note for _, found in work.rehearsed for note in found.notes)]
    for note in dict.fromkeys(notes):  # a file may be read for several of them
        training.report(f"{stage.name}: {note}")
    folder.mkdir(parents=True, exist_ok=True)
    # Small steps vanish in bfloat16 weights, so what is trained is kept in float32.
    engine = load_engine(work.start, where.device, "float32", where.batch_size)
    train = stage.train if where.dtype == "auto" else dataclasses.replace(stage.train, dtype=where.dtype)
    try:
        if isinstance(train, DgrpoStage):
            async with _speaker(engine, work.start, where) as speaker:
                await _reinforce(train, work.records.records, engine, speaker, folder, training)
        else:
            _teach(train, work, engine, folder, training)
        if together.first:
            draw_curves({stage.name: folder / f"{stage.name}.jsonl"}, folder / CURVES)
            save_trained(engine.parts.model, work.start, folder / CHECKPOINT)
            (folder / f"{stage.name}.safetensors").unlink(missing_ok=True)
        together.barrier()
    finally:
        await engine.close()


def _videos(protocol: Protocol, engine: HFEngine, where: Circumstances) -> Videos:
    return Videos(
        where.data,
        protocol.decoder,
        where.decode_workers,
        Settings().decode_seconds,
        engine.info.geometry.spatial_factor,
    )


@asynccontextmanager
async def _speaker(engine: HFEngine, start: Path, where: Circumstances) -> AsyncIterator[Engine]:
    """Give the engine that plays the rollouts."""
    if where.rollout_engine is None:
        yield engine
        return
    speaker = where.rollout_engine(start, where.device, where.dtype, where.batch_size)
    try:
        yield speaker
    finally:
        await speaker.close()


async def _reinforce(
    stage: DgrpoStage,
    records: Sequence[StageRecord],
    engine: HFEngine,
    speaker: Engine,
    folder: Path,
    training: _Training,
) -> None:
    parts, where = engine.parts, training.where
    reference = copy.deepcopy(parts.model).eval().requires_grad_(False) if stage.loss.kl else None
    vocabulary = parts.vocabulary
    policy = Policy(parts.model, reference, parts.encoder, speaker, vocabulary.pad_id, vocabulary.banned_ids)
    problems = problems_of_records([record for record in records if isinstance(record, RlRecord)])
    training.report(f"{stage.name}: {len(problems)} problems, {stage.length(len(problems))} steps")
    async with _videos(stage.protocol, engine, where) as videos:
        await train_dgrpo(
            policy,
            stage,
            problems,
            _tools(stage.protocol, training.registries),
            videos.open,
            folder,
            where.seed,
            training.report,
            processes=training.together,
            saved=_events(stage.name, where),
            # While some episodes decode or run a tool, the others must fill the engine's batch.
            under_way=UNDER_WAY if speaker is engine else max(UNDER_WAY, 2 * where.batch_size),
        )


def _teach(
    stage: SftStage,
    work: _Work,
    engine: HFEngine,
    folder: Path,
    training: _Training,
) -> None:
    parts, together = engine.parts, training.together

    def speak(text: str) -> tuple[int, ...]:
        ids = parts.tokenizer(text, add_special_tokens=False)["input_ids"]
        return (*ids, int(parts.tokenizer.eos_token_id))

    limit = int(parts.model.config.get_text_config().max_position_embeddings)
    courses = [(stage.protocol, work.records.records)]
    courses += [(again.protocol, found.records) for again, found in work.rehearsed]
    # In a loop of its own, because videos are decoded while this thread trains.
    with BackgroundLoop("training-videos") as background, interruptible():
        videos = _videos(stage.protocol, engine, training.where)
        try:
            kept: list[Lesson] = []
            for protocol, read in courses:
                tools = _tools(protocol, training.registries)
                player = LessonPlayer(protocol, tools, engine.info, speak, videos.open, background)
                told = [record for record in read if not isinstance(record, RlRecord)]
                lessons = lessons_of_records(told, player, parts.encoder, limit, together).require_share(LEAST_KEPT)
                training.report(f"{stage.name}, {protocol.mode}: {lessons.summary()}")
                kept += lessons.kept
            train_sft(
                parts.model,
                parts.encoder,
                kept,
                stage,
                folder,
                training.where.seed,
                training.report,
                processes=together,
                saved=_events(stage.name, training.where),
            )
        finally:
            background.run(videos.close())


def _events(stage: str, where: Circumstances) -> Callable[[Path], None] | None:
    """Return what brings a stage's event file up to its log, if that is wanted."""
    if not where.tensorboard:
        return None

    def write(log: Path) -> None:
        write_events(log, where.out / "tensorboard" / stage)

    return write


async def _score(checkpoint: Path, label: str, mode: Mode, training: _Training) -> Path:
    where, folder = training.where, run_folder(training.where.out, label, mode)
    if where.benchmarks is None:
        raise ValueError("nothing to score on")

    def load() -> Engine:
        return load_engine(checkpoint, where.device, where.dtype, where.batch_size)

    summary = await score_together(where.benchmarks, mode, training.registries, load, folder, label, training.together)
    found = [
        f"{cell.task} {cell.mode.value} {100 * cell.headline.value:.1f}"
        for cell in (summary.cells if summary else ())
        if cell.headline.value is not None
    ]
    owed = sum(cell.missing for cell in summary.cells) if summary else 0
    training.report(f"{label}: {', '.join(found)}{f'; {owed} episodes are owed' if owed else ''}")
    return folder


def _tools(protocol: Protocol, registries: Registries) -> dict[str, Tool]:
    return {name: registries.tools.load(name)() for name in protocol.tools}


def write_plan(where: Circumstances, recipe: str) -> None:
    """Write what is going to be trained into the output folder; refuse to go on with something else.

    Of several processes, the first one alone must call it.

    Raises:
        VitalError: if the folder belongs to another recipe, seed, base or data, or the base is no checkpoint.
    """
    out, data = where.out.resolve(), where.data.resolve()
    plan = {
        "recipe": recipe,
        "seed": where.seed,
        # A base that is made here follows from the recipe and the seed.
        "base": "made here" if where.make_base is not None else open_checkpoint(where.base).fingerprint,
        # Data that a recipe wrote for itself move with the folder.
        "data": str(data.relative_to(out) if data.is_relative_to(out) else data),
    }
    path = where.out / "training.json"
    if path.is_file():
        try:
            known = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise VitalError(f"cannot read {path}: {error}", "remove the folder, or choose another one") from error
        fields = [name for name, value in plan.items() if known.get(name) != value]
        if fields:
            raise VitalError(
                f"{where.out} holds a training that differs in {', '.join(fields)}", "choose another folder with --out"
            )
    where.out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(plan, indent=1) + "\n")
