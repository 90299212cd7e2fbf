"""Frames to patches, the layout that Qwen2.5-VL's and Qwen3-VL's vision towers read.

Same numbers as the official video processors (a test compares them), without importing torchvision.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vital_eval.clip import Clip
from vital_eval.engines.checkpoint import PixelSettings


def patch_grid(clip: Clip, settings: PixelSettings) -> tuple[int, int, int]:
    """Return the grid (t, h, w) in patches that a clip is cut into, without touching a pixel.

    Raises:
        ValueError: if the frame size does not fit.
    """
    patch, factor = settings.patch, settings.patch * settings.merge
    count, height, width, _ = clip.frames.shape
    if height % factor or width % factor:
        raise ValueError(f"frames of {width} x {height} pixels are not multiples of {factor}")
    return -(-count // settings.temporal), height // patch, width // patch


def patchify(clip: Clip, settings: PixelSettings) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    """Turn a clip into flat patches.

    Args:
        clip: frames whose height and width are multiples of patch x merge.
        settings: patch sizes and normalisation of the checkpoint.

    Returns:
        Patches, float32 of shape (t x h x w, 3 x temporal x patch x patch), and the grid (t, h, w) in patches.
        An odd tail of frames is padded by repeating the last one.

    Raises:
        ValueError: if the frame size does not fit.
    """
    patch, merge, temporal = settings.patch, settings.merge, settings.temporal
    t, h, w = patch_grid(clip, settings)
    count, frames = clip.count, clip.frames
    if count % temporal:
        frames = np.concatenate([frames, np.repeat(frames[-1:], temporal - count % temporal, axis=0)])
    mean = np.asarray(settings.mean, dtype=np.float32)
    std = np.asarray(settings.std, dtype=np.float32)
    values = (frames.astype(np.float32) / np.float32(255) - mean) / std
    cells = values.reshape(t, temporal, h // merge, merge, patch, w // merge, merge, patch, 3)
    # (t, h/m, w/m, m, m, channel, temporal, patch, patch): tokens that are merged lie next to each other.
    ordered = cells.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return np.ascontiguousarray(ordered).reshape(t * h * w, -1), (t, h, w)


def patch_times(clip: Clip, temporal: int) -> list[float]:
    """Return the mean true time of the frames in each temporal patch, in seconds."""
    times = list(clip.timestamps)
    while len(times) % temporal:
        times.append(times[-1])
    return [sum(times[i : i + temporal]) / temporal for i in range(0, len(times), temporal)]


def seconds_per_patch(clip: Clip, temporal: int) -> float:
    """Return the mean time from one temporal patch to the next, in seconds (``temporal`` / sampled fps).

    A single frame has no rate; it is given the processors' default of one second.
    """
    if clip.count == 1:
        return 1.0
    return temporal * (clip.timestamps[-1] - clip.timestamps[0]) / (clip.count - 1)
