"""The decord decoder, for comparing with results of code bases that read videos with it."""

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

#: decord keeps times as 32-bit floats, which at two hours are half a millisecond apart.
_TIME_TOLERANCE_S = 0.002


class DecordDecoder:
    """Pixels from decord, index from the container as :class:`PyAVDecoder` reads it.

    The index is shared so that both decoders choose the same frames, and so that play lists and oversized files
    are refused before decord, which has no such limits, opens them. decord must agree with it: as many frames, and
    each one wanted at the same time. decord itself does not say which frame it returned, so that within a file
    whose index agrees its seeking is trusted.

    Raises:
        MissingExtraError: if decord is not installed. It is no longer developed (0.6.0 is of 2021) and has no
            wheels for ARM Linux and newer macOS.
    """

    name = "decord"

    def __init__(self) -> None:
        try:
            import decord
        except ImportError as error:
            raise MissingExtraError(
                "the decoder decord is not installed", "pip install 'vital-eval[decord]' or use the decoder pyav"
            ) from error
        decord.logging.set_level(decord.logging.FATAL)
        self._decord = decord
        self._index = PyAVDecoder()

    def probe(self, path: Path) -> VideoInfo:
        """Read the index of a video file; see :class:`~vital_eval.video.decoder.Decoder`."""
        return self._index.probe(path)

    def read(self, path: Path, indices: Sequence[int], info: VideoInfo) -> NDArray[np.uint8]:
        """Decode frames; see :class:`~vital_eval.video.decoder.Decoder`."""
        check_indices(indices, info)
        wanted = list(indices)
        try:
            reader = self._decord.VideoReader(str(path), ctx=self._decord.cpu(0), num_threads=2)
            count = len(reader)
            if count == info.frame_count:
                starts = np.asarray(reader.get_frame_timestamp([0, *wanted]), dtype=np.float64)[:, 0]
                frames = np.asarray(reader.get_batch(wanted).asnumpy(), dtype=np.uint8)
        except (RuntimeError, IndexError, self._decord.DECORDError) as error:
            raise MediaError("truncated", f"{path.name}: decord cannot decode it: {error}") from error
        if count != info.frame_count:
            raise MediaError(
                "unreadable",
                f"{path.name}: decord counts {count} frames where the file has {info.frame_count}",
                "use the decoder pyav",
            )
        expected = np.array([info.frame_times[index] for index in wanted])
        if np.abs(starts[1:] - starts[0] - expected).max() > _TIME_TOLERANCE_S:
            raise MediaError(
                "unreadable", f"{path.name}: decord's frame times are not the file's", "use the decoder pyav"
            )
        if frames.shape[1:] != (info.height, info.width, 3):
            raise MediaError(
                "unreadable", f"{path.name}: decord's frames are of shape {frames.shape[1:]}", "use the decoder pyav"
            )
        return frames
