"""What is saved is whole or not there: processes killed at any moment, and disks that are full."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.nano_policy import nano_engine
from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.errors import CheckpointError, VitalError
from vital_eval.training.checkpoints import save_trained
from vital_eval.training.state import cut_log, restore_state, save_state
from vital_eval.training.step_log import append_step, read_log

#: Kills that have to hit the writing itself, and how many are tried for that.
HITS, TRIES = 3, 40


def killed(work: Callable[[], None], folder: Path, pattern: str, seconds: float) -> None:
    """Do something over and over in a process of its own, and kill that once a file of its writing is there.

    Args:
        work: what is done.
        folder: what it writes to.
        pattern: of files that are there only while it writes.
        seconds: to wait behind that.
    """
    process = os.fork()
    if not process:
        # The threads of torch are not copied with the process, and it would wait for them.
        torch.set_num_threads(1)
        try:
            while True:
                work()
        finally:
            os._exit(1)
    before, deadline = set(folder.glob(pattern)), time.monotonic() + 60
    while set(folder.glob(pattern)) <= before and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL, "it ended by itself"


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let no file grow beyond a size in bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def fill(model: torch.nn.Module, number: int) -> None:
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(number)


def test_states_of_processes_killed_at_any_moment_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    model = torch.nn.Linear(1024, 512)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1024)).sum().backward()
    optimiser.step()
    step = hits = 0

    def work() -> None:
        nonlocal step
        step += 1
        fill(model, step)
        save_state(model, optimiser, step, path)

    for number in range(TRIES):
        # The name of what is being written does not change, and what the last kill left must not be taken for it.
        for left in tmp_path.glob(".*.part"):
            left.unlink()
        killed(work, tmp_path, ".*.part", 0.002 * number)
        hits += len(list(tmp_path.glob(".*.part")))
        step = restore_state(model, optimiser, path)
        assert all(bool((value == step).all()) for value in model.parameters()) or not step
        if hits >= HITS and step:
            break
    assert hits >= HITS
    assert step


def test_checkpoints_of_processes_killed_at_any_moment_are_whole_and_leave_nothing_for_good(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    number = hits = 0
    with nano_engine() as engine, as_file(files("vital_eval.nano") / "checkpoint") as source:
        model = engine.parts.model

        def work() -> None:
            nonlocal number
            number += 1
            fill(model, number)
            save_trained(model, source, target)

        for attempt in range(TRIES):
            killed(work, tmp_path, ".checkpoint.*[!d]", 0.004 * attempt)
            hits += any(path.name != ".checkpoint.old" for path in tmp_path.glob(".checkpoint.*"))
            # For a moment a checkpoint that is replaced has the other name only; once the new one is there, the old
            # one goes, file by file.
            there = [path for path in (target, tmp_path / ".checkpoint.old") if path.exists()][:1]
            for path in there:
                open_checkpoint(path)
                tensors = load_file(path / "model.safetensors").values()
                assert len({float(end) for tensor in tensors for end in tensor.aminmax()}) == 1
            if hits >= HITS and there:
                break
        assert hits >= HITS
        work()
        assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_error_and_the_checkpoint_there_stays(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    with nano_engine() as engine, as_file(files("vital_eval.nano") / "checkpoint") as source:
        save_trained(engine.parts.model, source, target)
        before = {path.name: path.read_bytes() for path in target.iterdir()}
        size = (target / "model.safetensors").stat().st_size
        assert all(path.stat().st_mode & 0o444 == 0o444 for path in target.iterdir())  # others may read it
        with room(size // 2), pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*; free some space"):
            save_trained(engine.parts.model, source, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_log_that_cannot_grow_is_one_error_and_its_steps_stay(tmp_path: Path) -> None:
    log = tmp_path / "s.jsonl"
    append_step(log, {"step": 0, "loss": {"kl": 0.5}})
    append_step(log, {"step": 1, "loss": {"kl": 0.25}})
    size = log.stat().st_size
    with room(size + 10), pytest.raises(VitalError, match=r"cannot write the log .*; free some space"):
        append_step(log, {"step": 2, "loss": {"kl": 0.125}})
    # Half of a line was written; nobody takes it for a step.
    assert log.stat().st_size == size + 10
    assert [entry.values["loss/kl"] for entry in read_log(log)] == [0.5, 0.25]
    with room(size // 2), pytest.raises(VitalError, match=r"cannot write the log .*; free some space"):
        cut_log(log, 2)
    assert len(read_log(log)) == 2
    cut_log(log, 2)
    assert log.stat().st_size == size


def test_weights_that_are_no_numbers_are_not_saved_over_good_ones(tmp_path: Path) -> None:
    with as_file(files("vital_eval.nano") / "checkpoint") as source, nano_engine() as engine:
        model = engine.parts.model
        optimiser = torch.optim.AdamW(model.parameters())
        state = tmp_path / "state.safetensors"
        save_state(model, optimiser, 1, state)
        save_trained(model, source, tmp_path / "checkpoint")
        saved = (state, tmp_path / "checkpoint" / "model.safetensors")
        before = [path.read_bytes() for path in saved]
        with torch.no_grad():
            next(iter(model.parameters()))[0] = float("nan")
        with pytest.raises(VitalError, match="not finite"):
            save_state(model, optimiser, 2, state)
        with pytest.raises(VitalError, match="not finite"):
            save_trained(model, source, tmp_path / "checkpoint")
    assert [path.read_bytes() for path in saved] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "state.safetensors"]
