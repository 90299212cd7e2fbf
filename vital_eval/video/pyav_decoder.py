"""The default decoder: FFmpeg's libraries through PyAV."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from vital_eval.errors import MediaError
from vital_eval.video.decoder import MAX_FRAMES, MAX_PIXELS, MAX_SECONDS, VideoInfo, check_indices

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

# Only plain files in formats that cannot point at other files: FFmpeg also reads play lists (HLS, concat, DASH),
# and a "video" that is one could read any file of the machine or call the network.
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif",
}
#: Frames decoded while probing, to see that the packets' times are those of the frames.
_HEAD_FRAMES = 8
#: Frames worth decoding for nothing rather than seeking: about what a seek costs in flushed decoder threads.
_SEEK_GAIN = 8
#: A container whose header promises this much more than it holds was cut: seconds, and part of the whole.
_SHORTFALL_SECONDS = 0.5
_SHORTFALL_PART = 0.01
#: Length of the only frame of a file that says nothing about it, seconds.
_UNKNOWN_FRAME_SECONDS = 0.04


@dataclass(frozen=True, slots=True)
class _Index:
    """Presentation stamps of all frames, in units of the stream's time base, increasing."""

    stamps: tuple[int, ...]
    keyframes: tuple[int, ...]
    last_duration: int
    ordered_only: bool


@dataclass(frozen=True, slots=True)
class _Head:
    """What the first decoded frames show."""

    stamps: tuple[int | None, ...]
    height: int
    width: int


