"""The torchcodec decoder, for comparing with results of code bases that read videos with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vital_eval.errors import MediaError, MissingExtraError
from vital_eval.video.decoder import VideoInfo, check_indices
from vital_eval.video.pyav_decoder import PyAVDecoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: torchcodec gives times as 64-bit floats computed from the same integer stamps.
_TIME_TOLERANCE_S = 1e-4


class TorchCodecDecoder:
    """Pixels from torchcodec on the CPU, index from the container as :class:`PyAVDecoder` reads it.

    torchcodec returns the time of every frame it decodes; each is compared with the one asked for.

    Wheels up to 0.13 load beside a CPU build of torch, later ones are linked against CUDA; FFmpeg's shared libraries
    must be found by the loader. Its tests run where it loads.

    Raises:
        MissingExtraError: if torchcodec is not installed or does not load (it needs FFmpeg's shared libraries,
            and a wheel that matches torch).
    """

    name = "torchcodec"

    def __init__(self) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: its libraries do not load
            raise MissingExtraError(
                "the decoder torchcodec is not installed or does not load",
                "pip install 'vital-eval[torchcodec]' and FFmpeg, or use the decoder pyav",
            ) from error
        self._video_decoder = VideoDecoder
        self._index = PyAVDecoder()

    def probe(self, path: Path) -> VideoInfo:
        """Read the index of a video file; see :class:`~vital_eval.video.decoder.Decoder`."""
        return self._index.probe(path)

    def read(self, path: Path, indices: Sequence[int], info: VideoInfo) -> NDArray[np.uint8]:
        """Decode frames; see :class:`~vital_eval.video.decoder.Decoder`."""
        check_indices(indices, info)
        try:
            decoder = self._video_decoder(
                str(path), dimension_order="NHWC", num_ffmpeg_threads=2, device="cpu", seek_mode="exact"
            )
            batch = decoder.get_frames_at(list(indices))
        except (RuntimeError, ValueError, IndexError) as error:
            raise MediaError("truncated", f"{path.name}: torchcodec cannot decode it: {error}") from error
        frames = np.asarray(batch.data.numpy(), dtype=np.uint8)
        expected = np.array([info.frame_times[index] + info.origin for index in indices])
        if np.abs(batch.pts_seconds.numpy() - expected).max() > _TIME_TOLERANCE_S:
            raise MediaError("unreadable", f"{path.name}: torchcodec returned other frames", "use the decoder pyav")
        if frames.shape[1:] != (info.height, info.width, 3):
            raise MediaError(
                "unreadable",
                f"{path.name}: torchcodec's frames are of shape {frames.shape[1:]}",
                "use the decoder pyav",
            )
        return frames
