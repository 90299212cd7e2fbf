"""What runs inside vLLM's own processes: taking over weights, and telling which ones are there.

Imported by vLLM there, by its full name; nothing else imports it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.platforms import current_platform


class WeightKeeper:
    """Methods that vLLM adds to each of its workers (``worker_extension_cls``)."""

    model_runner: Any

    def take_over_weights(self, folder: str) -> None:
        """Load a folder's safetensors in place."""
        self.model_runner.reload_weights(weights_path=folder)
        if not current_platform.is_cpu():
            return
        # On a CPU a layer keeps a packed copy of its weights. A head that shares the embedding's is not loaded by name,
        # so vLLM leaves its copy as it was, and the model would speak the old words with the new thoughts.
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def weight_digests(self) -> dict[str, str]:
        """Return a hash of every tensor and of what every packed layer makes of a fixed input, by name."""
        model = self.model_runner.get_model()
        found = {name: _digest(value) for name, value in (*model.named_parameters(), *model.named_buffers())}
        for name, module in model.named_modules():
            # The tensor of a packed layer is empty, or not what it computes with.
            if hasattr(module, "cpu_linear"):
                found[f"{name} at work"] = _digest(module.cpu_linear(_probe(module), module.weight, None))
        return found


def _probe(module: Any) -> torch.Tensor:
    """Return inputs that no two weights answer alike, shape (8, input size)."""
    size = getattr(module, "input_size_per_partition", None) or module.embedding_dim
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, int(size), generator=generator).to(module.weight.dtype)


def _digest(value: torch.Tensor) -> str:
    plain = value.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(f"{tuple(value.shape)} {value.dtype}".encode() + plain.numpy().tobytes()).hexdigest()
