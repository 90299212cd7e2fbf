"""``vital-eval train``: the stages of a recipe, from records to a scored checkpoint.

Started by ``torchrun`` or ``accelerate launch``, its processes train together, and the first one alone writes and
speaks (training/accelerate/README.md).
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from vital_eval.cli.option_types import positive, whole
from vital_eval.cli.output import EXIT_INTERRUPTED, EXIT_OWED, complain, say, table
from vital_eval.errors import VitalError

if TYPE_CHECKING:
    from vital_eval.training.pipeline import Circumstances, MakeBase, MakeEngine
    from vital_eval.training.processes import Processes
    from vital_eval.training.recipes import Recipe, StageRecipe

#: Seed of the world that the stages are compared on. Nothing was chosen by its scores: recipes are tuned on others.
_HELD_OUT_SEED = 2611

#: Where they lie below the output folder.
_DATA, _WORLD = "data", "world"

#: Records a file of nano's own training data, and questions a task of its held-out world.
_NANO = {"nano": (150, 80), "nano-ci": (6, 4)}

_MOST_THREADS = 4096

#: H100 hours below which an estimate of them says nothing.
_FEW_HOURS = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--recipe", required=True, metavar="NAME", help="nano, nano-ci, vital-7b or vital-3b")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where all goes; the same command resumes")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="what the first stage starts from")
    parser.add_argument("--data", type=Path, metavar="DIR", help="MTVR folders and videos (docs/training_data.md)")
    parser.add_argument("--stage", metavar="NAME", help="train this stage only")
    parser.add_argument("--ablation", action="store_true", help="train the side branches of the ablation table too")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="benchmarks to score every checkpoint on")
    parser.add_argument("--tasks", default="", metavar="A,B", help="which of them (default for nano: all 11)")
    parser.add_argument("--limit", type=positive, metavar="N", help="samples per benchmark")
    parser.add_argument(
        "--seed", type=whole, default=0, help="of nano's data and base, and of the order in training (default: 0)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of forward passes; trained weights are float32 (default: bfloat16 on a GPU)",
    )
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="conversations sampled together")
    parser.add_argument("--engine", default="hf", metavar="NAME", help="plays DGRPO's rollouts (default: hf)")
    parser.add_argument(
        "--engine-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of that engine's own (again for more)",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads of each process (default: torch's own)"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write event files too, below DIR/tensorboard")
    parser.add_argument("--dry-run", action="store_true", help="print plan, data counts and estimates; train nothing")


def execute(args: argparse.Namespace) -> int:
    """Show the plan, or carry it out."""
    from vital_eval.training.recipes import Base, recipe

    chosen = recipe(args.recipe)
    stages = chosen.chosen(args.stage, args.ablation)
    if args.dry_run:
        _show(chosen, stages, args.data)
        return 0
    if args.out is None:
        raise VitalError("--out is missing", "name the folder for checkpoints and logs")
    if args.threads is not None:
        _set_threads(args.threads)
    if chosen.base is Base.CHECKPOINT:
        for option in ("checkpoint", "data"):
            if getattr(args, option) is None:
                raise VitalError(f"--{option} is missing", f"recipe {chosen.name} brings none of its own")
    return _train(args, chosen, stages)


def _train(args: argparse.Namespace, chosen: Recipe, stages: tuple[StageRecipe, ...]) -> int:
    from vital_eval.engines.hf import require_device
    from vital_eval.folder_lock import locked
    from vital_eval.training.pipeline import write_plan
    from vital_eval.training.processes import joined, local_device

    rollout_engine = _rollout_engine(args, stages)
    require_device(args.device)
    # Each of several processes gets a GPU of its own, if there are any.
    device = local_device() if args.device in ("auto", "cuda") else args.device
    with ExitStack() as held:
        base, make_base = held.enter_context(_base(args, chosen))
        processes = held.enter_context(joined(device))
        if processes.world == 1:
            device = args.device
        with processes.first_before_others():
            where = dataclasses.replace(
                _circumstances(args, chosen, base, device), make_base=make_base, rollout_engine=rollout_engine
            )
            if processes.first:
                # Before anything is written: what lies there may be another training's, or be written right now.
                held.enter_context(locked(args.out))
                write_plan(where, chosen.name)
                if chosen.name in _NANO:
                    _write_nano(args, where, chosen.name)
        return _carry_out(args.out, stages, where, processes)


def _rollout_engine(args: argparse.Namespace, stages: tuple[StageRecipe, ...]) -> MakeEngine | None:
    """Return what loads the engine of the rollouts, ``None`` for the trained model itself."""
    from vital_eval.cli.engine_options import with_options
    from vital_eval.registry import Registry
    from vital_eval.training.dgrpo import DgrpoStage

    if args.engine == "hf" and not args.engine_option:
        return None
    if not any(isinstance(stage.train, DgrpoStage) for stage in stages):
        raise VitalError(f"no stage here has rollouts for engine {args.engine!r} to play", "drop --engine")
    return with_options(Registry("engine").load(args.engine), args.engine, args.engine_option)


def _set_threads(count: int) -> None:
    if count > _MOST_THREADS:
        raise VitalError(f"--threads is {count}", f"give 1 to {_MOST_THREADS}")
    import torch

    torch.set_num_threads(count)


@contextmanager
def _base(args: argparse.Namespace, chosen: Recipe) -> Iterator[tuple[Path, MakeBase | None]]:
    """Give the checkpoint that the first stage starts from, and what makes it if nobody has."""
    from vital_eval.training.recipes import Base

    if args.checkpoint is not None:
        yield args.checkpoint, None
    elif chosen.base is Base.SCRATCH:
        from vital_eval.training.nano_base import train_base
        from vital_eval.training.pipeline import CHECKPOINT

        yield args.out / "base" / CHECKPOINT, train_base
    else:
        with as_file(files("vital_eval.nano") / "checkpoint") as packaged:
            yield packaged, None


def _carry_out(out: Path, stages: tuple[StageRecipe, ...], where: Circumstances, processes: Processes) -> int:
    from vital_eval.training.pipeline import train_stages

    started = time.monotonic()

    def report(line: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - started:6.0f} s] {line}\n")
        sys.stderr.flush()

    try:
        asyncio.run(train_stages(stages, where, report, processes))
    except (KeyboardInterrupt, asyncio.CancelledError):
        if processes.first:
            complain(f"interrupted: finished stages and saved steps are kept in {out}; the same command goes on")
        return EXIT_INTERRUPTED
    owed = 0
    if processes.first:
        if where.benchmarks is not None:
            owed = _say_ablation(stages, out)
        say(f"checkpoint: {out / stages[-1].name / 'checkpoint'}")
    if owed:
        complain(f"{owed} episodes of the scoring are owed; the same command plays them again")
    return EXIT_OWED if owed else 0


def _say_ablation(stages: tuple[StageRecipe, ...], out: Path) -> int:
    """Print what the stages brought; return how many episodes are owed."""
    from vital_eval.leaderboards.tables import interval, p_text, percent, points
    from vital_eval.training.ablation import ablation

    found = ablation(stages, out)
    rows = [
        (
            row.name,
            row.mode.value,
            "incomplete" if row.score is None else percent(row.score.value),
            "-" if row.score is None else interval(row.score.low, row.score.high),
            "-" if row.score is None else f"{row.score.n} in {row.score.clusters}",
            row.against or "-",
            "-" if row.difference is None else points(row.difference),
            "-" if row.difference is None else interval(row.difference.low, row.difference.high),
            p_text(row.p),
        )
        for row in found
    ]
    head = ("checkpoint", "mode", "score", "95 %", "n", "against", "difference", "95 %", "p")
    say(table(head, rows))
    say(
        "\nscore: mean of the headline metrics over the benchmarks, in percent, each benchmark with equal weight\n"
        "n: samples in videos; intervals are clustered by video, those of differences not cut to [-100, 100]"
    )
    for note in dict.fromkeys(note for row in found for note in row.notes):
        say(note)
    return sum(row.owed for row in found)


def _circumstances(args: argparse.Namespace, chosen: Recipe, base: Path, device: str) -> Circumstances:
    from vital_eval.registry import Registries
    from vital_eval.training.pipeline import Circumstances
    from vital_eval.training.scoring import Benchmarks

    data, data_root = args.data, args.data_root
    tasks = tuple(name for name in args.tasks.split(",") if name)
    preset = "vital"
    if chosen.name in _NANO:
        from vital_eval.nano.formats import TASKS

        preset = "nano"
        data = data or args.out / _DATA
        if data_root is None:
            data_root, tasks = args.out / _WORLD, tasks or TASKS
    if data_root is not None and not tasks:
        raise VitalError("--tasks is missing", "name the benchmarks below --data-root to score on")
    for name in tasks:
        Registries().tasks.require(name)
    benchmarks = None if data_root is None else Benchmarks(data_root, tasks, preset, args.limit)
    return Circumstances(
        base,
        data,
        args.out,
        args.seed,
        device,
        args.dtype,
        args.batch_size,
        benchmarks=benchmarks,
        tensorboard=args.tensorboard,
    )


def _write_nano(args: argparse.Namespace, where: Circumstances, name: str) -> None:
    """Write nano's training records and its held-out world, where none are given, once: the plan says which."""
    from vital_eval.nano.once import write_world_once

    records, questions = _NANO[name]
    if args.data is None:
        _write_nano_data(where.data, args.seed, records)
    if args.data_root is None:
        write_world_once(args.out / _WORLD, _HELD_OUT_SEED, questions)


