"""Leaving packets out changes no other frame, in any codec; in doubt nothing is left out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from vital_eval.video.disposable import disposable_test
from vital_eval.video.pyav_file import opened
from vital_eval.video.sound_frames import SoundFrames

COUNT = 48


def write(path: Path, codec: str, options: dict[str, str]) -> Path:
    """A texture that drifts behind one that drifts faster, so that a missing reference shows."""
    texture = np.random.default_rng(0).integers(0, 255, (96, 300, 3), dtype=np.uint8)
    texture = texture.repeat(2, axis=0).repeat(2, axis=1)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.gop_size = 24
        for index in range(COUNT):
            drawn = texture[:96, 3 * index : 3 * index + 160].copy()
            drawn[30:60, 40:90] = texture[60:90, 7 * index : 7 * index + 50]
            frame = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def decode(path: Path, wanted: set[int] | None) -> dict[int, NDArray[np.uint8]]:
    with opened(path, 2) as (container, stream):
        frames = SoundFrames(container, stream, wanted)
        return {frame.pts: frame.to_ndarray(format="rgb24") for frame in frames if frame.pts is not None}


def disposable_stamps(path: Path) -> set[int]:
    with opened(path, 1) as (container, stream):
        disposable = disposable_test(stream.codec_context.name, stream.codec_context.extradata)
        return {packet.pts for packet in container.demux(stream) if packet.size and disposable(memoryview(packet))}


@pytest.mark.parametrize(
    ("name", "codec", "options", "some"),
    [
        ("b_frames.mp4", "libx264", {"bf": "3", "x264-params": "b-pyramid=none"}, True),
        ("pyramid.mkv", "libx264", {"bf": "7", "b_strategy": "0", "x264-params": "b-pyramid=normal"}, True),
        ("open_gop.mp4", "libx264", {"bf": "3", "x264-params": "open-gop=1"}, True),
        ("start_codes.ts", "libx264", {"bf": "3"}, True),
        ("no_b_frames.mp4", "libx264", {"bf": "0"}, False),
        ("hevc.mp4", "libx265", {"x265-params": "log-level=none:bframes=4:b-pyramid=1:open-gop=1"}, True),
        ("layers.mp4", "libx265", {"x265-params": "log-level=none:bframes=4:temporal-layers=3"}, False),
        ("av1.mp4", "libsvtav1", {"preset": "11", "svtav1-params": "lp=1"}, True),
        ("vp9.webm", "libvpx-vp9", {"b": "500k", "cpu-used": "8", "lag-in-frames": "16"}, False),
        ("mpeg4.mp4", "mpeg4", {"bf": "2", "b": "2000000"}, False),
    ],
)
def test_frames_wanted_are_those_of_a_full_scan(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], some: bool
) -> None:
    path = write(tmp_path / name, codec, options)
    everything = decode(path, None)
    assert len(everything) == COUNT
    stamps = sorted(everything)
    droppable = disposable_stamps(path)
    assert bool(droppable) == some
    assert droppable < set(stamps)
    choices = [set(stamps[start::step]) for step in (5, 9, 17) for start in range(0, step, 4)]
    for wanted in [*choices, set(stamps) - droppable, set(stamps)]:
        found = decode(path, wanted)
        assert wanted <= set(found)
        for stamp, frame in found.items():
            assert np.array_equal(frame, everything[stamp])


def test_leaving_out_a_reference_would_be_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", "libx264", {"bf": "3"})
    everything, droppable = decode(path, None), disposable_stamps(path)
    with opened(path, 1) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]
        reference = next(packet for packet in packets[1:] if packet.pts not in droppable)
        frames = [frame for packet in packets if packet is not reference for frame in packet.decode()]
    assert any(not np.array_equal(frame.to_ndarray(format="rgb24"), everything[frame.pts]) for frame in frames)


def sized(*units: bytes) -> memoryview:
    return memoryview(b"".join(len(unit).to_bytes(4, "big") + unit for unit in units))


def marked(*units: bytes) -> memoryview:
    return memoryview(b"".join(b"\x00\x00\x00\x01" + unit for unit in units))


AVCC, HVCC = b"\x01dd\x00\xff\xe1", b"\x01" + bytes(20) + b"\x0f\x00"
LAYERED = HVCC[:21] + b"\x1f\x00"
SLICE, REFERENCE, INFORMATION, PARAMETERS = b"\x01\x9a", b"\x41\x9a", b"\x06\x05\x01", b"\x67\x64"
TRAIL_N, TRAIL_R, TRAIL_N_UPPER, TRAIL_N_OTHER_VIEW = b"\x00\x01\x80", b"\x02\x01\x80", b"\x00\x02\x80", b"\x01\x01\x80"


@pytest.mark.parametrize(
    ("codec", "extradata", "packet", "expected"),
    [
        ("h264", AVCC, sized(SLICE), True),
        ("h264", AVCC, sized(INFORMATION, SLICE, SLICE), True),
        ("h264", None, marked(INFORMATION, SLICE), True),
        ("h264", AVCC, sized(REFERENCE), False),
        ("h264", AVCC, sized(SLICE, REFERENCE), False),
        ("h264", AVCC, sized(PARAMETERS, SLICE), False),
        ("h264", None, marked(PARAMETERS, SLICE), False),
        ("h264", AVCC, sized(INFORMATION), False),
        ("h264", AVCC, sized(SLICE)[:-1], False),
        ("h264", AVCC, memoryview(bytes(40)), False),
        ("h264", None, memoryview(bytes(40)), False),
        ("h264", AVCC, memoryview(b""), False),
        ("hevc", HVCC, sized(TRAIL_N), True),
        ("hevc", HVCC, sized(TRAIL_R), False),
        ("hevc", HVCC, sized(TRAIL_N, TRAIL_R), False),
        ("hevc", HVCC, sized(TRAIL_N_UPPER), False),
        ("hevc", HVCC, sized(TRAIL_N_OTHER_VIEW), False),
        ("hevc", LAYERED, sized(TRAIL_N), False),
        ("hevc", None, marked(TRAIL_N), False),
        ("vp9", None, memoryview(b"\x86\x00"), False),
        ("libdav1d", b"\x81\x04\x0c\x00", memoryview(b"\x32\x00"), False),
        ("libdav1d", None, memoryview(b"\x32\x00"), False),
    ],
)
def test_single_packets(codec: str, extradata: bytes | None, packet: memoryview, expected: bool) -> None:
    assert disposable_test(codec, extradata)(packet) is expected
