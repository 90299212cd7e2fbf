"""Supervised fine-tuning on conversations: loss on what the model says, pixels always in the forward pass."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from vital_eval.engines.encode import Encoded

from .collate import collate, token_losses
from .state import restore_state, save_state

#: Computes the gradient of one step and returns its mean loss. It must depend on the step and the weights alone, so
#: that a resumed stage sees what an undisturbed one would have.
Backward = Callable[[int], float]
#: Conversations in one forward pass.
GROUP = 8


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a supervised recipe.

    Attributes:
        name: what the stage is called in the log and in its state file.
        steps: optimiser steps.
        rate: peak learning rate.
        warmup: steps of linear warm-up; a cosine to a tenth of the peak follows.
    """

    name: str
    steps: int
    rate: float
    warmup: int = 50


def learning_rate(stage: Stage, step: int) -> float:
    """Return the learning rate at a step of a stage."""
    if step < stage.warmup:
        return stage.rate * (step + 1) / stage.warmup
    share = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return stage.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))


def backward_mean(model: PreTrainedModel, items: Sequence[Encoded], pad_id: int) -> float:
    """Accumulate the gradient of the mean loss over all trained tokens, and return that mean.

    Conversations of like length go through together, so that little is spent on padding; the result is that of one
    batch.
    """
    ordered = sorted(items, key=lambda item: len(item.ids))
    trained = sum(int(item.is_sampled[1:].sum()) for item in items)
    total = 0.0
    for start in range(0, len(ordered), GROUP):
        loss = token_losses(model, collate(ordered[start : start + GROUP], pad_id)).sum() / trained
        torch.autograd.backward(loss)
        total += loss.item()
    return total


def train_stage(
    model: PreTrainedModel,
    stage: Stage,
    backward: Backward,
    state_file: Path,
    report: Callable[[str], None],
    save_every: int = 200,
) -> None:
    """Train one stage; an interrupted stage goes on from its last saved state.

    Args:
        model: trained in place.
        stage: see :class:`Stage`.
        backward: see :data:`Backward`.
        state_file: where weights and optimiser state are kept (safetensors, the step in its metadata).
        report: called with one line now and then.
        save_every: steps between saved states.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.01)
    first = restore_state(model, optimiser, state_file)
    model.train()
    started, recent = time.monotonic(), 0.0
    for step in range(first, stage.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(stage, step)
        optimiser.zero_grad(set_to_none=True)
        loss = backward(step)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        recent = loss if step == first else 0.95 * recent + 0.05 * loss
        if step % 25 == 24 or step + 1 == stage.steps:
            pace = (time.monotonic() - started) / (step + 1 - first)
            report(f"{stage.name} step {step + 1}/{stage.steps} loss {recent:.4f} ({pace:.2f} s a step)")
        if (step + 1) % save_every == 0 or step + 1 == stage.steps:
            save_state(model, optimiser, step + 1, state_file)
