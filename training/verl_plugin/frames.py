"""Clips as verl carries videos, read exactly as evaluation reads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from vital_eval.clip import Clip
from vital_eval.engines.pixels import seconds_per_patch
from vital_eval.episode import Footage
from vital_eval.protocol import Protocol, View, protocol_from_json
from vital_eval.span import Span
from vital_eval.video.pyav_decoder import PyAVDecoder
from vital_eval.video.source import ClipSource

#: Frames per temporal patch of Qwen2.5-VL and Qwen3-VL.
TEMPORAL_PATCH = 2

#: A video as verl carries it: uint8 frames of shape (frames, 3, height, width), and what processors ask of it.
VerlVideo = tuple[torch.Tensor, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Viewing:
    """What every process of a run needs to show videos: ``data.vital`` of the configuration.

    Attributes:
        protocol: how questions are asked and what is shown; the same record that evaluation uses.
        media_root: folder below which videos are looked for, and nothing outside it.
        spatial_factor: pixels on a side of one visual token (28 for Qwen2.5-VL).
    """

    protocol: Protocol
    media_root: Path
    spatial_factor: int

    @property
    def source(self) -> ClipSource:
        """Return the reader of this folder, one per process."""
        return _source(self.media_root)

    def whole(self, video: str) -> Clip:
        """Read a whole video under the protocol's view.

        Raises:
            MediaError: if it is missing or cannot be read.
        """
        return self.source.read(video, None, self.protocol.view, self.spatial_factor)

    def footage(self, video: str) -> Footage:
        """Open a video for an episode.

        Raises:
            MediaError: if it is missing or cannot be read.
        """
        info = self.source.probe(video)

        async def read(span: Span | None, view: View) -> Clip:
            return await asyncio.to_thread(self.source.read, video, span, view, self.spatial_factor)

        return Footage(info.duration, info.frame_times[-1], read)


def viewing(settings: Mapping[str, Any]) -> Viewing:
    """Read ``data.vital``, or a tool's configuration.

    Args:
        settings: ``protocol`` (path of a JSON file), ``media_root`` and ``spatial_factor``.

    Raises:
        ProtocolError: if the file does not hold a protocol.
        OSError: if it cannot be read.
    """
    protocol = _protocol(Path(settings["protocol"]))
    return Viewing(protocol, Path(settings["media_root"]), int(settings["spatial_factor"]))


def to_verl(clip: Clip) -> VerlVideo:
    """Return a clip in verl's form.

    The metadata says what rate the frames were sampled at and that they are all there is; processors then compute the
    seconds per temporal patch that evaluation uses. Anything else (a rate of the file, ``fps=``) is read wrongly or not
    at all.
    """
    rate = TEMPORAL_PATCH / seconds_per_patch(clip, TEMPORAL_PATCH)
    frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).contiguous()
    metadata = {
        "fps": rate,
        "total_num_frames": clip.count,
        "frames_indices": list(range(clip.count)),
        "height": int(frames.shape[2]),
        "width": int(frames.shape[3]),
        "video_backend": "vital-eval",
    }
    return frames, metadata


@lru_cache(maxsize=8)
def _source(media_root: Path) -> ClipSource:
    return ClipSource(media_root, PyAVDecoder())


@lru_cache(maxsize=8)
def _protocol(path: Path) -> Protocol:
    return protocol_from_json(json.loads(path.read_text(encoding="utf-8")))
