"""Choosing the next tokens of a batch on its device, each row by its own settings and its own random numbers.

A row draws one number from its generator for each token, so what it writes follows from its seed and its logits alone.
The number is turned into a token through whole-number weights: their sums are exact in any order, so neither the shape
of the batch nor the way a device adds up can move a draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vital_eval.protocol import Sampling

#: The likeliest token weighs this much. Up to 2**19 tokens of this weight stay below the largest int64, and what is
#: rounded to no weight has less than this part of the likeliest token's probability.
_FULL_WEIGHT = float(2**44)


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
        generators: random generator of each row's turn, on the CPU; one number is taken for each token that is drawn.

    Raises:
        RuntimeError: if a row that is drawn holds NaN or infinity, or has no token left.
    """
    if any(entry.repetition_penalty != 1 for entry in settings):
        penalties = torch.tensor([entry.repetition_penalty for entry in settings], device=logits.device).unsqueeze(-1)
        penalised = torch.where(logits > 0, logits / penalties, logits * penalties)
        logits = torch.where(seen, penalised, logits)
    chosen = logits.argmax(-1)
    drawn = [row for row, entry in enumerate(settings) if entry.temperature > 0]
    # Apart, because a nucleus is drawn in another order: which way a row goes must not depend on its neighbours.
    for nucleus in (False, True):
        kind = [row for row in drawn if (settings[row].top_p < 1) is nucleus]
        # A GPU takes all rows at once; on a CPU one row after another stays in the caches.
        size = 1 if logits.device.type == "cpu" else max(1, len(kind))
        for start in range(0, len(kind), size):
            part = kind[start : start + size]
            rows = torch.tensor(part, device=logits.device)
            values = logits if len(part) == len(settings) else logits[rows]
            chosen[rows] = _draw(values, [settings[row] for row in part], [generators[row] for row in part], nucleus)
    # The one transfer a token: it waits for the device.
    found: list[int] = chosen.tolist()
    if min(found) < 0:
        raise RuntimeError("the logits of a row hold NaN or infinity, or all of its tokens are banned")
    return found


def _draw(
    logits: torch.Tensor, settings: Sequence[Sampling], generators: Sequence[torch.Generator], nucleus: bool
) -> torch.Tensor:
    """Return one token a row, shape (rows,), int64; -1 where the logits are not finite."""
    device = logits.device
    numbers = torch.tensor(
        [float(torch.rand((), generator=generator, dtype=torch.float64)) for generator in generators],
        dtype=torch.float64,
    ).to(device)
    temperatures = torch.tensor([entry.temperature for entry in settings], device=device).unsqueeze(-1)
    highest = logits.amax(-1, keepdim=True)
    sound = torch.isfinite(highest)
    # What is no number has no whole number either; such a row is told apart at the end.
    weights = ((logits - highest) / temperatures).exp_().mul_(_FULL_WEIGHT).long().masked_fill_(~sound, 1)
    tokens = None
    if nucleus:
        whole = weights.sum(-1, keepdim=True)
        masses = torch.tensor([entry.top_p for entry in settings], dtype=torch.float64, device=device).unsqueeze(-1)
        # Tokens below this weigh less than half of what a nucleus leaves out even if all did: they need no sorting.
        least = (1 - masses) * whole / (2 * weights.shape[-1])
        ids = (weights >= least).any(0).nonzero().squeeze(-1)
        # Equal weights stay in the order of their ids, so that no row's order depends on the batch.
        weights, order = weights[:, ids].sort(dim=-1, descending=True, stable=True)
        tokens = ids[order]
        # The token that crosses the mass is kept, so at least one always is.
        weights = weights.masked_fill(weights.cumsum(-1) - weights >= masses * whole, 0)
    sums = weights.cumsum(-1)
    last = sums[:, -1:]
    # The product may be rounded up to the sum itself, beyond the last token.
    places = torch.minimum((numbers.unsqueeze(-1) * last).long(), last - 1)
    found = torch.searchsorted(sums, places, right=True)
    if tokens is not None:
        found = tokens.gather(-1, found)
    return torch.where(sound, found, -1).squeeze(-1)
