"""``vital-eval demo``: a small world, a small model, a real leaderboard."""

from __future__ import annotations

import argparse
import time
from importlib.resources import as_file, files
from pathlib import Path

from vital_eval.cli.output import say
from vital_eval.errors import CheckpointError

#: Enough for every task to score something, few enough for minutes on two cores.
PER_TASK = 24
SEED = 7
BATCH_SIZE = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="where all goes (default: runs/demo)"
    )
    parser.add_argument(
        "--per-task", type=int, default=PER_TASK, metavar="N", help=f"least number of questions per task ({PER_TASK})"
    )
    parser.add_argument("--seed", type=int, default=SEED, help=f"seed of the world ({SEED})")


def execute(args: argparse.Namespace) -> int:
    """Write the world, run all tasks in all modes, blind among them, build the board."""
    from vital_eval.cli.board import make_board
    from vital_eval.cli.carry_out import carry_out
    from vital_eval.data_root import read_task
    from vital_eval.nano.formats import TASKS
    from vital_eval.nano.once import write_world_once
    from vital_eval.plan import TaskPlan, make_plan
    from vital_eval.presets import preset
    from vital_eval.protocol import Mode
    from vital_eval.registry import Registries
    from vital_eval.runner import Settings

    started = time.monotonic()
    registries = Registries()
    per_task = max(1, args.per_task)
    root = args.out / f"world-{args.seed}-{per_task}"
    world = write_world_once(
        root, args.seed, per_task, lambda: say(f"writing a small world of videos and questions into {root}")
    )
    # The world has these; plugins may have registered more.
    tasks = [read_task(registries.tasks.load(name)(), world) for name in TASKS]
    plan = make_plan(
        tuple(TaskPlan(data, tuple(preset("nano", mode, data.task.name) for mode in Mode)) for data in tasks),
        registries,
    )
    say(f"loading the packaged checkpoint for {plan.episodes} episodes of {len(tasks)} tasks")
    with as_file(files("vital_eval.nano") / "checkpoint") as checkpoint:
        if not (checkpoint / "config.json").is_file():
            raise CheckpointError(f"the packaged checkpoint {checkpoint} is missing", "reinstall vital-eval")
        settings = Settings(concurrency=2 * BATCH_SIZE)
        with settings.make_workers() as workers:
            workers.start()
            engine = registries.engines.load("hf")(checkpoint, "auto", "auto", BATCH_SIZE)
            # Another checkpoint is another run, and must not be refused as one that cannot be resumed.
            run = args.out / f"run-{engine.info.fingerprint[:8]}"
            status = carry_out(plan, engine, run, settings, workers, "vital-nano")
    if status:
        return status
    say()
    make_board((run,), args.out / "board")
    say(f"done in {time.monotonic() - started:.0f} s; open {args.out / 'board'}")
    return 0
