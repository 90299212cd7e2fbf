"""Naming what a frame pair shows: the vision tower learns to speak in the language model's own word embeddings.

A visual token that shows a red circle is pulled towards the embeddings of "red" and "circle". Attention can then match
a word of the question with the frames that show it by plain likeness, which a tiny model otherwise takes long to find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, eq=False)
class FramePairs:
    """Frame pairs of one visual token each, and their words.

    Attributes:
        patches: float32, shape (pairs x height x width, patch values).
        grid: height and width of a pair in patches.
        words: token ids of the words that name each pair.
    """

    patches: NDArray[np.float32]
    grid: tuple[int, int]
    words: tuple[tuple[int, ...], ...]


def backward_words(model: PreTrainedModel, pairs: FramePairs) -> float:
    """Compute the gradient of the mean cross-entropy between each visual token's nearest words and its own words.

    Returns:
        The loss in nats; with k words a pair it cannot fall below the mean of log k.
    """
    grids = torch.tensor([[1, *pairs.grid]] * len(pairs.words))
    features = model.model.get_video_features(torch.from_numpy(pairs.patches), grids).pooler_output
    logits = model.lm_head(torch.cat(list(features)))
    targets = torch.zeros_like(logits)
    for row, words in enumerate(pairs.words):
        targets[row, list(words)] = 1 / len(words)
    loss = torch.nn.functional.cross_entropy(logits, targets)
    torch.autograd.backward(loss)
    return loss.item()
