"""Compare our pixels and prompts with the official video processors; run as a script in a process of its own.

The official processors import torchvision, whose stock wheel does not load beside a CPU build of torch: two operator
schemas have to be declared first. That would leak into every other test, hence the extra process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}{_SCHEMA}")

from transformers import AutoTokenizer, Qwen2VLVideoProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor  # noqa: E402
from transformers.image_processing_utils import BatchFeature  # noqa: E402
from transformers.video_utils import VideoMetadata  # noqa: E402

from vital_eval.clip import Clip  # noqa: E402
from vital_eval.engines.checkpoint import open_checkpoint  # noqa: E402
from vital_eval.engines.encode import Encoder  # noqa: E402
from vital_eval.engines.pixels import patchify, seconds_per_patch  # noqa: E402
from vital_eval.span import Span  # noqa: E402


def _clip(factor: int, frames: int, rate: float) -> Clip:
    pixels = np.random.default_rng(frames).integers(0, 256, size=(frames, 2 * factor, 3 * factor, 3), dtype=np.uint8)
    times = tuple(4.0 + index / rate for index in range(frames))
    return Clip(pixels, times, Span(4.0, times[-1] + 1.0))


def _metadata(clip: Clip, rate: float) -> VideoMetadata:
    first = round(clip.timestamps[0] * rate)
    return VideoMetadata(total_num_frames=clip.count, fps=rate, frames_indices=list(range(first, first + clip.count)))


def _processed(processor: object, clip: Clip, rate: float) -> BatchFeature:
    return processor(  # type: ignore[operator]
        videos=[list(clip.frames)],
        video_metadata=[_metadata(clip, rate)],
        do_resize=False,
        do_sample_frames=False,
        return_tensors="pt",
        return_metadata=True,
    )


def main(qwen2: Path, qwen3: Path) -> dict[str, float]:
    """Return the largest differences found."""
    found: dict[str, float] = {}
    for name, folder, processor_class in (
        ("qwen2_5_vl", qwen2, Qwen2VLVideoProcessor),
        ("qwen3_vl", qwen3, Qwen3VLVideoProcessor),
    ):
        settings = open_checkpoint(folder).pixels
        processor = processor_class(
            patch_size=settings.patch,
            merge_size=settings.merge,
            temporal_patch_size=settings.temporal,
            image_mean=settings.mean,
            image_std=settings.std,
        )
        for frames in (4, 5):
            clip = _clip(settings.patch * settings.merge, frames, 2.0)
            official = _processed(processor, clip, 2.0)
            ours, grid = patchify(clip, settings)
            assert official["video_grid_thw"].tolist() == [list(grid)], (official["video_grid_thw"], grid)
            found[f"{name} pixels {frames}"] = float(np.abs(official["pixel_values_videos"].numpy() - ours).max())
            # Positive control: other normalisation must show.
            found[f"{name} control {frames}"] = float(
                np.abs(official["pixel_values_videos"].numpy() - ours * 1.01).max()
            )
    settings = open_checkpoint(qwen2).pixels
    found["seconds per patch"] = abs(seconds_per_patch(_clip(28, 8, 0.5), settings.temporal) - 4.0)

    checkpoint = open_checkpoint(qwen3)
    tokenizer = AutoTokenizer.from_pretrained(qwen3)
    for token, mark in (
        ("image_token", "<|image_pad|>"),
        ("video_token", "<|video_pad|>"),
        ("vision_start_token", "<|vision_start|>"),
        ("vision_end_token", "<|vision_end|>"),
    ):
        setattr(tokenizer, token, mark)
    video_processor = Qwen3VLVideoProcessor(
        patch_size=16, merge_size=2, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    from transformers import Qwen2VLImageProcessorPil

    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessorPil(), tokenizer, video_processor, chat_template=tokenizer.chat_template
    )
    clip = _clip(32, 6, 2.0)
    encoder = Encoder(checkpoint, tokenizer, tokenizer.convert_tokens_to_ids("<|video_pad|>"), tokenizer.eos_token_id)
    text, _ = encoder._expand(clip)
    # A bare pad is the form that gives the trained (4.57) text in every version.
    official = processor(
        text=["a <|video_pad|> b"],
        videos=[list(clip.frames)],
        video_metadata=[_metadata(clip, 2.0)],
        do_resize=False,
        do_sample_frames=False,
    )
    ours = tokenizer(f"a {text} b", add_special_tokens=False)["input_ids"]
    found["qwen3_vl prompt ids"] = float(official["input_ids"][0] != ours)
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))) + "\n")
