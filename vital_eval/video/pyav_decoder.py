"""The default decoder: FFmpeg's libraries through PyAV."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from vital_eval.errors import MediaError
from vital_eval.video.decoder import VideoInfo, check_indices
from vital_eval.video.painters import Painters
from vital_eval.video.pyav_file import opened, time_base
from vital_eval.video.pyav_index import read_index
from vital_eval.video.reading_plan import Costs, Stretch, share_out
from vital_eval.video.sound_frames import SoundFrames

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

#: What reading takes besides decoding, in decoded frames; measured in docs/decoding.md.
_COSTS = Costs(restart=8, keep=6)
#: Decoded frames that each reader must have to do, or opening the file for it once more does not pay.
_READER_COST = 100
#: Part of the work that is painting, from which on one decoding thread keeps the painter busy.
_MUCH_PAINTING = 0.3
_Keep = Callable[[int, "VideoFrame"], None]


class PyAVDecoder:
    """Reads what FFmpeg reads, frame exact.

    The index comes from the packets, without decoding, and is compared with the first decoded frames. Where
    packets do not tell (stamps missing or repeated, AVI, whose stamps are in coding order, a head that does
    not agree) the whole file is decoded once and its frames are counted.

    Reading is planned from the index (:mod:`~vital_eval.video.reading_plan`): decoding starts anew at a keyframe
    where that passes over more frames than starting costs, ends with the last frame wanted, and leaves out packets
    that nothing builds on (:mod:`~vital_eval.video.disposable`). Only frames that are wanted are converted to RGB.
    They are painted (:mod:`~vital_eval.video.painters`) while the next ones are decoded. A long plan is split at
    keyframes among ``threads`` readers with a decoding thread each.

    A frame counts as the one wanted only if its own stamp is the one in the index; after a seek that misled, the
    file is read once more from its start, and every frame of it decoded.

    After a frame that FFmpeg reports damaged, nothing is trusted up to the next keyframe. Flipped bits that still
    parse are noticed by no decoder: video streams carry no checksums, only the hashes of ``prepare`` tell.

    Args:
        threads: cores that reading one file may keep busy; several decode workers run side by side.
    """

    name = "pyav"

    def __init__(self, threads: int = 2) -> None:
        self._threads = threads

    def probe(self, path: Path) -> VideoInfo:
        """Read the index of a video file; see :class:`~vital_eval.video.decoder.Decoder`."""
        return read_index(path, self._threads)

    def read(self, path: Path, indices: Sequence[int], info: VideoInfo) -> NDArray[np.uint8]:
        """Decode frames; see :class:`~vital_eval.video.decoder.Decoder`."""
        return self.read_resized(path, indices, info, (info.height, info.width))

    def read_resized(
        self, path: Path, indices: Sequence[int], info: VideoInfo, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Decode frames and resize them; see :class:`~vital_eval.video.decoder.ResizingDecoder`."""
        check_indices(indices, info)
        out = np.empty((len(indices), *size, 3), dtype=np.uint8)
        if not info.ordered_only and self._read_planned(path, indices, info, out):
            return out
        if self._read_through(path, indices, info, out):
            return out
        with opened(path, self._threads) as (container, stream):
            sound = sum(1 for _ in SoundFrames(container, stream))
        raise MediaError(
            "truncated",
            f"{path.name}: a frame between {info.frame_times[indices[0]]:.2f} and {info.frame_times[indices[-1]]:.2f} s"
            f" cannot be decoded, {sound} of {info.frame_count} frames can",
            "fetch the file again",
        )

    def _read_planned(self, path: Path, indices: Sequence[int], info: VideoInfo, out: NDArray[np.uint8]) -> bool:
        """Decode the frames wanted into ``out``, seeking; return whether all of them were found."""
        shares = share_out(indices, info.keyframes, _COSTS, self._threads, _READER_COST)
        codec_threads = self._codec_threads(shares[0], len(indices)) if len(shares) == 1 else 1

        def read(share: tuple[Stretch, ...]) -> bool:
            with opened(path, codec_threads) as (container, stream):
                stamps = _Stamps(info, time_base(stream, path))
                return _read_share(container, stream, share, indices, stamps, painters.paint)

        with Painters(path, info, out, self._threads) as painters:
            if len(shares) == 1:
                return read(shares[0])
            with ThreadPoolExecutor(len(shares), thread_name_prefix="reader") as readers:
                return all(list(readers.map(read, shares)))

    def _codec_threads(self, share: Sequence[Stretch], frames: int) -> int:
        """Return how many threads FFmpeg gets: each one costs a tenth of the work, and painting has its own."""
        painting = _COSTS.keep * frames / sum(stretch.cost for stretch in share)
        return max(1, self._threads - 1) if painting > _MUCH_PAINTING else self._threads

    def _read_through(self, path: Path, indices: Sequence[int], info: VideoInfo, out: NDArray[np.uint8]) -> bool:
        """Decode the whole file from its start up to the last frame wanted; return whether all were found."""
        with Painters(path, info, out, 1) as painters, opened(path, self._threads) as (container, stream):
            stamps = _Stamps(info, time_base(stream, path))
            frames = iter(SoundFrames(container, stream))
            at = -1
            for slot, index in enumerate(indices):
                frame, at = _advance(frames, index, at, None if info.ordered_only else stamps.of(index))
                if frame is None:
                    return False
                painters.paint(slot, frame)
        return True


