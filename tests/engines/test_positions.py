"""M-RoPE positions against the reference rule of transformers 4.57 and vLLM."""

from __future__ import annotations

import numpy as np
import pytest

from vital_eval.engines.positions import VisionBlock, mrope_positions


def _visual(pattern: str) -> np.ndarray:
    return np.array([letter == "v" for letter in pattern])


def test_text_alone_counts_up_on_all_axes() -> None:
    positions = mrope_positions(_visual("ttt"), [])
    assert positions.tolist() == [[0, 1, 2]] * 4


def test_sixty_second_clip_puts_text_after_the_last_temporal_position() -> None:
    # 60 s at 2 seconds a patch and 2 tokens per second: temporal positions 0, 4, ... 116 after 2 tokens of text.
    blocks = [VisionBlock((30, 1, 1), 2.0 * 2)]
    positions = mrope_positions(_visual("tt" + "v" * 30 + "tt"), blocks)
    assert positions[1, 2:32].tolist() == [2 + 4 * i for i in range(30)]
    assert positions[1:, 32].tolist() == [119, 119, 119]
    # Positive control: the rule of transformers 5.5 to 5.23 would continue at start + max(h, w).
    assert positions[1, 32] != 2 + 1


def test_fractional_steps_are_floored_once_not_truncated_first() -> None:
    # transformers 4.57.6 truncates 0.5 s per grid to 0, which would put every frame at one time.
    positions = mrope_positions(_visual("vvvvvv"), [VisionBlock((6, 1, 1), 0.5)])
    assert positions[1].tolist() == [0, 0, 1, 1, 2, 2]


def test_grid_is_ordered_time_height_width() -> None:
    positions = mrope_positions(_visual("t" + "v" * 12), [VisionBlock((2, 2, 3), 1.0)])
    assert positions[1, 1:].tolist() == [1] * 6 + [2] * 6
    assert positions[2, 1:].tolist() == [1, 1, 1, 2, 2, 2] * 2
    assert positions[3, 1:].tolist() == [1, 2, 3] * 4


def test_qwen3_blocks_are_placed_one_by_one() -> None:
    blocks = [VisionBlock((1, 1, 2), 1.0)] * 2
    positions = mrope_positions(_visual("tvvttvv"), blocks)
    assert positions[1].tolist() == [0, 1, 1, 3, 4, 5, 5]
    assert positions[3].tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("pattern", "blocks"), [("tv", 0), ("tt", 1), ("tvt", 2), ("tv", 2)])
def test_visual_tokens_that_do_not_add_up_are_refused(pattern: str, blocks: int) -> None:
    with pytest.raises(ValueError, match="vision blocks"):
        mrope_positions(_visual(pattern), [VisionBlock((1, 1, 1), 1.0)] * blocks)