class PyAVDecoder:
    """Reads what FFmpeg reads, frame exact.

    The index comes from the packets, without decoding, and is compared with the first decoded frames. Where
    packets do not tell (stamps missing or repeated, AVI, whose stamps are in coding order, a head that does
    not agree) the whole file is decoded once and its frames are counted.

    Reading goes forward and seeks only where that passes over more than a few frames: to the last keyframe
    at or before the frame wanted, if that keyframe lies more than eight frames ahead. So a few frames of a
    long video are sought, and many are read in one go. A frame counts as the one wanted only if its own stamp
    is the one in the index; after a seek that misled, the file is read once more from its start.

    After a frame that FFmpeg reports damaged, nothing is trusted up to the next keyframe. Flipped bits that still
    parse are noticed by no decoder: video streams carry no checksums, only the hashes of ``prepare`` tell.

    Args:
        threads: decoding threads of FFmpeg for one file.
    """

    name = "pyav"

    def __init__(self, threads: int = 2) -> None:
        self._threads = threads

    def probe(self, path: Path) -> VideoInfo:
        """Read the index of a video file; see :class:`~vital_eval.video.decoder.Decoder`."""
        with self._opened(path) as (container, stream):
            _refuse_oversized(container, stream, path)
            time_base = _time_base(stream, path)
            frame_seconds = 1 / Fraction(stream.average_rate) if stream.average_rate else None
            index = _index_packets(container, stream, path)
        with self._opened(path) as (container, stream):
            head = _read_head(container, stream, path)
        if index is None or head.stamps != index.stamps[: len(head.stamps)]:
            with self._opened(path) as (container, stream):
                index = _index_frames(container, stream, path)
        _refuse_too_long(index.stamps, time_base, path)

        first = index.stamps[0]
        times = tuple((stamp - first) * time_base.numerator / time_base.denominator for stamp in index.stamps)
        last_seconds = float(index.last_duration * time_base) or float(frame_seconds or 0) or _UNKNOWN_FRAME_SECONDS
        return VideoInfo(
            duration=times[-1] + last_seconds,
            width=head.width,
            height=head.height,
            frame_times=times,
            origin=float(first * time_base),
            keyframes=index.keyframes,
            ordered_only=index.ordered_only,
        )

    def read(self, path: Path, indices: Sequence[int], info: VideoInfo) -> NDArray[np.uint8]:
        """Decode frames; see :class:`~vital_eval.video.decoder.Decoder`."""
        check_indices(indices, info)
        out = np.empty((len(indices), info.height, info.width, 3), dtype=np.uint8)
        if not info.ordered_only and self._fill(path, indices, info, out, may_seek=True):
            return out
        if self._fill(path, indices, info, out, may_seek=False):
            return out
        with self._opened(path) as (container, stream):
            sound = sum(1 for _ in _SoundFrames(container, stream))
        raise MediaError(
            "truncated",
            f"{path.name}: a frame between {info.frame_times[indices[0]]:.2f} and {info.frame_times[indices[-1]]:.2f} s"
            f" cannot be decoded, {sound} of {info.frame_count} frames can",
            "fetch the file again",
        )

    def _fill(
        self, path: Path, indices: Sequence[int], info: VideoInfo, out: NDArray[np.uint8], *, may_seek: bool
    ) -> bool:
        """Decode the frames wanted into ``out``; return whether all of them were found."""
        with self._opened(path) as (container, stream):
            frames = iter(_SoundFrames(container, stream))
            stamps = _Stamps(info, _time_base(stream, path))
            at = -1
            for slot, index in enumerate(indices):
                key = info.keyframes[max(0, bisect_right(info.keyframes, index) - 1)]
                if may_seek and key <= index and key - at > _SEEK_GAIN:
                    try:
                        container.seek(stamps.of(key), stream=stream, backward=True, any_frame=False)
                    except av.error.FFmpegError:
                        return False
                    frames = iter(_SoundFrames(container, stream))
                    at = key - 1
                frame, at = _advance(frames, index, at, None if info.ordered_only else stamps.of(index))
                if frame is None:
                    return False
                out[slot] = _upright(frame, info)
        return True

    @contextmanager
    def _opened(self, path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open a file and its video stream; errors of FFmpeg become media errors."""
        if not path.is_file():
            kind = "unreadable" if path.exists() else "missing"
            raise MediaError(kind, f"{path} is not a file")
        try:
            with av.open(str(path), options=_OPTIONS, metadata_errors="replace") as container:
                stream = next((s for s in container.streams.video if not _is_cover(s)), None)
                if stream is None:
                    raise MediaError("no-video-stream", f"{path.name} holds no video, only {_kinds(container)}")
                stream.thread_type = "AUTO"
                stream.codec_context.thread_count = self._threads
                yield container, stream
        except av.error.FFmpegError as error:
            raise MediaError("unreadable", f"{path.name}: {error}", "check that the file is a whole video") from error


class _Stamps:
    """Turns frame indices back into the stream's own integer stamps, exactly."""

    def __init__(self, info: VideoInfo, time_base: Fraction) -> None:
        self._info = info
        self._time_base = time_base

    def of(self, index: int) -> int:
        """Return the stamp of a frame. Times are far coarser than a float's error, so rounding restores it."""
        return round((self._info.frame_times[index] + self._info.origin) / float(self._time_base))


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


class _SoundFrames:
    """Frames from where the container stands, in presentation order, without any that may be wrong.

    Damaged frames are left out, and so is everything after them up to the next keyframe, which may build on them.

    Attributes:
        damage_seen: whether anything was left out so far.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container = container
        self._stream = stream
        self.damage_seen = False

    def __iter__(self) -> Iterator[VideoFrame]:
        """Decode on."""
        damaged = False
        for packet in _packets(self._container, self._stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                damaged = self.damage_seen = True
                continue
            for frame in frames:
                if frame.is_corrupt:
                    damaged = self.damage_seen = True
                elif frame.key_frame:
                    damaged = False
                if not damaged:
                    yield frame


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Read packets up to the end of the file or the place where it is broken; the last one is empty."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            return
        if packet is None:
            return
        yield packet


def _index_packets(container: InputContainer, stream: VideoStream, path: Path) -> _Index | None:
    """Build the index without decoding, or return ``None`` where packets do not tell."""
    stamps: dict[int, bool] = {}
    tells = container.format.name != "avi"  # its stamps are in coding order
    whole = 0
    end = 0.0
    last, last_duration = None, 0
    broken = ""
    units = [float(each.time_base or 0) for each in container.streams]
    try:
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * units[packet.stream_index])
            if packet.stream_index != stream.index:
                continue
            if packet.is_corrupt:
                broken = "the file ends within a frame"
                break
            whole += 1
            if packet.is_discard or _is_hidden(packet, stream):
                continue
            if packet.pts is None or packet.pts in stamps:
                tells = False
                continue
            stamps[packet.pts] = packet.is_keyframe
            if last is None or packet.pts > last:
                last, last_duration = packet.pts, packet.duration or 0
            if whole > MAX_FRAMES:
                raise MediaError("too-large", f"{path.name} has more than {MAX_FRAMES:,} frames")
    except av.error.FFmpegError as error:
        broken = str(error)
    broken = broken or _shortfall(container, stream, path, end)
    if broken and whole:
        promised = f" of {stream.frames}" if stream.frames else ""
        raise MediaError(
            "truncated", f"{path.name}: {broken}; {whole}{promised} frames are whole", "fetch the file again"
        )
    if not stamps:
        if whole:
            return None
        raise MediaError("unreadable", f"{path.name} holds no frame")
    if not tells:
        return None
    ordered = sorted(stamps)
    keyframes = tuple(index for index, stamp in enumerate(ordered) if stamps[stamp])
    return _Index(tuple(ordered), keyframes or (0,), last_duration, ordered_only=False)


def _index_frames(container: InputContainer, stream: VideoStream, path: Path) -> _Index:
    """Build the index by decoding everything."""
    frames = _SoundFrames(container, stream)
    found: list[tuple[int, int, bool]] = []
    # AVI stamps one frame period after another in coding order, whatever FFmpeg then calls a presentation time.
    coding_order = container.format.name == "avi"
    for frame in frames:
        coding_order = coding_order or frame.pts is None
        stamp = frame.dts if frame.pts is None else frame.pts
        if stamp is None:
            raise MediaError("unreadable", f"{path.name}: its frames carry no times", "convert it to .mp4")
        found.append((stamp, frame.duration or 0, frame.key_frame))
        if len(found) > MAX_FRAMES:
            raise MediaError("too-large", f"{path.name} has more than {MAX_FRAMES:,} frames")
    if not found:
        raise MediaError("unreadable", f"{path.name}: no frame can be decoded")
    if coding_order:
        if frames.damage_seen:
            raise MediaError("truncated", f"{path.name}: {len(found)} of its frames can be decoded, others are damaged")
        # Frames come out in presentation order and the set of stamps is the container's own, so the n-th frame is
        # shown at the n-th stamp. Seeking by such stamps would find other frames.
        stamps, durations, _ = zip(*sorted(found), strict=True)
        keyframes = tuple(index for index, (_, _, key) in enumerate(found) if key)
        if len(set(stamps)) < len(stamps):
            raise MediaError("unreadable", f"{path.name}: some frames carry the same time", "convert it to .mp4")
        return _Index(stamps, keyframes or (0,), durations[-1], ordered_only=True)
    if any(after[0] < before[0] for before, after in pairwise(found)):
        raise MediaError("unreadable", f"{path.name}: the times of its frames run backwards", "convert it to .mp4")
    shown = [found[0], *(after for before, after in pairwise(found) if after[0] > before[0])]
    stamps, durations, keys = zip(*shown, strict=True)
    keyframes = tuple(index for index, key in enumerate(keys) if key)
    return _Index(stamps, keyframes or (0,), durations[-1], ordered_only=False)


def _read_head(container: InputContainer, stream: VideoStream, path: Path) -> _Head:
    """Decode the first frames."""
    stamps: list[int | None] = []
    size = None
    for frame in _SoundFrames(container, stream):
        size = size or _upright_size(frame)
        stamps.append(frame.pts)
        if len(stamps) == _HEAD_FRAMES:
            break
    if size is None:
        raise MediaError("unreadable", f"{path.name}: no frame can be decoded")
    return _Head(tuple(stamps), *size)


def _is_hidden(packet: av.Packet, stream: VideoStream) -> bool:
    """Tell a VP8 packet that only prepares later frames: bit 4 of its first byte is show_frame (RFC 6386, 9.1)."""
    return stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10


def _shortfall(container: InputContainer, stream: VideoStream, path: Path, end: float) -> str:
    """Say how a file holds less than its header promises, or ``""``."""
    size = path.stat().st_size
    if "mov" in container.format.name:
        beyond = sum(1 for entry in stream.index_entries if entry.pos + entry.size > size)
        return f"{beyond} frames lie beyond its end" if beyond else ""
    if container.duration is None:
        return ""
    promised = container.duration / av.time_base
    missing = promised - end  # a Matroska header counts from the container's zero, not from the first frame
    if missing > _SHORTFALL_SECONDS + _SHORTFALL_PART * promised:
        return f"it promises {promised:.2f} s and ends {missing:.2f} s before"
    return ""


def _refuse_oversized(container: InputContainer, stream: VideoStream, path: Path) -> None:
    """Apply the caps that need no decoding."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise MediaError("too-large", f"{path.name} has frames of {width} x {height} pixels")
    if stream.frames > MAX_FRAMES:
        raise MediaError("too-large", f"{path.name} has more than {MAX_FRAMES:,} frames")
    if container.duration is not None and container.duration / av.time_base > MAX_SECONDS:
        raise MediaError("too-large", f"{path.name} says it is longer than {MAX_SECONDS / 3600:.0f} hours")


def _time_base(stream: VideoStream, path: Path) -> Fraction:
    if not stream.time_base:
        raise MediaError("unreadable", f"{path.name}: its stream has no unit of time")
    return Fraction(stream.time_base)


def _refuse_too_long(stamps: Sequence[int], time_base: Fraction, path: Path) -> None:
    if (stamps[-1] - stamps[0]) * time_base > MAX_SECONDS:
        raise MediaError("too-large", f"{path.name} is longer than {MAX_SECONDS / 3600:.0f} hours")


def _is_cover(stream: VideoStream) -> bool:
    """Tell a still picture (album art) that is stored as if it were a video stream."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _kinds(container: InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _upright_size(frame: VideoFrame) -> tuple[int, int]:
    """Return height and width as shown."""
    sides = (frame.height, frame.width)
    return sides if _quarter_turns(frame.rotation) % 2 == 0 else sides[::-1]


def _quarter_turns(degrees: int) -> int:
    """Return the quarter turns counter-clockwise nearest to an angle, 0 to 3."""
    return round(degrees / 90) % 4


def _upright(frame: VideoFrame, info: VideoInfo) -> NDArray[np.uint8]:
    """Return a frame as RGB, turned as its display matrix says, of the size of the video.

    A stream may change its size on the way; like players, such frames are scaled to the first frame's size.
    """
    turns = _quarter_turns(frame.rotation)
    height, width = (info.height, info.width) if turns % 2 == 0 else (info.width, info.height)
    pixels = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return rotate(np.asarray(pixels, dtype=np.uint8), turns)


def rotate(pixels: NDArray[np.uint8], turns: int) -> NDArray[np.uint8]:
    """Turn one frame.

    Args:
        pixels: shape (height, width, 3).
        turns: quarter turns counter-clockwise.
    """
    return np.rot90(pixels, turns)
