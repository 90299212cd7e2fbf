"""Choosing the next token, one conversation at a time, so that a draw never depends on the batch."""

from __future__ import annotations

import torch

from vital_eval.protocol import Sampling


def choose_token(logits: torch.Tensor, seen: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Choose one token.

    Args:
        logits: shape (vocabulary,), float32, banned tokens already at minus infinity.
        seen: ids of prompt and output so far, shape (any,), for the repetition penalty.
        sampling: decoding settings; temperature 0 is greedy.
        generator: this turn's own random generator.
    """
    if sampling.repetition_penalty != 1.0:
        logits = logits.clone()
        known = torch.unique(seen)
        scores = logits[known]
        logits[known] = torch.where(
            scores > 0, scores / sampling.repetition_penalty, scores * sampling.repetition_penalty
        )
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, indices = probabilities.sort(descending=True)
        # The token that crosses the mass is kept, so at least one always is.
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = torch.zeros_like(probabilities).scatter(0, indices, ordered.masked_fill(beyond, 0.0))
    return int(torch.multinomial(probabilities.cpu(), 1, generator=generator))
