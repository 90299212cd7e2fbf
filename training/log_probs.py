"""Log-probabilities of sampled tokens under a model, with the sampler's own support and temperature."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from .collate import Batch, hidden_states


@dataclass(frozen=True, slots=True)
class Support:
    """What the sampler could draw.

    Attributes:
        temperature: above 0; logits are divided by it.
        banned_ids: tokens that are never sampled (pads and marks of images and videos): their probability is 0.
    """

    temperature: float = 1.0
    banned_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse greedy decoding: it has no probabilities."""
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature} has no log-probabilities")


@dataclass(frozen=True, slots=True, eq=False)
class SampledLogProbs:
    """What the model gives to the tokens it sampled; all of shape (rollouts, length - 1), column t for token t + 1.

    Attributes:
        values: log-probabilities in nats, 0 where nothing was sampled.
        entropy: entropy of the model at that place in nats, 0 where nothing was sampled.
        mask: bool, where a token was sampled.
    """

    values: torch.Tensor
    entropy: torch.Tensor
    mask: torch.Tensor


def sampled_log_probs(
    model: PreTrainedModel, batch: Batch, support: Support, *, train_entropy: bool = False, halved: bool = False
) -> SampledLogProbs:
    """Compute the log-probabilities of a batch's sampled tokens, videos of every turn in the forward pass.

    Only sampled places go through the output layer.

    Args:
        model: differentiated through unless gradients are off.
        batch: its targets are the sampled tokens.
        support: see :class:`Support`.
        train_entropy: let gradients flow through the entropy; it costs another copy of all probabilities.
        halved: compute in bfloat16 (autocast) up to the output layer, which stays in the type of the weights: between
            16 and 32 two neighbouring bfloat16 logits are 0.125 nats apart.
    """
    mask = batch.targets[:, 1:]
    every = _log_softmax(model, batch, support, halved)
    chosen = every.gather(-1, batch.ids[:, 1:][mask].unsqueeze(-1)).squeeze(-1)
    # 0 times minus infinity is not a number; a token without probability adds nothing.
    with torch.set_grad_enabled(train_entropy and torch.is_grad_enabled()):
        entropy = -(every.exp() * every.masked_fill(every.isinf(), 0.0)).sum(-1)
    empty = torch.zeros(mask.shape, dtype=chosen.dtype, device=chosen.device)
    return SampledLogProbs(empty.masked_scatter(mask, chosen), empty.masked_scatter(mask, entropy), mask)


@torch.no_grad()
def greedy_gaps(model: PreTrainedModel, batch: Batch, support: Support, *, halved: bool = False) -> torch.Tensor:
    """Return how far each sampled token lies behind the model's likeliest one, shape (sampled tokens,), in nats.

    0 everywhere if the model itself would have written the same greedily.
    """
    every = _log_softmax(model, batch, support, halved)
    chosen = every.gather(-1, batch.ids[:, 1:][batch.targets[:, 1:]].unsqueeze(-1)).squeeze(-1)
    return every.amax(-1) - chosen


def _log_softmax(model: PreTrainedModel, batch: Batch, support: Support, halved: bool) -> torch.Tensor:
    """Return log-probabilities of all tokens at the sampled places, shape (sampled tokens, vocabulary), float32."""
    with torch.autocast(batch.ids.device.type, dtype=torch.bfloat16, enabled=halved):
        hidden = hidden_states(model, batch)[:, :-1][batch.targets[:, 1:]]
    logits = model.lm_head(hidden.to(model.lm_head.weight.dtype)).float() / support.temperature
    if support.banned_ids:
        banned = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        banned[list(support.banned_ids)] = True
        logits = logits.masked_fill(banned, float("-inf"))
    return torch.log_softmax(logits, dim=-1)
