"""A checkpoint folder as vLLM is to see it: its own files, and processor settings that leave nothing open.

Frames come resized and chosen (:mod:`vital_eval.video`). Whatever a checkpoint's processor files say about sizes and
sampling would change them again, without a word; and small checkpoints have no such files at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vital_eval.engines.checkpoint import Checkpoint

_PROCESSOR_FILES = {"processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"}
_CLASSES = {
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
}


def write_view(checkpoint: Checkpoint, folder: Path, clip_tokens: int) -> None:
    """Fill a folder with links to a checkpoint's files and with processor settings of our own.

    Args:
        checkpoint: what is to be seen.
        folder: empty; it must live as long as the engine.
        clip_tokens: most visual tokens of one clip; vLLM sets memory aside for it.
    """
    for path in sorted(checkpoint.folder.iterdir()):
        if path.is_file() and path.name not in _PROCESSOR_FILES:
            (folder / path.name).symlink_to(path.resolve())
    for name, settings in processor_settings(checkpoint, clip_tokens).items():
        (folder / name).write_text(json.dumps(settings, indent=2), encoding="utf-8")


def processor_settings(checkpoint: Checkpoint, clip_tokens: int) -> dict[str, dict[str, Any]]:
    """Return the content of the processor files by name."""
    pixels = checkpoint.pixels
    processor, video_processor = _CLASSES[checkpoint.model_type]
    cell = (pixels.patch * pixels.merge) ** 2
    shared = {
        "processor_class": processor,
        "patch_size": pixels.patch,
        "merge_size": pixels.merge,
        "temporal_patch_size": pixels.temporal,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": False,
    }
    # Nothing is resized: the largest size only tells vLLM for how many tokens of one clip it must have room. It counts
    # the pixels of a frame for Qwen2.5-VL (in the image settings) and of a whole video for Qwen3-VL.
    image = {**shared, "image_processor_type": "Qwen2VLImageProcessor", "size": _size(cell, clip_tokens * cell)}
    video = {
        **shared,
        "video_processor_type": video_processor,
        "do_sample_frames": False,
        "cap_pixels_per_frame": False,
        "size": _size(cell, clip_tokens * cell * pixels.temporal),
    }
    return {"preprocessor_config.json": image, "video_preprocessor_config.json": video}


def _size(smallest: int, largest: int) -> dict[str, int]:
    return {"shortest_edge": smallest, "longest_edge": largest}
