"""M-RoPE positions by the reference rule, in place of those that verl takes from transformers.

For Qwen2.5-VL, transformers 5.9.0 gets two things wrong: it cuts seconds per temporal patch to whole seconds (0.5
becomes 0, all frames at one time), and lets text after a video continue inside the video's time. verl 0.9.1 besides
does not hand on the seconds. vLLM does neither, so rollout and training would not speak of the same positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vital_eval.engines.positions import VisionBlock, mrope_positions
from vital_eval.errors import EngineError

#: Processors whose positions transformers computes by the reference rule.
_SOUND = ("Qwen3VLProcessor",)


def use_reference_positions(processor: Any) -> None:
    """Make a processor compute positions by the reference rule. Doing it twice changes nothing.

    verl's agent-loop worker asks its processor for ``get_rope_index`` and for ``get_rope_index_kwargs``; both are
    bound to the one object and to no class.

    Args:
        processor: as verl loads it, with the model's ``config``.

    Raises:
        EngineError: if the processor is of another family.
    """
    name = type(processor).__name__
    if name in _SOUND:
        return
    if name != "Qwen2_5_VLProcessor":
        raise EngineError(f"positions for {name} are not known", "train a Qwen2.5-VL or Qwen3-VL checkpoint")
    vision = processor.config.vision_config
    processor.get_rope_index = RopeIndex(
        processor.image_token_id,
        processor.video_token_id,
        vision.spatial_merge_size,
        getattr(vision, "tokens_per_second", 2),
    )
    processor.get_rope_index_kwargs = rope_index_kwargs


def rope_index_kwargs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what verl does not hand to ``get_rope_index`` by itself."""
    return {"second_per_grid_ts": inputs.get("second_per_grid_ts")}


@dataclass(frozen=True, slots=True)
class RopeIndex:
    """Computes positions; called as verl calls ``processor.get_rope_index``.

    Attributes:
        image_id: id of the image pad.
        video_id: id of the video pad.
        merge: patches merged per side into one token.
        tokens_per_second: temporal positions per second.
    """

    image_id: int
    video_id: int
    merge: int
    tokens_per_second: float

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the positions of a batch.

        Args:
            input_ids: shape (batch, length), visual pads expanded.
            attention_mask: shape (batch, length), 1 on real tokens; the others get position 0.
            image_grid_thw: (t, h, w) in patches of every image in order of appearance.
            video_grid_thw: likewise of every video.
            second_per_grid_ts: seconds per temporal patch of every video; needed if there are videos.
            mm_token_type_ids: not needed, the pads tell.

        Returns:
            Temporal, height and width positions, shape (3, batch, length), and what each conversation's next position
            is ahead of its length, shape (batch, 1).

        Raises:
            EngineError: if videos come without their seconds, or grids and pads do not fit.
        """
        del mm_token_type_ids
        images, videos = _rows(image_grid_thw), _rows(video_grid_thw)
        seconds = [] if second_per_grid_ts is None else [float(value) for value in second_per_grid_ts]
        if len(seconds) != len(videos):
            raise EngineError(
                f"{len(videos)} videos come with {len(seconds)} seconds per patch", "pass every video with its metadata"
            )
        still = iter([VisionBlock(self._merged(grid), 1.0) for grid in images])
        moving = iter(
            [
                VisionBlock(self._merged(grid), step * self.tokens_per_second)
                for grid, step in zip(videos, seconds, strict=True)
            ]
        )
        positions = torch.zeros((3, *input_ids.shape), dtype=torch.long)
        ahead = torch.zeros((len(input_ids), 1), dtype=torch.long)
        for row, ids in enumerate(input_ids):
            real = attention_mask[row].bool()
            kept = ids[real].cpu().numpy()
            try:
                blocks = list(self._blocks(kept, still, moving))
                found = mrope_positions(np.isin(kept, (self.image_id, self.video_id)), blocks)[1:]
            except (StopIteration, RuntimeError, ValueError) as error:
                raise EngineError("visual pads and grids do not fit", "no text may hold visual pads") from error
            positions[:, row, real.cpu()] = torch.from_numpy(found)
            ahead[row] = int(found.max(initial=-1)) + 1 - len(kept)
        if next(still, None) is not None or next(moving, None) is not None:
            raise EngineError("there are more grids than visual pads", "pass what the prompt shows and nothing else")
        return positions.to(input_ids.device), ahead.to(input_ids.device)

    def _merged(self, grid: tuple[int, int, int]) -> tuple[int, int, int]:
        return grid[0], grid[1] // self.merge, grid[2] // self.merge

    def _blocks(
        self, ids: np.ndarray[Any, np.dtype[np.int64]], still: Iterator[VisionBlock], moving: Iterator[VisionBlock]
    ) -> Iterator[VisionBlock]:
        """Yield the blocks of one conversation in the order in which their pads stand."""
        place = 0
        while place < len(ids):
            if ids[place] == self.image_id:
                block = next(still)
            elif ids[place] == self.video_id:
                block = next(moving)
            else:
                place += 1
                continue
            yield block
            place += block.tokens


def _rows(grids: torch.Tensor | None) -> list[tuple[int, int, int]]:
    return [] if grids is None else [(int(t), int(h), int(w)) for t, h, w in grids.tolist()]
