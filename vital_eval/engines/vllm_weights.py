"""Weights on their way into a running vLLM: checked against the checkpoint, written where its processes read them."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save_file

from vital_eval.engines.checkpoint import Checkpoint
from vital_eval.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_FILE = "model.safetensors"
_MEMORY = Path("/dev/shm")  # noqa: S108 - the name of Linux's memory file system, not a guessable temporary file
#: Files say ``visual.`` or ``model.visual.``, ``model.layers`` or ``model.language_model.layers``, as old as they are.
_PREFIX = re.compile(r"^(?:model\.)?(?:language_model\.)?(?:model\.)?")


def check_weights(weights: Mapping[str, torch.Tensor], checkpoint: Checkpoint) -> None:
    """Check that weights are the checkpoint's, tensor for tensor.

    vLLM fuses tensors as it loads them and would fill a gap with whatever lies in memory.

    Raises:
        CheckpointError: if a tensor is missing, unknown, or of another shape.
    """
    known = _shapes(checkpoint)
    given = {_plain(name): tuple(int(size) for size in value.shape) for name, value in weights.items()}
    tied = _tied(checkpoint.config)
    for name in ("lm_head.weight",) if tied else ():
        known.pop(name, None)
        given.pop(name, None)
    problem = ""
    if missing := sorted(known.keys() - given.keys()):
        problem = f"lack {len(missing)} of the model's tensors, among them {missing[0]}"
    elif unknown := sorted(given.keys() - known.keys()):
        problem = f"hold {len(unknown)} tensors that the model does not have, among them {unknown[0]}"
    elif others := sorted(name for name in known if known[name] != given[name]):
        name = others[0]
        problem = f"hold {name} of shape {given[name]}, the model's has {known[name]}"
    if problem:
        raise CheckpointError(f"the weights {problem}", "load the engine from the checkpoint that is trained")


def write_weights(weights: Mapping[str, torch.Tensor], checkpoint: Checkpoint) -> tempfile.TemporaryDirectory[str]:
    """Write weights to a folder that vLLM can load, in memory where it has room.

    Returns:
        The folder; it goes when it is closed.

    Raises:
        OSError: if the disk is full.
    """
    size = sum(value.numel() * value.element_size() for value in weights.values())
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 1.2 * size
    folder = tempfile.TemporaryDirectory(prefix="vital-eval-weights-", dir=_MEMORY if roomy else None)
    tied = _tied(checkpoint.config)
    tensors = {
        # A copy where the trainer's lies on the CPU already: the file must not hold views of one another.
        name: value.detach().to("cpu").contiguous()
        for name, value in weights.items()
        if not (tied and _plain(name) == "lm_head.weight")
    }
    try:
        save_file(tensors, Path(folder.name) / _FILE, metadata={"format": "pt"})
    except BaseException:
        folder.cleanup()
        raise
    return folder


def _plain(name: str) -> str:
    return _PREFIX.sub("", name)


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for path in sorted(checkpoint.folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                shapes[_plain(name)] = tuple(int(size) for size in file.get_slice(name).get_shape())
    return shapes


def _tied(config: Mapping[str, Any]) -> bool:
    text = config.get("text_config") or {}
    return bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