def _write_nano_data(folder: Path, seed: int, records: int) -> None:
    """Write nano's training records once; a marker, written last, says they are whole."""
    from vital_eval.atomic import write_atomically
    from vital_eval.training.nano_mtvr import write_nano_mtvr

    marker = folder / "complete"
    if not marker.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        counts = write_nano_mtvr(folder, seed, records)
        complain(f"wrote {sum(counts.records.values())} training records about {counts.videos} videos into {folder}")
        write_atomically(marker, "")


def _show(chosen: Recipe, stages: tuple[StageRecipe, ...], data: Path | None) -> None:
    from vital_eval.training.estimate import estimate_stage
    from vital_eval.training.recipes import describe, describe_base

    say(f"recipe {chosen.name}: {chosen.purpose}")
    say(f"{chosen.parameters:.3g} parameters; needs {chosen.hardware}")
    say(f"base: {describe_base(chosen.base)}\n")
    say(table(("stage", "starts from", "data", "method", "asked"), describe(stages)))
    rows = []
    for stage in stages:
        records = _documented(stage) if data is None else _count(stage, data)
        counted = "-" if records is None else f"{records}{'' if data else ' (documented)'}"
        if records is None and not stage.train.steps:
            rows.append((stage.name, counted, "-", "-", "-", "-"))
            continue
        need = estimate_stage(stage, records or 0, chosen.parameters)
        rows.append(
            (
                stage.name,
                counted,
                str(need.conversations),
                str(need.tokens),
                f"{need.weights_gib:.2f}",
                "-" if need.gpu_hours < _FEW_HOURS else f"{need.gpu_hours:.2g}",
            )
        )
    head = ("stage", "records", "conversations", "tokens each", "weights GiB", "H100 hours")
    say("\n" + table(head, rows))
    say(
        "\nestimates (training/estimate.py says how): weights, gradients, optimiser and reference over all GPUs "
        "together, activations not included; hours are of arithmetic alone, without decoding, waiting and scoring; "
        "nothing here was measured on a GPU"
    )
    if data is None and chosen.name in _NANO:
        say(f"records: the recipe writes its own, {_NANO[chosen.name][0]} a file; with --data they are counted")
    elif data is None:
        say("records: MTVR's documented counts, - where a file's count is not documented; with --data they are counted")


def _count(stage: StageRecipe, data: Path) -> int:
    """Return how many sound records a stage has; say what is left out."""
    from vital_eval.training.stage_records import read_stage

    found = read_stage(stage, data)
    for note in found.notes:
        complain(f"{stage.name}: {note}")
    return len(found.records)


def _documented(stage: StageRecipe) -> int | None:
    """Return how many records MTVR has for a stage by its documentation; ``None`` if a file's count is not known."""
    from vital_eval.training.mtvr.sources import read_sources

    known = {file.name: file.records for file in read_sources().files if file.form is stage.form}
    counts = [known.get(name) for name in stage.files]
    if not counts or None in counts:
        return None
    return sum(count for count in counts if count is not None)
