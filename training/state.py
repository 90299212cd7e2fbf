"""The state of an interrupted stage: safetensors, never pickles."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import PreTrainedModel


def save_state(model: PreTrainedModel, optimiser: torch.optim.Optimizer, step: int, path: Path) -> None:
    """Write weights, optimiser state and the number of finished steps, all or nothing."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": tensor for name, tensor in _own_tensors(model).items()}
    for index, moments in optimiser.state_dict()["state"].items():
        for name, value in moments.items():
            tensors[f"optimiser.{index}.{name}"] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata={"step": json.dumps(step)}
    )
    part.replace(path)


def restore_state(model: PreTrainedModel, optimiser: torch.optim.Optimizer, path: Path) -> int:
    """Read a saved state into model and optimiser.

    Returns:
        The number of finished steps; 0 if nothing was saved.
    """
    from safetensors import safe_open

    if not path.is_file():
        return 0
    state = optimiser.state_dict()
    with safe_open(path, framework="pt") as file:
        step = int(json.loads(file.metadata()["step"]))
        own = _own_tensors(model)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(file.get_tensor(f"model.{name}"))
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key in file.keys():  # noqa: SIM118 - not a mapping
            if key.startswith("optimiser."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = file.get_tensor(key)
    optimiser.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
    return step


def _own_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    # Tied weights appear once: safetensors refuses shared memory, and so would a resumed optimiser.
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
