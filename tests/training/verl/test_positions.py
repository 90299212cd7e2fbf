"""Positions by the reference rule, as verl asks a processor for them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vital_eval.engines.positions import VisionBlock, mrope_positions
from vital_eval.errors import EngineError
from vital_eval.training.verl_plugin.positions import RopeIndex, rope_index_kwargs, use_reference_positions

IMAGE, VIDEO = 8, 9
INDEX = RopeIndex(IMAGE, VIDEO, merge=2, tokens_per_second=2)
#: Text, a video of 3 x 1 x 2 tokens, text, an image of 2 x 1, text, a video of 2 x 1 x 1.
IDS = [1, *[VIDEO] * 6, 2, 3, *[IMAGE] * 2, 4, *[VIDEO] * 2, 5]
VIDEOS = torch.tensor([[3, 2, 4], [2, 2, 2]])
IMAGES = torch.tensor([[1, 4, 2]])


def expected() -> np.ndarray:
    blocks = [VisionBlock((3, 1, 2), 1.6), VisionBlock((1, 2, 1), 1.0), VisionBlock((2, 1, 1), 7.0)]
    return mrope_positions(np.isin(IDS, (IMAGE, VIDEO)), blocks)[1:]


def test_left_padded_rows_with_videos_and_images() -> None:
    ids = torch.tensor([[0, 0, *IDS]])
    mask = torch.tensor([[0, 0, *[1] * len(IDS)]])
    found, ahead = INDEX(ids, mask, IMAGES, VIDEOS, torch.tensor([0.8, 3.5]))
    assert found.shape == (3, 1, len(IDS) + 2)
    assert found[:, 0, :2].count_nonzero() == 0
    assert np.array_equal(found[:, 0, 2:].numpy(), expected())
    assert int(ahead) == int(expected().max()) + 1 - len(IDS)
    # 0.8 s a patch at two positions a second are 0, 1 and 3; cut to whole seconds they would all be 0.
    assert found[0, 0, [3, 5, 7]].tolist() == [1, 2, 4]


def test_text_alone() -> None:
    found, ahead = INDEX(torch.tensor([[1, 2, 3]]), torch.ones(1, 3))
    assert found[:, 0].tolist() == [[0, 1, 2]] * 3
    assert int(ahead) == 0


def test_missing_seconds_and_misfits_are_errors() -> None:
    ids, mask = torch.tensor([IDS]), torch.ones(1, len(IDS))
    seconds = torch.tensor([0.8, 3.5])
    with pytest.raises(EngineError, match="2 videos come with 0"):
        INDEX(ids, mask, IMAGES, VIDEOS)
    with pytest.raises(EngineError, match="do not fit"):
        INDEX(ids, mask, None, VIDEOS, seconds)
    with pytest.raises(EngineError, match="more grids"):
        INDEX(ids, mask, torch.cat([IMAGES, IMAGES]), VIDEOS, seconds)
    with pytest.raises(EngineError, match="do not fit"):
        INDEX(ids, mask, IMAGES, torch.tensor([[3, 2, 4], [4, 2, 2]]), seconds)


def test_only_the_family_that_needs_it_is_changed() -> None:
    class Qwen3VLProcessor:
        """Its positions are right."""

    class OtherProcessor:
        """Nothing is known of it."""

    class Qwen2_5_VLProcessor:  # noqa: N801 - transformers' name
        """Its positions are not."""

        image_token_id, video_token_id = IMAGE, VIDEO
        config = SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2, tokens_per_second=2))

    sound = Qwen3VLProcessor()
    use_reference_positions(sound)
    assert not vars(sound)
    with pytest.raises(EngineError, match="OtherProcessor"):
        use_reference_positions(OtherProcessor())
    mended = Qwen2_5_VLProcessor()
    use_reference_positions(mended)
    use_reference_positions(mended)
    assert vars(mended) == {"get_rope_index": INDEX, "get_rope_index_kwargs": rope_index_kwargs}
    assert rope_index_kwargs({"second_per_grid_ts": [1.0]}) == {"second_per_grid_ts": [1.0]}
