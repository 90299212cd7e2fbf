"""The index of a video file: the time of every frame, and the checks that the file is whole."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import av

from vital_eval.errors import MediaError
from vital_eval.video.decoder import MAX_FRAMES, MAX_PIXELS, MAX_SECONDS, VideoInfo
from vital_eval.video.picture import upright_size
from vital_eval.video.pyav_file import opened, time_base
from vital_eval.video.sound_frames import SoundFrames, is_hidden

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: Frames decoded while probing, to see that the packets' times are those of the frames.
_HEAD_FRAMES = 8
#: A container whose header promises this much more than it holds was cut: seconds, and part of the whole.
_SHORTFALL_SECONDS = 0.5
_SHORTFALL_PART = 0.01
#: Containers whose frames FFmpeg finds by parsing, some without a time of their own. After a seek it guesses their
#: times, and guesses others than it does from the start.
_PARSED = frozenset({"asf", "mpeg", "mpegts"})
#: Where the file properties of an ASF file are looked for, and their mark.
_ASF_HEAD = 2**16
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
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


def read_index(path: Path, threads: int) -> VideoInfo:
    """Read the index of a video file, without decoding it where its packets tell.

    Args:
        path: the file.
        threads: decoding threads, for files that must be decoded to be indexed.

    Raises:
        MediaError: see :meth:`vital_eval.video.decoder.Decoder.probe`.
    """
    with opened(path, threads) as (container, stream):
        _refuse_oversized(container, stream, path)
        seekable = container.format.name not in _PARSED
        unit = time_base(stream, path)
        frame_seconds = 1 / Fraction(stream.average_rate) if stream.average_rate else None
        index = _index_packets(container, stream, path)
    with opened(path, threads) as (container, stream):
        head = _read_head(container, stream, path)
    packets_tell = index is not None and head.stamps == index.stamps[: len(head.stamps)]
    if index is None or not packets_tell:
        with opened(path, threads) as (container, stream):
            index = _index_frames(container, stream, path)
    _refuse_too_long(index.stamps, unit, path)

    first = index.stamps[0]
    times = tuple((stamp - first) * unit.numerator / unit.denominator for stamp in index.stamps)
    last_seconds = float(index.last_duration * unit) or float(frame_seconds or 0) or _UNKNOWN_FRAME_SECONDS
    return VideoInfo(
        duration=times[-1] + last_seconds,
        width=head.width,
        height=head.height,
        frame_times=times,
        origin=float(first * unit),
        keyframes=index.keyframes if seekable else (0,),
        ordered_only=index.ordered_only,
        packets_tell=packets_tell,
    )


def _index_packets(container: InputContainer, stream: VideoStream, path: Path) -> _Index | None:
    """Build the index without decoding, or return ``None`` where packets do not tell."""
    stamps: dict[int, bool] = {}
    tells = container.format.name != "avi"  # its stamps are in coding order
    whole = 0
    end = 0.0
    last, last_duration = None, 0
    broken = ""
    may_hide = stream.codec_context.name == "vp8"
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
            if packet.is_discard or (may_hide and is_hidden(packet, stream)):
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
    frames = SoundFrames(container, stream)
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
    for frame in SoundFrames(container, stream):
        size = size or upright_size(frame)
        stamps.append(frame.pts)
        if len(stamps) == _HEAD_FRAMES:
            break
    if size is None:
        raise MediaError("unreadable", f"{path.name}: no frame can be decoded")
    return _Head(tuple(stamps), *size)


def _shortfall(container: InputContainer, stream: VideoStream, path: Path, end: float) -> str:
    """Say how a file holds less than its header promises, or ``""``."""
    size = path.stat().st_size
    if "mov" in container.format.name:
        beyond = sum(1 for entry in stream.index_entries if entry.pos + entry.size > size)
        return f"{beyond} frames lie beyond its end" if beyond else ""
    if container.format.name == "asf":
        beyond = _asf_size(path) - size
        return f"{beyond:,} bytes of it are missing" if beyond > 0 else ""
    if container.duration is None:
        return ""
    promised = container.duration / av.time_base
    missing = promised - end  # a Matroska header counts from the container's zero, not from the first frame
    if missing > _SHORTFALL_SECONDS + _SHORTFALL_PART * promised:
        return f"it promises {promised:.2f} s and ends {missing:.2f} s before"
    return ""


def _asf_size(path: Path) -> int:
    """Return the size that the file properties of an ASF file state (ASF specification, 3.2); 0 if none or a broadcast.

    FFmpeg drops the stated length of a file that does not have its stated size.
    """
    with path.open("rb") as file:
        head = file.read(_ASF_HEAD)
    at = head.find(_ASF_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return 0
    size, flags = struct.unpack("<Q", head[at + 40 : at + 48])[0], head[at + 88]
    return 0 if flags & 1 else int(size)


def _refuse_oversized(container: InputContainer, stream: VideoStream, path: Path) -> None:
    """Apply the caps that need no decoding."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise MediaError("too-large", f"{path.name} has frames of {width} x {height} pixels")
    if stream.frames > MAX_FRAMES:
        raise MediaError("too-large", f"{path.name} has more than {MAX_FRAMES:,} frames")
    if container.duration is not None and container.duration / av.time_base > MAX_SECONDS:
        raise MediaError("too-large", f"{path.name} says it is longer than {MAX_SECONDS / 3600:.0f} hours")


def _refuse_too_long(stamps: Sequence[int], unit: Fraction, path: Path) -> None:
    if (stamps[-1] - stamps[0]) * unit > MAX_SECONDS:
        raise MediaError("too-large", f"{path.name} is longer than {MAX_SECONDS / 3600:.0f} hours")
