"""Decode a batch of conversations with a Qwen2.5-VL or Qwen3-VL model.

Own loop instead of ``generate``: it takes explicit positions, continues several cached conversations in one batch,
stops each row by its own strings and draws each row from its own generator. Tests hold it against single rows and
against full passes without cache.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from vital_eval.engines.encode import Encoded
from vital_eval.engines.prefix_cache import CachedPrefix
from vital_eval.engines.sampling import choose_tokens
from vital_eval.generation import FinishReason
from vital_eval.protocol import Sampling


@dataclass(slots=True, eq=False)
class Row:
    """One conversation of a batch and what has been written for it.

    Attributes:
        encoded: its inputs.
        prefix: keys and values of its first tokens, if cached.
        sampling: decoding settings.
        seed: seed of its generator.
        stop: strings that end the turn.
        room: most tokens that the model's context leaves for the turn.
        keep_prefix: whether its keys and values are wanted when it ends.
        written: sampled ids.
        finish: why it ended, once it has.
        cached: keys and values of everything fed, once it has ended and if wanted.
        taken_at: when its batch took it up, on :func:`time.monotonic`'s clock; the caller's to set.
        first_token_at: when its first token was there, on the same clock.
    """

    encoded: Encoded
    prefix: CachedPrefix | None
    sampling: Sampling
    seed: int
    stop: tuple[str, ...]
    room: int
    keep_prefix: bool
    written: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    cached: CachedPrefix | None = None
    taken_at: float = 0.0
    first_token_at: float | None = None

    def start_again(self) -> None:
        """Forget what was written."""
        self.written.clear()
        self.finish = self.cached = self.first_token_at = None

    @property
    def skip(self) -> int:
        """Number of prompt tokens that need no computing."""
        return len(self.prefix.ids) if self.prefix else 0


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What decoding needs to know of the tokenizer.

    Attributes:
        end_ids: ids that end a turn.
        banned_ids: ids that must never be sampled (pads and marks of images and videos).
        pad_id: id of padding.
        decode: ids to text, control tokens included.
    """

    end_ids: frozenset[int]
    banned_ids: tuple[int, ...]
    pad_id: int
    decode: Callable[[Sequence[int]], str]


class GivenUpError(Exception):
    """The engine is closing; whatever was being written is dropped."""


#: Tokens decoded again after each step to look for a stop string; no stop string may have more.
STOP_TOKENS = 24


