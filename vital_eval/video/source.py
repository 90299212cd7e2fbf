"""From the name of a video to the frames a model sees."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from vital_eval.clip import Clip
from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video.clock import draw_clock
from vital_eval.video.decoder import Decoder, ResizingDecoder, VideoInfo
from vital_eval.video.resize import resize_frames, target_size
from vital_eval.video.resolve import resolve_video
from vital_eval.video.sampling import choose_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Indices kept; that of an hour at 30 frames per second takes about 4 MB.
_KEPT_INFOS = 32
#: Bytes of full-size frames held at once, where the decoder does not resize them as they come; more are decoded and
#: resized in parts (1,024 frames of 1080p are 6 GB).
_PART_BYTES = 512 * 1024 * 1024


class ClipSource:
    """Reads clips from the videos of one folder. Safe to use from several threads.

    Args:
        folder: data root; no name leads out of it.
        decoder: how files are read.
    """

    def __init__(self, folder: Path, decoder: Decoder) -> None:
        self._folder = folder
        self._decoder = decoder
        self._infos: OrderedDict[tuple[Path, int, int], VideoInfo] = OrderedDict()
        self._lock = Lock()

    def probe(self, video: str) -> VideoInfo:
        """Return the index of a video.

        Args:
            video: name below the data root, see :func:`~vital_eval.video.resolve.resolve_video`.

        Raises:
            MediaError: if the video is missing, outside the root, or cannot be read.
        """
        return self._probe(resolve_video(self._folder, video))

    def read(self, video: str, span: Span | None, view: View, spatial_factor: int) -> Clip:
        """Read the frames of a span as a model is to see them.

        Args:
            video: name below the data root.
            span: seconds of the original video; ``None`` is the whole video.
            view: how many frames, how large, with or without the clock.
            spatial_factor: pixels on a side of one visual token, see
                :func:`~vital_eval.video.resize.target_size`.

        Returns:
            The clip. Its timestamps are the true times of the decoded frames; its span is the one asked for
            within the video, or the one asked for where the two have nothing in common (the frame is then the
            nearest one).

        Raises:
            MediaError: if the video is missing, outside the root, or a frame cannot be read.
        """
        path = resolve_video(self._folder, video)
        info = self._probe(path)
        indices = choose_frames(info.frame_times, span, view)
        size = target_size(info.height, info.width, view, spatial_factor)
        frames = self._read(path, indices, info, size)
        times = tuple(info.frame_times[index] for index in indices)
        if view.clock:
            frames = draw_clock(frames, times)
        return Clip(frames, times, _clamp(span, info.duration))

    def _read(self, path: Path, indices: Sequence[int], info: VideoInfo, size: tuple[int, int]) -> NDArray[np.uint8]:
        if isinstance(self._decoder, ResizingDecoder):
            return self._decoder.read_resized(path, indices, info, size)
        part = max(1, _PART_BYTES // (info.height * info.width * 3))
        parts = [
            resize_frames(self._decoder.read(path, indices[start : start + part], info), size)
            for start in range(0, len(indices), part)
        ]
        return np.concatenate(parts)

    def _probe(self, path: Path) -> VideoInfo:
        stat = path.stat()
        # A file replaced while a run is under way must not be read by the index of the old one.
        key = (path, stat.st_mtime_ns, stat.st_size)
        with self._lock:
            if key in self._infos:
                self._infos.move_to_end(key)
                return self._infos[key]
        info = self._decoder.probe(path)
        with self._lock:
            self._infos[key] = info
            while len(self._infos) > _KEPT_INFOS:
                self._infos.popitem(last=False)
        return info


def _clamp(span: Span | None, duration: float) -> Span:
    """Return the part of a span that lies in the video."""
    if span is None:
        return Span(0.0, duration)
    start, end = max(0.0, span.start), min(duration, span.end)
    return Span(start, end) if start < end else span
