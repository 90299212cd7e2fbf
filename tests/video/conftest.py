"""Small videos that carry their own answers: every frame shows its index as black and white blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Encode = Callable[..., Path]

BITS = 8


def draw(index: int, height: int, width: int) -> Frame:
    """A frame whose eight columns are the bits of its index; the top quarter is red to tell up from down."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    for bit in range(BITS):
        frame[:, bit * width // BITS : (bit + 1) * width // BITS] = 235 if index >> bit & 1 else 16
    frame[: height // 4] = (200, 20, 20)
    return frame


def shown(frame: Frame) -> int:
    """The index a decoded upright frame shows."""
    height, width = frame.shape[:2]
    row = frame[height * 5 // 8].mean(axis=1)
    return sum(1 << bit for bit in range(BITS) if row[(2 * bit + 1) * width // (2 * BITS)] > 128)


def encode(
    path: Path,
    *,
    count: int = 40,
    times_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    height: int = 64,
    width: int = 96,
    gop: int = 10,
    rate: int = 25,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    audio_s: float = 0.0,
) -> Path:
    """Write a video of ``count`` frames, or of one frame at each of ``times_ms``."""
    times = list(times_ms) if times_ms is not None else [round(1000 * index / rate) for index in range(count)]
    with av.open(str(path), "w", options=container or {}) as output:
        stream: Any = output.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size = gop
        # libvpx's threads spin while they wait: two test processes on two cores once stood still for minutes.
        stream.codec_context.thread_count = 1
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        sound: Any = output.add_stream("aac", rate=16000) if audio_s else None
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(index, height, width), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = time, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if sound is not None:
            output.mux(_silence(sound, audio_s))
    return path


def _silence(stream: Any, seconds: float) -> list[Any]:
    packets: list[Any] = []
    for block in range(int(seconds * 16000 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, block * 1024, Fraction(1, 16000)
        packets += stream.encode(frame)
    return packets + list(stream.encode())


def rotate_mp4(path: Path, degrees: int, *, mirrored: bool = False) -> None:
    """Overwrite the display matrix of the first track: mirror left to right, then turn clockwise, when shown."""
    one = 0x10000
    cosine, sine = {0: (one, 0), 90: (0, one), 180: (-one, 0), 270: (0, -one)}[degrees]
    across = -1 if mirrored else 1
    matrix = [across * cosine, across * sine, 0, -sine, cosine, 0, 0, 0, 0x40000000]
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd")
    assert at > 0
    assert data[at + 4] == 0  # version 0: the matrix starts 40 bytes after the version
    for index, value in enumerate(matrix):
        start = at + 4 + 40 + 4 * index
        data[start : start + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(data))


@pytest.fixture(name="encode")
def encode_fixture() -> Encode:
    return encode


@pytest.fixture(name="encode_module", scope="module")
def encode_module_fixture() -> Encode:
    return encode


@pytest.fixture(name="shown")
def shown_fixture() -> Callable[[Frame], int]:
    return shown


@pytest.fixture(name="rotate_mp4")
def rotate_fixture() -> Callable[[Path, int], None]:
    return rotate_mp4
