"""A supervised stage on fixed lessons; the test trains it in one process and has torchrun call ``main`` in two."""

from __future__ import annotations

import copy
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tests.training.lessons import cot, player, stage, tool_cot
from tests.training.nano_policy import footage, nano_engine
from vital_eval.engines.background_loop import BackgroundLoop
from vital_eval.engines.hf import HFEngine
from vital_eval.episode import Footage
from vital_eval.errors import MediaError, VitalError
from vital_eval.training.processes import Processes, joined
from vital_eval.training.sft import SftMetrics, train_sft
from vital_eval.training.supervised import Lessons, lessons_of_records

LONG = "<think> red circle 3 to 7, blue square 9 to 12</think><answer>3 to 7</answer>"
#: Five lessons of unlike lengths, and two records that are none: one in each process's share.
RECORDS = (
    cot("a"),
    tool_cot("b"),
    cot("broken-1"),
    cot("c", LONG),
    tool_cot("d", last=LONG),
    cot("wrong", "red"),
    cot("e"),
)
#: Lessons a step: an odd number, and fewer than processes.
CASES = {"odd": 3, "one": 1}
#: Optimiser steps of a stage.
STEPS = 4
#: Seconds that a barrier outlasts and another group does not.
PATIENCE = 1.0


class Silent(Processes):
    """The control: every process trains on its own share alone, with an optimiser that tells nobody."""

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add nothing."""

    def adamw(self, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
        """Keep all moments."""
        return super().adamw(*arguments, **options, sharded=False)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a process ended with."""

    weights: dict[str, np.ndarray]
    metrics: tuple[SftMetrics, ...]
    #: Numbers that its optimiser keeps of the weights' first moments.
    moments: int


def taught(
    engine: HFEngine, background: BackgroundLoop, processes: Processes, kept_bytes: int = 0
) -> tuple[Lessons, list[str]]:
    """Return the lessons and which videos this process opened for them."""
    opened: list[str] = []

    async def open_video(video: str) -> Footage:
        opened.append(video)
        if video.startswith("broken"):
            raise MediaError("unreadable", f"{video} is broken")
        return footage(60 + 20 * len(video), 120)

    playing = player(engine, background, open_video, kept_bytes=kept_bytes)
    return lessons_of_records(RECORDS, playing, engine._encoder, processes=processes), list(opened)


def train(
    engine: HFEngine,
    lessons: Lessons,
    folder: Path,
    batch: int,
    processes: Processes,
    report: Callable[[str], None] = len,
) -> Outcome:
    """Train, or go on; half of the steps are saved on the way."""
    made: list[torch.optim.Optimizer] = []

    class Watched(type(processes)):
        def adamw(self, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
            made.append(super().adamw(*arguments, **options))
            return made[-1]

    model = copy.deepcopy(engine._model)
    watched = Watched(processes.rank, processes.world, processes.waiting)
    plan = stage(steps=STEPS, batch=batch, micro_batch=2)
    metrics = train_sft(
        model, engine._encoder, lessons.kept, plan, folder, 0, report, save_every=STEPS // 2, processes=watched
    )
    (optimiser,) = made
    kept = getattr(optimiser, "optim", optimiser).state.values()
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    return Outcome(weights, metrics, sum(one["exp_avg"].numel() for one in kept))


def spoiled(engine: HFEngine, lessons: Lessons, folder: Path, processes: Processes) -> str:
    """Return what this process is told where the last one's loss is no number."""
    model = copy.deepcopy(engine._model)
    if processes.rank == processes.world - 1:
        model.lm_head.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    try:
        train_sft(
            model, engine._encoder, lessons.kept, stage(batch=4), folder, 0, lambda line: None, processes=processes
        )
    except VitalError as error:
        return str(error)
    return ""


def waited(processes: Processes) -> list[bool]:
    """Tell whether this process came through a long barrier, and through one of a group that is less patient."""
    impatient = Processes(
        processes.rank, processes.world, dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE))
    )
    through = []
    for waiting in (processes, impatient):
        if processes.first:
            time.sleep(2 * PATIENCE)
        try:
            waiting.barrier()
        except RuntimeError:
            through.append(False)
        else:
            through.append(True)
    return through


def interrupted(folder: Path) -> None:
    """Train a stage in the folder; the first time, the first process is killed behind the third step."""

    def report(line: str) -> None:
        if f"step {STEPS - 1}/" in line and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    with joined("cpu") as processes, nano_engine() as engine, BackgroundLoop("test") as background:
        lessons, _ = taught(engine, background, processes)
        outcome = train(engine, lessons, folder, CASES["odd"], processes, report)
        np.savez(folder / f"odd-{processes.rank}.npz", **outcome.weights)


def main(folder: Path) -> None:
    """Write what this process ended with into the folder."""
    with joined("cpu") as processes, nano_engine() as engine, BackgroundLoop("test") as background:
        lessons, opened = taught(engine, background, processes)
        outcomes = {name: train(engine, lessons, folder / name, batch, processes) for name, batch in CASES.items()}
        outcomes["silent"] = train(
            engine,
            lessons,
            folder / f"silent-{processes.rank}",
            CASES["odd"],
            Silent(processes.rank, processes.world, processes.waiting),
        )
        told = {
            "opened": opened,
            "kept": [(lesson.id, lesson.length, lesson.trained_tokens, lesson.nbytes) for lesson in lessons.kept],
            "dropped": lessons.summary(),
            "moments": {name: outcome.moments for name, outcome in outcomes.items()},
            "spoiled": spoiled(engine, lessons, folder / "spoiled", processes),
            "metrics": {
                name: [(one.loss, one.gradient, one.tokens) for one in outcome.metrics]
                for name, outcome in outcomes.items()
            },
        }
        with processes.first_before_others():
            told["found"] = (folder / "written").is_file()
            (folder / "written").touch()
        # Last: after the control that fails, these processes no longer speak to each other.
        told["through"] = waited(processes)
        for name, outcome in outcomes.items():
            np.savez(folder / f"{name}-{processes.rank}.npz", **outcome.weights)
        (folder / f"{processes.rank}.json").write_text(json.dumps(told), encoding="utf-8")