@torch.inference_mode()
def decode_batch(
    model: PreTrainedModel, rows: Sequence[Row], vocabulary: Vocabulary, stopping: threading.Event
) -> None:
    """Write one turn for every row; results are left in the rows.

    Args:
        model: in evaluation mode.
        rows: any mix of lengths, clips, cached prefixes and settings.
        vocabulary: see :class:`Vocabulary`.
        stopping: looked at between tokens; once set, the batch is given up.

    Raises:
        GivenUpError: if ``stopping`` was set.
    """
    device = model.device
    generators = [torch.Generator().manual_seed(row.seed) for row in rows]
    cache = DynamicCache(config=model.config.get_text_config())
    cached_mask = _load_prefixes(cache, rows, device)
    fresh = [len(row.encoded.ids) - row.skip for row in rows]
    width = max(fresh)
    ids = np.full((len(rows), width), vocabulary.pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    positions = np.zeros((4, len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, width - fresh[index] :] = row.encoded.ids[row.skip :]
        mask[index, width - fresh[index] :] = 1
        positions[:, index, width - fresh[index] :] = row.encoded.positions[:, row.skip :]
    attention = torch.cat([cached_mask, torch.from_numpy(mask).to(device)], dim=1)
    videos = _new_videos(rows, device, model.dtype)
    logits = model(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=attention,
        position_ids=torch.from_numpy(positions).to(device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **videos,
    ).logits[:, -1]

    following = torch.tensor([int(row.encoded.positions[1:].max()) + 1 for row in rows], device=device)
    counts = torch.tensor([len(row.encoded.ids) for row in rows], device=device)
    seen = torch.zeros(logits.shape, dtype=torch.bool, device=device)
    for index, row in enumerate(rows):
        seen[index, torch.from_numpy(row.encoded.ids).to(device)] = True
    active = list(range(len(rows)))
    while True:
        if stopping.is_set():
            raise GivenUpError
        logits = logits.float()
        logits[:, list(vocabulary.banned_ids)] = -torch.inf
        settings = [rows[index].sampling for index in active]
        chosen = choose_tokens(logits, seen, settings, [generators[index] for index in active])
        # They are here as numbers, so the device has done all that led to them.
        now = time.monotonic()
        for place, index in enumerate(active):
            row = rows[index]
            row.written.append(chosen[place])
            row.first_token_at = row.first_token_at or now
            row.finish = _finish(row, vocabulary)
            if row.finish is not None and row.keep_prefix:
                row.cached = _extract(cache, place, attention[place], row)
        going = [place for place, index in enumerate(active) if rows[index].finish is None]
        if not going:
            return
        if len(going) < len(active):
            keep = torch.tensor(going, device=device)
            cache.batch_select_indices(keep)
            attention, following, counts, seen = attention[keep], following[keep], counts[keep], seen[keep]
            chosen = [chosen[place] for place in going]
            active = [active[place] for place in going]
        ids_now = torch.tensor(chosen, device=device).unsqueeze(-1)
        seen.scatter_(1, ids_now, value=True)
        attention = torch.cat([attention, attention.new_ones(len(active), 1)], dim=1)
        logits = model(
            input_ids=ids_now,
            attention_mask=attention,
            position_ids=torch.stack([counts, following, following, following]).unsqueeze(-1),
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        following, counts = following + 1, counts + 1


def _load_prefixes(cache: DynamicCache, rows: Sequence[Row], device: torch.device) -> torch.Tensor:
    """Fill the cache with the rows' prefixes, padded on the left; return its attention mask."""
    longest = max(row.skip for row in rows)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64, device=device)
    if longest == 0:
        return mask
    example = next(row.prefix for row in rows if row.prefix)
    for index, row in enumerate(rows):
        mask[index, longest - row.skip :] = 1
    for number, (sample_keys, _) in enumerate(example.layers):
        heads, _, size = sample_keys.shape
        keys = sample_keys.new_zeros((len(rows), heads, longest, size))
        values = torch.zeros_like(keys)
        for index, row in enumerate(rows):
            if row.prefix:
                keys[index, :, longest - row.skip :], values[index, :, longest - row.skip :] = row.prefix.layers[number]
        cache.update(keys, values, number)
    return mask


def _new_videos(rows: Sequence[Row], device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return pixels and grids of the clips that are not in a cached prefix."""
    patches: list[NDArray[np.float32]] = []
    grids: list[tuple[int, int, int]] = []
    for row in rows:
        # Cached prefixes end inside a turn of the model, so no clip is ever half cached.
        cached_visual = int(row.encoded.is_visual[: row.skip].sum())
        total_visual = int(row.encoded.is_visual.sum())
        cells = [t * h * w for t, h, w in row.encoded.grids]
        per_token = sum(cells) // total_visual if total_visual else 1
        skipped = cached_visual * per_token
        passed = 0
        for grid, size in zip(row.encoded.grids, cells, strict=True):
            if passed >= skipped:
                grids.append(grid)
            passed += size
        patches.append(row.encoded.patches[skipped:])
    if not grids:
        return {}
    return {
        "pixel_values_videos": torch.from_numpy(np.concatenate(patches)).to(device, dtype),
        "video_grid_thw": torch.tensor(grids, device=device),
    }


def _finish(row: Row, vocabulary: Vocabulary) -> FinishReason | None:
    if row.written[-1] in vocabulary.end_ids:
        return FinishReason.END_OF_TURN
    tail = vocabulary.decode(row.written[-STOP_TOKENS:])
    if any(text in tail for text in row.stop):
        return FinishReason.STOP_STRING
    if len(row.written) >= min(row.sampling.max_new_tokens, row.room):
        return FinishReason.LENGTH
    return None


def _extract(cache: DynamicCache, place: int, attention: torch.Tensor, row: Row) -> CachedPrefix:
    """Copy one row's keys and values out of the batch, padding left behind."""
    kept = attention.bool()
    layers = tuple((layer.keys[place][:, kept].clone(), layer.values[place][:, kept].clone()) for layer in cache.layers)
    # The last sampled token was never fed, so it has no keys yet.
    ids = np.concatenate([row.encoded.ids, np.asarray(row.written[:-1], dtype=np.int64)])
    return CachedPrefix(ids, layers)
