"""M-RoPE positions by the reference rule (transformers 4.57, vLLM 0.32).

transformers 5.5 to 5.23 let text after a Qwen2.5-VL video continue at ``start + max(h, w) / merge``, which overlaps
the video's temporal positions; greedy tokens then differ from every server. We compute the positions and pass them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class VisionBlock:
    """A contiguous run of visual tokens.

    Attributes:
        grid: (temporal, height, width) in merged tokens.
        temporal_step: temporal positions per temporal patch (seconds per patch x tokens per second for
            Qwen2.5-VL; anything for a grid with one temporal patch).
    """

    grid: tuple[int, int, int]
    temporal_step: float

    @property
    def tokens(self) -> int:
        """Number of visual tokens."""
        t, h, w = self.grid
        return t * h * w


def mrope_positions(is_visual: NDArray[np.bool_], blocks: Sequence[VisionBlock]) -> NDArray[np.int64]:
    """Compute positions for one conversation.

    Args:
        is_visual: shape (length,), whether each token is a visual one.
        blocks: the vision blocks in order; runs of visual tokens are cut into them.

    Returns:
        Shape (4, length): row 0 counts tokens (what text attention masks use), rows 1 to 3 are the temporal,
        height and width positions.

    Raises:
        ValueError: if the visual tokens do not add up to the blocks.
    """
    length = len(is_visual)
    positions = np.empty((4, length), dtype=np.int64)
    positions[0] = np.arange(length)
    cursor = following = 0
    remaining = iter(blocks)
    while cursor < length:
        if not is_visual[cursor]:
            rest = np.flatnonzero(is_visual[cursor:])
            run = int(rest[0]) if len(rest) else length - cursor
            positions[1:, cursor : cursor + run] = following + np.arange(run)
            cursor, following = cursor + run, following + run
            continue
        block = next(remaining, None)
        if block is None or not is_visual[cursor : cursor + block.tokens].all() or cursor + block.tokens > length:
            raise ValueError("visual tokens do not match the vision blocks")
        t, h, w = block.grid
        temporal = np.floor(np.arange(t) * block.temporal_step).astype(np.int64)
        grid = np.stack(np.meshgrid(temporal, np.arange(h), np.arange(w), indexing="ij")).reshape(3, -1)
        positions[1:, cursor : cursor + block.tokens] = following + grid
        cursor, following = cursor + block.tokens, following + int(grid.max()) + 1
    if next(remaining, None) is not None:
        raise ValueError("more vision blocks than visual tokens")
    return positions