def _read_share(
    container: InputContainer,
    stream: VideoStream,
    share: Sequence[Stretch],
    indices: Sequence[int],
    stamps: _Stamps,
    keep: _Keep,
) -> bool:
    """Decode the frames of a plan; return whether all of them were found."""
    for number, stretch in enumerate(share):
        sought = bool(number or stretch.start)
        if sought:
            try:
                container.seek(stamps.of(stretch.start), stream=stream, backward=True, any_frame=False)
            except av.error.FFmpegError:
                return False
        slots = range(stretch.first, stretch.last)
        wanted = {stamps.of(indices[slot]) for slot in slots} if stamps.packets_tell else None
        frames = iter(SoundFrames(container, stream, wanted, is_start=stamps.is_keyframe if sought else None))
        if sought and stretch.start <= indices[stretch.first]:
            # A decoder that does not hand out the frame it was to begin with (intra refresh has no whole one) is still
            # recovering, and calls what follows sound.
            begun, _ = _advance(frames, stretch.start, -1, stamps.of(stretch.start))
            if begun is None:
                return False
            frames = chain((begun,), frames)
        for slot in slots:
            frame, _ = _advance(frames, indices[slot], -1, stamps.of(indices[slot]))
            if frame is None:
                return False
            keep(slot, frame)
    return True


class _Stamps:
    """Turns frame indices back into the stream's own integer stamps, exactly."""

    def __init__(self, info: VideoInfo, unit: Fraction) -> None:
        self._info = info
        self._unit = unit
        self.packets_tell = info.packets_tell

    def is_keyframe(self, stamp: int) -> bool:
        """Tell whether a stamp is that of a keyframe, turning few of them into stamps: in some files all frames are."""
        keyframes = self._info.keyframes
        at = bisect_left(keyframes, stamp, key=self.of)
        return at < len(keyframes) and self.of(keyframes[at]) == stamp

    def of(self, index: int) -> int:
        """Return the stamp of a frame. Times are far coarser than a float's error, so rounding restores it."""
        return round((self._info.frame_times[index] + self._info.origin) / float(self._unit))


def _advance(frames: Iterator[VideoFrame], index: int, at: int, stamp: int | None) -> tuple[VideoFrame | None, int]:
    """Decode up to one frame.

    Args:
        frames: sound frames in presentation order, from the one after ``at``.
        index: the frame wanted.
        at: index of the frame decoded last.
        stamp: stamp the frame must carry; ``None`` counts instead.

    Returns:
        The frame, or ``None`` if it is not there, and the index of the frame decoded last.
    """
    for frame in frames:
        at += 1
        if stamp is None:
            if at == index:
                return frame, index
        elif frame.pts is None or frame.pts > stamp:
            return None, at
        elif frame.pts == stamp:
            return frame, index
    return None, at
