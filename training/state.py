"""The state of an interrupted stage: safetensors, never pickles; either the last whole one or the new whole one.

Only what is trained is saved: frozen weights are those that the stage started from, and its command loads them anyway.
No random generator is saved either, because every draw in training follows from (seed, step) or (seed, epoch).
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vital_eval.atomic import sync_folder, write_atomically
from vital_eval.errors import VitalError

from .adapters import require_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_state(
    model: PreTrainedModel, optimiser: torch.optim.Optimizer, step: int, path: Path, recipe: str = ""
) -> None:
    """Write trained weights, optimiser state and the number of finished steps, all or nothing.

    The tensors go to a file beside ``path``, are fsynced and renamed over it.

    Args:
        model: its parameters that need a gradient are written.
        optimiser: over exactly these parameters.
        step: finished steps.
        path: replaced.
        recipe: what :func:`restore_state` must be called with.

    Raises:
        VitalError: if it cannot be written (a full disk, say) or a weight is not finite; the state that was there is
            as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    require_finite(model, f"step {step}")
    tensors = {f"model.{name}": tensor for name, tensor in _trained(model).items()}
    for index, moments in optimiser.state_dict()["state"].items():
        for name, value in moments.items():
            tensors[f"optimiser.{index}.{name}"] = value
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            part,
            metadata={"step": json.dumps(step), "recipe": recipe},
        )
        _sync(part)
        part.replace(path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise VitalError(
            f"cannot save the state of step {step} to {path}: {error}",
            "free some space and start again; training goes on from the last state that was saved",
        ) from error


def restore_state(model: PreTrainedModel, optimiser: torch.optim.Optimizer, path: Path, recipe: str = "") -> int:
    """Read a saved state into model and optimiser; both are untouched if it cannot be used.

    Args:
        model: with the same trained parameters as the saved one.
        optimiser: made as the saved one was.
        path: what :func:`save_state` wrote.
        recipe: identity of what is trained on what; a state with another one is refused.

    Returns:
        The number of finished steps; 0 if nothing was saved.

    Raises:
        VitalError: if the file is damaged, or belongs to another recipe or model.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            saved = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        step = int(json.loads(metadata["step"]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise VitalError(f"cannot read the state {path}: {error}", "remove it to start the stage again") from error
    if metadata.get("recipe", "") != recipe:
        raise VitalError(
            f"the state {path} belongs to another recipe: stage, seed, lessons or first checkpoint differ",
            "use another folder, or remove it to start the stage again",
        )
    own = _trained(model)
    shapes = {name.removeprefix("model."): value.shape for name, value in saved.items() if name.startswith("model.")}
    if shapes != {name: tensor.shape for name, tensor in own.items()}:
        raise VitalError(
            f"the state {path} belongs to another model, or other parts of it are frozen",
            "use another folder, or remove it to start the stage again",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[f"model.{name}"])
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in saved.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": moments, "param_groups": _groups(optimiser)})
    return step


def cut_log(path: Path, steps: int) -> None:
    """Drop from a log of one JSON object a step what a killed process wrote beyond its last saved state.

    Args:
        path: the log; the object's ``step`` counts from 0. Its folder is made.
        steps: steps that count; later ones are taken again. Half-written lines go too.

    Raises:
        VitalError: if it cannot be read or written; the log is then as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            write_atomically(path, "".join(line for line in lines if _step_of(line) in range(steps)))
    except OSError as error:
        raise VitalError(
            f"cannot write the log {path}: {error.strerror}", "free some space, or choose another folder with --out"
        ) from error


def _step_of(line: str) -> int:
    try:
        step = json.loads(line)["step"] if line.endswith("\n") else -1
    except (ValueError, KeyError, TypeError):
        return -1
    return step if isinstance(step, int) else -1


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _groups(optimiser: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return an optimiser's settings, parameters by number; a sharded one has no state of its own to ask for them."""
    groups: list[dict[str, Any]] = []
    count = 0
    for group in optimiser.param_groups:
        groups.append({**group, "params": list(range(count, count + len(group["params"])))})
        count += len(group["params"])
    return groups


def _trained(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    # Tied weights appear once: safetensors refuses shared memory, and so would a resumed optimiser.
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
