"""verl's FSDP engine with the vision tower frozen, as in VITAL's stages 2 and 4.

``actor.freeze_vision_tower`` is a setting of verl 0.9.1 that none of its engines reads. This engine is registered for
CUDA devices of the vendor nvidia, which verl prefers to its own general entry; ``model.external_lib`` loads it in every
worker. It needs the strategy ``fsdp2``: with one flat parameter per layer, part of it cannot be frozen.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from vital_eval.errors import CheckpointError


def freeze_vision_tower(module: nn.Module) -> int:
    """Freeze every parameter of the vision tower.

    Returns:
        How many parameter tensors were frozen.

    Raises:
        CheckpointError: if the model has no vision tower: training on would differ from what was asked.
    """
    frozen = [parameter for name, parameter in module.named_parameters() if "visual" in name.split(".")]
    if not frozen:
        raise CheckpointError("the model has no part named 'visual'", "train a Qwen2.5-VL or Qwen3-VL checkpoint")
    for parameter in frozen:
        parameter.requires_grad_(False)
    return len(frozen)


@EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cuda", vendor="nvidia")
class FrozenVisionEngine(FSDPEngineWithLMHead):  # type: ignore[misc]
    """Freezes the vision tower before the model is sharded and its optimiser is made."""

    def _build_module(self) -> Any:
        module = super()._build_module()
        freeze_vision_tower(module)
        return module
