"""Choosing the next tokens of a batch, each row by its own settings and its own generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vital_eval.protocol import Sampling


def choose_tokens(
    logits: torch.Tensor,
    seen: torch.Tensor,
    settings: Sequence[Sampling],
    generators: Sequence[torch.Generator],
) -> list[int]:
    """Choose one token a row; what a row gets never depends on the others.

    Args:
        logits: shape (rows, vocabulary), float32, banned tokens already at minus infinity.
        seen: bool, shape (rows, vocabulary), tokens of prompt and output so far, for the repetition penalty.
        settings: decoding settings of each row; temperature 0 is greedy.
        generators: random generator of each row's turn, on the CPU.
    """
    penalties = torch.tensor([entry.repetition_penalty for entry in settings], device=logits.device).unsqueeze(-1)
    if bool((penalties != 1).any()):
        penalised = torch.where(logits > 0, logits / penalties, logits * penalties)
        logits = torch.where(seen, penalised, logits)
    chosen: list[int] = logits.argmax(-1).tolist()
    drawn = [row for row, entry in enumerate(settings) if entry.temperature > 0]
    # One transfer for all rows; the generators live on the CPU.
    for row, values in zip(drawn, logits[drawn].cpu() if drawn else (), strict=True):
        chosen[row] = _draw(values, settings[row], generators[row])
    return chosen


def _draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, indices = probabilities.sort(descending=True)
        # The token that crosses the mass is kept, so at least one always is.
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = torch.zeros_like(probabilities).scatter(0, indices, ordered.masked_fill(beyond, 0.0))
    return int(torch.multinomial(probabilities, 1, generator=generator))
