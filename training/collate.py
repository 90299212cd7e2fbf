"""Encoded conversations to a padded batch, and the loss on what the model is to say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from vital_eval.engines.encode import Encoded


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Conversations padded on the right.

    Attributes:
        ids: int64, shape (batch, length).
        mask: int64, shape (batch, length), 1 on real tokens.
        positions: int64, shape (4, batch, length), the same positions that evaluation passes.
        patches: float32, shape (all patches, patch values).
        grids: int64, shape (clips, 3).
        targets: bool, shape (batch, length), tokens that the model is trained to say.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    patches: torch.Tensor
    grids: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            *(getattr(self, name).to(device) for name in ("ids", "mask", "positions", "patches", "grids", "targets"))
        )


def collate(items: Sequence[Encoded], pad_id: int) -> Batch:
    """Pad conversations on the right and put their clips one after another."""
    length = max(len(item.ids) for item in items)
    ids = np.full((len(items), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(items), length), dtype=np.int64)
    targets = np.zeros((len(items), length), dtype=np.bool_)
    positions = np.zeros((4, len(items), length), dtype=np.int64)
    for row, item in enumerate(items):
        count = len(item.ids)
        ids[row, :count] = item.ids
        mask[row, :count] = 1
        targets[row, :count] = item.is_sampled
        positions[:, row, :count] = item.positions
    patches = np.concatenate([item.patches for item in items])
    grids = np.asarray([grid for item in items for grid in item.grids], dtype=np.int64)
    return Batch(*(torch.from_numpy(array) for array in (ids, mask, positions, patches, grids, targets)))


def drop_pixels(batch: Batch) -> Batch:
    """Return the batch without its pixels: the model then meets pads where the video was.

    VITAL's released supervised stages train this way by mistake; it is here for ablation alone.
    """
    return dataclasses.replace(batch, patches=batch.patches[:0], grids=batch.grids[:0])


def micro_batches(lengths: Sequence[int], most: int, tokens: int) -> tuple[tuple[int, ...], ...]:
    """Share conversations out among forward passes: like lengths together, so that little is spent on padding.

    Args:
        lengths: tokens of each conversation.
        most: most conversations of a pass.
        tokens: most tokens of a pass, padding included. A longer conversation goes through alone.

    Returns:
        Places in ``lengths``, each once, a tuple per pass, the shortest first.
    """
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        # In ascending order the newest is the longest, so it decides the padded size.
        if groups and len(groups[-1]) < most and (len(groups[-1]) + 1) * lengths[place] <= tokens:
            groups[-1].append(place)
        else:
            groups.append([place])
    return tuple(tuple(group) for group in groups)


def hidden_states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the last hidden states, shape (batch, length, width): ids, positions and pixels as in evaluation."""
    hidden: torch.Tensor = model.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        # Without a video there is nothing to look at, and the models refuse empty pixels.
        pixel_values_videos=batch.patches if len(batch.grids) else None,
        video_grid_thw=batch.grids if len(batch.grids) else None,
        use_cache=False,
    ).last_hidden_state
    return hidden


def token_losses(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy of every trained token, shape (trained tokens,), in nats.

    Only trained positions go through the output layer: they are a small part of a video prompt.
    """
    wanted = batch.targets[:, 1:]
    logits = model.lm_head(hidden_states(model, batch)[:, :-1][wanted])
    return torch.nn.functional.cross_entropy(logits.float(), batch.ids[:, 1:][wanted], reduction="none")
