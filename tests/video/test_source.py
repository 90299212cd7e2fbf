"""From a name to a clip."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vital_eval.errors import MediaError
from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video import source as source_module
from vital_eval.video.decoder import VideoInfo
from vital_eval.video.pyav_decoder import PyAVDecoder
from vital_eval.video.source import ClipSource

Encode = Callable[..., Path]
VIEW = View(fps=2.0, max_frames=16, min_pixels=28 * 28, max_pixels=64 * 128, clock=False)


class CountingDecoder:
    """PyAV that remembers what it was asked."""

    name = "counting"

    def __init__(self) -> None:
        self.probes: list[str] = []
        self.reads: list[tuple[int, ...]] = []
        self._inner = PyAVDecoder()

    def probe(self, path: Path) -> VideoInfo:
        """Count and pass on."""
        self.probes.append(path.name)
        return self._inner.probe(path)

    def read(self, path: Path, indices: Sequence[int], info: VideoInfo) -> NDArray[np.uint8]:
        """Count and pass on."""
        self.reads.append(tuple(indices))
        return self._inner.read(path, indices, info)


def test_a_clip_of_a_span(tmp_path: Path, encode: Encode, shown: Callable[[np.ndarray], int]) -> None:
    encode(tmp_path / "v.mp4", count=150)
    clip = ClipSource(tmp_path, PyAVDecoder()).read("v.mp4", Span(1.0, 3.0), VIEW, 32)
    assert clip.frames.shape == (5, 64, 96, 3)
    assert clip.timestamps == pytest.approx((1.0, 1.48, 2.0, 2.48, 3.0))
    assert [shown(frame) for frame in clip.frames] == [25, 37, 50, 62, 75]
    assert clip.span == Span(1.0, 3.0)


def test_spans_are_clamped_to_the_video(tmp_path: Path, encode: Encode) -> None:
    encode(tmp_path / "v.mp4", count=50)
    source = ClipSource(tmp_path, PyAVDecoder())
    assert source.read("v.mp4", None, VIEW, 32).span == Span(0.0, 2.0)
    assert source.read("v.mp4", Span(-1.0, 9.0), VIEW, 32).span == Span(0.0, 2.0)
    beyond = source.read("v.mp4", Span(5.0, 9.0), VIEW, 32)
    assert beyond.timestamps == (1.96,)
    assert beyond.span == Span(5.0, 9.0)


def test_the_clock_shows_the_true_time(tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "v.mp4", times_ms=[0, 333, 700, 1111])
    drawn: list[Sequence[float]] = []

    def draw(frames: NDArray[np.uint8], times: Sequence[float]) -> NDArray[np.uint8]:
        drawn.append(times)
        return frames

    monkeypatch.setattr(source_module, "draw_clock", draw)
    clip = ClipSource(tmp_path, PyAVDecoder()).read("v.mp4", None, replace(VIEW, clock=True), 28)
    assert drawn == [clip.timestamps]
    assert clip.timestamps == pytest.approx((0.0, 0.7, 1.111))


def test_reading_in_parts_changes_nothing(tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "v.mp4", count=100, options={"bf": "2"})
    whole = ClipSource(tmp_path, PyAVDecoder()).read("v.mp4", None, VIEW, 32)
    decoder = CountingDecoder()
    monkeypatch.setattr(source_module, "_PART_BYTES", 3 * 64 * 96 * 3)
    parts = ClipSource(tmp_path, decoder).read("v.mp4", None, VIEW, 32)
    assert [len(read) for read in decoder.reads] == [3, 3, 2]
    assert np.array_equal(whole.frames, parts.frames)
    assert whole.timestamps == parts.timestamps


def test_indices_are_kept_within_bounds(tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_KEPT_INFOS", 2)
    for name in "abc":
        encode(tmp_path / f"{name}.mp4", count=2)
    decoder = CountingDecoder()
    source = ClipSource(tmp_path, decoder)
    for video in ("a.mp4", "b.mp4", "a.mp4", "c.mp4", "a.mp4", "b.mp4"):
        source.probe(video)
    assert decoder.probes == ["a.mp4", "b.mp4", "c.mp4", "b.mp4"]


def test_a_replaced_file_is_probed_again(tmp_path: Path, encode: Encode) -> None:
    source = ClipSource(tmp_path, PyAVDecoder())
    path = encode(tmp_path / "v.mp4", count=5)
    assert source.probe("v.mp4").frame_count == 5
    encode(path, count=9)
    os.utime(path, ns=(1, 1))
    assert source.probe("v.mp4").frame_count == 9


def test_errors_keep_their_kind(tmp_path: Path) -> None:
    source = ClipSource(tmp_path, PyAVDecoder())
    (tmp_path / "bad.mp4").write_text("no video")
    for video, kind in (("none.mp4", "missing"), ("../x.mp4", "outside-root"), ("bad.mp4", "unreadable")):
        with pytest.raises(MediaError) as caught:
            source.read(video, None, VIEW, 28)
        assert caught.value.kind == kind
