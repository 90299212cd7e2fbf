"""Keys and values of unfinished episodes, so that a later turn only computes what is new."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class CachedPrefix:
    """Keys and values of the first tokens of one conversation.

    Attributes:
        ids: the tokens, shape (length,).
        layers: per layer keys and values, each of shape (heads, length, head size).
    """

    ids: NDArray[np.int64]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)


class PrefixCache:
    """Least recently used prefixes within a memory budget; safe to use from several threads.

    Args:
        budget: bytes; 0 turns the cache off.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._entries: OrderedDict[str, CachedPrefix] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, episode: str, prefix: CachedPrefix) -> None:
        """Keep a prefix, dropping the oldest ones beyond the budget; one that is larger by itself is not kept."""
        with self._lock:
            self._entries.pop(episode, None)
            if prefix.nbytes > self._budget:
                return
            self._entries[episode] = prefix
            while self._entries and sum(entry.nbytes for entry in self._entries.values()) > self._budget:
                self._entries.popitem(last=False)

    def take(self, episode: str, ids: NDArray[np.int64]) -> CachedPrefix | None:
        """Return and forget the episode's prefix if ``ids`` really starts with it and goes on after it."""
        with self._lock:
            prefix = self._entries.pop(episode, None)
        if prefix is None or len(prefix.ids) >= len(ids) or not np.array_equal(prefix.ids, ids[: len(prefix.ids)]):
            return None
        return prefix

    def rename(self, episode: str, to: str) -> None:
        """Let what is kept for one episode belong to another one; nothing happens if there is nothing."""
        with self._lock:
            prefix = self._entries.pop(episode, None)
            if prefix is not None:
                self._entries[to] = prefix

    def drop(self, episode: str) -> None:
        """Forget an episode."""
        with self._lock:
            self._entries.pop(episode, None)

    def clear(self) -> None:
        """Forget every episode: the model that computed them is no more."""
        with self._lock:
            self._entries.clear()
