"""Clips as data URLs and back: the only form in which frames travel to a server and from a client.

``mp4-rgb`` is bit-exact: H.264 in RGB without loss. The container's rate is the clip's sampling rate, which is all that
other servers read of time; the true time of each frame travels beside it as a tag, which they ignore. A list of
pictures carries no time at all.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from vital_eval.clip import Clip
from vital_eval.span import Span

_MP4 = "data:video/mp4;base64,"
_PICTURES = "data:video/jpeg;base64,"
#: Where MP4 keeps free text; players and other servers leave it alone.
_TAG = "comment"
#: Ticks and their rate are 32-bit numbers in MP4 and H.264.
_LARGEST = 2**30
_FINEST = 10**8
#: Seconds that a single frame lasts.
_SINGLE = 0.04
#: More than any protocol shows, little enough to hold.
_MOST_FRAMES = 16_384
_MOST_PIXELS = 1 << 31


def mp4_url(clip: Clip, multiple: int = 1) -> str:
    """Write a clip as a ``data:video/mp4`` URL with every pixel as it is; see :func:`write_mp4`."""
    return _MP4 + base64.b64encode(write_mp4(clip, multiple=multiple)).decode("ascii")


def pictures_url(clip: Clip) -> str:
    """Write a clip as a ``data:video/jpeg`` URL: its frames as PNG, which readers tell by its first bytes."""
    return _PICTURES + ",".join(picture_texts(clip))


def picture_texts(clip: Clip) -> list[str]:
    """Return every frame as PNG in base64."""
    texts = []
    for frame in clip.frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, format="PNG", compress_level=1)
        texts.append(base64.b64encode(buffer.getvalue()).decode("ascii"))
    return texts


def write_mp4(clip: Clip, gap: float | None = None, multiple: int = 1) -> bytes:
    """Write a clip as MP4: ``libx264rgb`` at quantiser 0.

    Args:
        clip: what to write.
        gap: seconds from frame to frame in the container; ``None`` takes the mean of the clip's own.
        multiple: the last frame is repeated until their number is a multiple of it; the tag names the clip's own only.
    """
    tick = frame_gap(clip, gap)
    _, height, width, _ = clip.frames.shape
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        container.metadata[_TAG] = json.dumps({"seconds": clip.timestamps})
        stream = container.add_stream("libx264rgb", rate=1 / tick, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        stream.codec_context.time_base = tick
        for index in range(clip.count + -clip.count % multiple):
            pixels = clip.frames[min(index, clip.count - 1)]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = index, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def frame_gap(clip: Clip, gap: float | None = None) -> Fraction:
    """Return the mean time between frames in seconds, as a ratio that MP4 can hold; a single frame gets a short one."""
    if gap is None:
        # Servers that repeat it take the mean of both times; it must stay at zero where it is told in words.
        gap = _SINGLE if clip.count == 1 else (clip.timestamps[-1] - clip.timestamps[0]) / (clip.count - 1)
    return Fraction(gap).limit_denominator(max(1, min(_FINEST, int(_LARGEST / gap))))


def read_url(url: str) -> Clip:
    """Read a clip back from a data URL.

    Args:
        url: ``data:video/mp4;base64,`` and a video of which all frames are taken, or ``data:video/jpeg;base64,`` and
            pictures (JPEG or PNG), one a second, with commas between them. No other address is ever opened.

    Raises:
        ValueError: if it is neither, or cannot be decoded; says why.
    """
    if url.startswith(_MP4):
        return read_mp4(_bytes(url[len(_MP4) :]))
    if url.startswith(_PICTURES):
        return _read_pictures(url[len(_PICTURES) :].split(","))
    raise ValueError(f"a video must be a URL that begins with {_MP4} or {_PICTURES}")


def read_mp4(data: bytes) -> Clip:
    """Decode every frame of an MP4 file in memory.

    Returns:
        The clip. Its times are those of the tag that :func:`write_mp4` leaves, else those of the container.

    Raises:
        ValueError: if it cannot be decoded.
    """
    frames: list[NDArray[np.uint8]] = []
    times: list[float] = []
    rgb = VideoReformatter()
    try:
        with av.open(io.BytesIO(data), "r", format="mp4") as container:
            if not container.streams.video:
                raise ValueError("the video has no picture")
            tag = container.metadata.get(_TAG, "")
            for frame in container.decode(video=0):
                if frame.pts is None or frame.time_base is None:
                    raise ValueError("the video has frames without a time")
                if len(frames) >= _MOST_FRAMES or (len(frames) + 1) * frame.width * frame.height > _MOST_PIXELS:
                    raise ValueError("the video is too large")
                frames.append(np.asarray(rgb.reformat(frame, format="rgb24").to_ndarray(), dtype=np.uint8))
                times.append(float(frame.pts * frame.time_base))
    except av.FFmpegError as error:
        raise ValueError(f"the video cannot be decoded: {error.strerror}") from error
    times = _tagged(tag, len(frames)) or times
    return _clip(frames[: len(times)], times)


def _tagged(tag: str, count: int) -> list[float]:
    """Return the times in a tag of ours, fewer where frames repeat the last; none if it is not ours or cannot fit."""
    try:
        seconds = json.loads(tag)["seconds"]
        times = [float(second) for second in seconds]
    except (ValueError, TypeError, KeyError):
        return []
    return times if len(times) <= count else []


def _read_pictures(texts: list[str]) -> Clip:
    if len(texts) > _MOST_FRAMES:
        raise ValueError("the video is too large")
    frames: list[NDArray[np.uint8]] = []
    for text in texts:
        try:
            with Image.open(io.BytesIO(_bytes(text)), formats=("JPEG", "PNG")) as picture:
                if (len(frames) + 1) * picture.width * picture.height > _MOST_PIXELS:
                    raise ValueError("the video is too large")
                frames.append(np.asarray(picture.convert("RGB")))
        except OSError as error:
            raise ValueError("a picture is neither JPEG nor PNG, or is damaged") from error
    return _clip(frames, [float(index) for index in range(len(frames))])


def _clip(frames: list[NDArray[np.uint8]], times: list[float]) -> Clip:
    if not frames:
        raise ValueError("the video has no frames")
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError("the pictures of a video differ in size")
    return Clip(np.stack(frames), tuple(times), Span(times[0], times[-1] + 1e-6))


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("a video is not in base64") from error
