"""decord and torchcodec give the frames PyAV gives, where they are installed; what is not installed says so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vital_eval.errors import MediaError, MissingExtraError
from vital_eval.video.decord_decoder import DecordDecoder
from vital_eval.video.pyav_decoder import PyAVDecoder
from vital_eval.video.torchcodec_decoder import TorchCodecDecoder

Encode = Callable[..., Path]


def test_decord_and_pyav_read_the_same_frames(
    tmp_path: Path, encode: Encode, shown: Callable[[np.ndarray], int], rotate_mp4: Callable[[Path, int], None]
) -> None:
    pytest.importorskip("decord")
    ours, theirs = PyAVDecoder(), DecordDecoder()
    regular = encode(tmp_path / "regular.mp4", options={"bf": "3"})
    irregular = encode(tmp_path / "irregular.mkv", times_ms=[0, 40, 45, 300, 310, 1000, 5033, 5034, 9000])
    turned = encode(tmp_path / "turned.mp4", count=6)
    rotate_mp4(turned, 90)
    for path in (regular, irregular, turned):
        info = theirs.probe(path)
        assert info == ours.probe(path)
        indices = sorted({0, 3, 5, info.frame_count // 2, info.frame_count - 1})
        left, right = ours.read(path, indices, info), theirs.read(path, indices, info)
        assert np.abs(left.astype(int) - right).mean() < 2.0  # their FFmpeg converts colours a little differently
        if path != turned:
            assert [shown(frame) for frame in right] == indices


def test_decord_disagreeing_with_the_index_is_an_error(tmp_path: Path, encode: Encode) -> None:
    pytest.importorskip("decord")
    decoder = DecordDecoder()
    path = encode(tmp_path / "video.mp4", count=8)
    for other in (encode(tmp_path / "a.mp4", count=7), encode(tmp_path / "b.mp4", count=8, rate=24)):
        with pytest.raises(MediaError) as caught:
            decoder.read(path, [6], decoder.probe(other))
        assert caught.value.kind == "unreadable"


def test_decord_on_files_that_are_no_videos(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    path = tmp_path / "video.mp4"
    path.write_text("no video")
    with pytest.raises(MediaError) as caught:
        DecordDecoder().probe(path)
    assert caught.value.kind == "unreadable"


def torchcodec() -> TorchCodecDecoder:
    """Return the decoder, or skip where torchcodec is missing or does not load."""
    try:
        return TorchCodecDecoder()
    except MissingExtraError:
        pytest.skip("torchcodec is not installed or does not load")


def test_torchcodec_and_pyav_read_the_same_frames(
    tmp_path: Path, encode: Encode, rotate_mp4: Callable[[Path, int], None]
) -> None:
    ours, theirs = PyAVDecoder(), torchcodec()
    regular = encode(tmp_path / "regular.mp4", options={"bf": "3"})
    irregular = encode(tmp_path / "irregular.mkv", times_ms=[0, 40, 45, 300, 310, 1000, 5033, 5034, 9000])
    late = encode(tmp_path / "late.mp4", times_ms=[5000 + 40 * index for index in range(30)], options={"bf": "2"})
    turned = encode(tmp_path / "turned.mp4", count=6)
    rotate_mp4(turned, 90)
    for path in (regular, irregular, late, turned):
        info = theirs.probe(path)
        indices = sorted({0, 3, 5, info.frame_count // 2, info.frame_count - 1})
        left, right = ours.read(path, indices, info), theirs.read(path, indices, info)
        assert left.shape == right.shape
        assert np.abs(left.astype(int) - right).mean() < 2.0  # another FFmpeg may round colours differently


def test_torchcodec_disagreeing_with_the_index_is_an_error(tmp_path: Path, encode: Encode) -> None:
    decoder = torchcodec()
    other = decoder.probe(encode(tmp_path / "other.mp4", count=8, rate=24))
    with pytest.raises(MediaError) as caught:
        decoder.read(encode(tmp_path / "video.mp4", count=8), [6], other)
    assert caught.value.kind == "unreadable"


@pytest.mark.parametrize(("decoder", "module"), [(DecordDecoder, "decord"), (TorchCodecDecoder, "torchcodec.decoders")])
def test_what_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, decoder: type, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"vital-eval\[{module.split('.')[0]}\]"):
        decoder()
