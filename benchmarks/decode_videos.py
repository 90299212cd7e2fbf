"""The videos that ``benchmarks/decode.py`` reads: every frame carries its own number, in every codec and length.

Forty seconds are drawn and encoded once per codec in closed groups of 250 frames. Longer videos are its groups, joined
in a random order with their times moved, which takes seconds instead of hours and gives the same work to a decoder.
The number painted into a frame says which one was returned, whatever a reader's colours are rounded to.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH, RATE, GROUP, GROUPS = 360, 640, 25, 250, 4
BITS = 10
_CELL = 32


@dataclass(frozen=True, slots=True)
class Codec:
    """How one kind of video is written.

    Attributes:
        name: as in the table.
        encoder: FFmpeg's.
        suffix: of the container.
        options: of the encoder.
    """

    name: str
    encoder: str
    suffix: str
    options: dict[str, str]


CODECS = (
    Codec("h264", "libx264", ".mp4", {"preset": "veryfast", "crf": "26", "sc_threshold": "0", "keyint_min": "250"}),
    Codec(
        "hevc",
        "libx265",
        ".mp4",
        {
            "preset": "ultrafast",
            "crf": "26",
            "x265-params": "log-level=none:keyint=250:min-keyint=250:scenecut=0:open-gop=0:bframes=4:b-pyramid=1",
        },
    ),
    Codec("vp9", "libvpx-vp9", ".webm", {"b": "700k", "cpu-used": "8", "deadline": "good", "keyint_min": "250"}),
    Codec("av1", "libsvtav1", ".mp4", {"preset": "12", "crf": "40", "svtav1-params": "irefresh-type=2:scd=0"}),
)


@dataclass(frozen=True, slots=True)
class Video:
    """A file and the number that can be read from each of its frames, in presentation order."""

    path: Path
    numbers: tuple[int, ...]


def write_video(folder: Path, codec: Codec, groups: int) -> Video:
    """Write a video of ``groups`` times ten seconds, or take the one that is there.

    Args:
        folder: where encoded seeds and finished videos are kept.
        codec: how it is encoded.
        groups: groups of 250 frames.
    """
    order = _order(groups)
    path = folder / f"{codec.name}-{groups}{codec.suffix}"
    seed = folder / f"{codec.name}-seed{codec.suffix}"
    if not seed.exists():
        _encode(seed, codec)
    if not path.exists():
        _join(seed, path, order)
    shown = _shown(seed)
    return Video(path, tuple(shown[GROUP * place + step] for place in order for step in range(GROUP)))


def painted(frames: NDArray[np.uint8]) -> list[int]:
    """Read the numbers painted into frames of any size.

    Args:
        frames: uint8, shape (n, height, width, 3).
    """
    height, width = frames.shape[1:3]
    row = round(_CELL / 2 * height / HEIGHT)
    columns = [round((bit + 0.5) * _CELL * width / WIDTH) for bit in range(BITS)]
    bright = frames[:, row, columns].mean(axis=-1) > 127
    return [int(sum(1 << bit for bit in range(BITS) if line[bit])) for line in bright]


def _shown(seed: Path) -> list[int]:
    """Read the numbers that a plain scan of the seed shows.

    SVT-AV1 writes one frame in forty so coarsely that a bit of the number is its neighbour's.
    """
    with av.open(str(seed)) as container:
        shown = [painted(frame.to_ndarray(format="rgb24")[None])[0] for frame in container.decode(video=0)]
    wrong = sum(number != place for place, number in enumerate(shown))
    if len(shown) != GROUP * GROUPS or wrong > len(shown) // 20:
        raise SystemExit(f"{seed.name}: {wrong} of {len(shown)} numbers cannot be read")
    return shown


def _order(groups: int) -> list[int]:
    if groups <= GROUPS:
        return list(range(groups))
    rng = random.Random(1)  # noqa: S311 - which group follows which
    return [rng.randrange(GROUPS) for _ in range(groups)]


def _draw() -> Iterator[NDArray[np.uint8]]:
    """Draw the seed: textures that drift at different speeds, and grain that no encoder predicts."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 215, (2 * HEIGHT // 8, 4 * WIDTH // 8, 3), dtype=np.uint8)
    back = coarse.repeat(8, axis=0).repeat(8, axis=1)
    sprite = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    grain = rng.integers(-2, 3, (HEIGHT, WIDTH, 1), dtype=np.int16)
    for number in range(GROUP * GROUPS):
        top, left = int(90 + 80 * np.sin(number / 70)), number % WIDTH
        frame = back[top : top + HEIGHT, left : left + WIDTH].astype(np.int16)
        frame = frame + np.roll(grain, 37 * number, axis=1)
        frame = frame.clip(0, 255).astype(np.uint8)
        for speed, height in ((3, 60), (5, 150), (-4, 240)):
            at = (speed * number) % (WIDTH - 96)
            frame[height : height + 96, at : at + 96] = sprite
        for bit in range(BITS):
            frame[:_CELL, bit * _CELL : (bit + 1) * _CELL] = 235 if number >> bit & 1 else 16
        yield frame


def _encode(path: Path, codec: Codec) -> None:
    part = path.with_suffix(".part" + path.suffix)
    with av.open(str(part), "w") as output:
        stream: Any = output.add_stream(codec.encoder, rate=RATE, options=codec.options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = GROUP
        stream.codec_context.thread_count = 2
        for number, drawn in enumerate(_draw()):
            frame = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    part.rename(path)


def _join(seed: Path, path: Path, order: list[int]) -> None:
    groups: list[list[tuple[bytes, int, int, bool]]] = []
    with av.open(str(seed)) as given:
        source = given.streams.video[0]
        ticks = Fraction(GROUP, RATE) / source.time_base
        step = Fraction(1, RATE) / source.time_base
        for packet in given.demux(source):
            if packet.size:
                if packet.is_keyframe:
                    groups.append([])
                groups[-1].append((bytes(packet), packet.pts, packet.dts, packet.is_keyframe))
        if [len(group) for group in groups] != [GROUP] * GROUPS:
            raise SystemExit(f"{seed.name}: groups of {[len(group) for group in groups]} frames")
        part = path.with_suffix(".part" + path.suffix)
        with av.open(str(part), "w") as output:
            copy = output.add_stream_from_template(source, opaque=True)
            for place, group in enumerate(order):
                shift = round((place - group) * ticks)
                for data, pts, dts, key in groups[group]:
                    packet = av.Packet(data)
                    packet.pts, packet.dts, packet.duration = pts + shift, dts + shift, round(step)
                    packet.time_base, packet.is_keyframe, packet.stream = source.time_base, key, copy
                    output.mux(packet)
        part.rename(path)
