"""The frames read are the ones asked for, at their own times, or the error says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from vital_eval.errors import MediaError
from vital_eval.video import pyav_decoder, pyav_index
from vital_eval.video.decoder import VideoInfo
from vital_eval.video.pyav_decoder import PyAVDecoder
from vital_eval.video.reading_plan import Costs
from vital_eval.video.resize import resize_frames

Encode = Callable[..., Path]
Shown = Callable[[np.ndarray], int]
DECODER = PyAVDecoder()

VFR_MS = [0, 40, 45, 300, 310, 1000, 1033, 1066, 2500, 2504, 2600, 2700, 4000, 4200, 4201, 4444, 5000, 5100, 6000, 7000]


def assert_right(path: Path, count: int, shown: Shown) -> VideoInfo:
    """Every frame alone, backwards (so that each needs a new search), then some of them in one call."""
    info = DECODER.probe(path)
    assert info.frame_count == count
    for index in reversed(range(count)):
        assert shown(DECODER.read(path, [index], info)[0]) == index
    some = sorted({0, 1, count // 3, count // 2, count // 2 + 1, count - 1} & set(range(count)))
    assert [shown(frame) for frame in DECODER.read(path, some, info)] == some
    return info


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("plain.mp4", "libx264", {"bf": "0"}),
        ("b_frames.mp4", "libx264", {"bf": "3", "b-pyramid": "normal"}),
        ("open_gop.mp4", "libx264", {"bf": "3", "x264-params": "open-gop=1"}),
        ("fragmented.mp4", "libx264", {"bf": "3"}),
        ("b_frames.mkv", "libx264", {"bf": "3"}),
        ("b_frames.mov", "libx264", {"bf": "3"}),
        ("b_frames.avi", "libx264", {"bf": "2"}),
        ("mpeg4.avi", "mpeg4", {"bf": "2", "b": "2000000"}),
        ("alt_ref.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "500000", "cpu-used": "5"}),
        ("vp9.webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "500000", "cpu-used": "5"}),
        ("hevc.mp4", "libx265", {"x265-params": "log-level=none:open-gop=1"}),
    ],
)
def test_every_frame_of_every_kind_of_file(
    tmp_path: Path, encode: Encode, shown: Shown, name: str, codec: str, options: dict[str, str]
) -> None:
    container = {"movflags": "frag_keyframe+empty_moov"} if name.startswith("fragmented") else None
    info = assert_right(encode(tmp_path / name, codec=codec, options=options, container=container), 40, shown)
    assert info.frame_times == pytest.approx([index / 25 for index in range(40)], abs=0.0006)  # webm, mkv: whole ms
    assert info.duration == pytest.approx(1.6, abs=0.01)


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
@pytest.mark.parametrize("b_frames", ["0", "3"])
def test_irregular_times_are_kept(tmp_path: Path, encode: Encode, shown: Shown, name: str, b_frames: str) -> None:
    path = encode(tmp_path / name, times_ms=VFR_MS, gop=6, options={"bf": b_frames})
    info = assert_right(path, len(VFR_MS), shown)
    assert info.frame_times == pytest.approx([time / 1000 for time in VFR_MS], abs=1e-6)


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_time_zero_is_the_first_frame_wherever_the_container_starts(
    tmp_path: Path, encode: Encode, shown: Shown, name: str
) -> None:
    path = encode(tmp_path / name, times_ms=[5000 + 40 * index for index in range(30)], options={"bf": "2"})
    info = assert_right(path, 30, shown)
    assert info.frame_times[0] == 0.0
    assert info.frame_times[29] == pytest.approx(1.16, abs=1e-6)
    assert info.origin > 0


@pytest.mark.parametrize(("degrees", "turned"), [(0, False), (90, True), (180, False), (270, True)])
def test_display_matrix_is_applied(
    tmp_path: Path, encode: Encode, rotate_mp4: Callable[[Path, int], None], degrees: int, turned: bool
) -> None:
    path = encode(tmp_path / "turned.mp4", count=3)
    rotate_mp4(path, degrees)
    info = DECODER.probe(path)
    assert (info.height, info.width) == ((96, 64) if turned else (64, 96))
    (frame,) = DECODER.read(path, [1], info)
    assert frame.shape == (info.height, info.width, 3)
    # The red bar is on top as stored; shown clockwise turned it comes to the right, the bottom, the left.
    red = frame[..., 0].astype(int) - frame[..., 1] > 90
    bars = {0: red[:10], 90: red[:, -10:], 180: red[-10:], 270: red[:, :10]}
    assert {angle for angle, bar in bars.items() if bar.mean() > 0.9} == {degrees}


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("mpeg4.ts", "mpeg4", {"bf": "2", "b": "2000000"}),
        ("mpeg1.mpg", "mpeg1video", {}),
        ("mpeg2.ts", "mpeg2video", {"bf": "2", "b": "2000000"}),
        ("h264.ts", "libx264", {"bf": "2"}),
        ("h264.wmv", "libx264", {"bf": "0", "g": "7"}),
        ("wmv2.wmv", "wmv2", {"b": "2000000"}),
        ("flv.flv", "flv", {"b": "2000000"}),
    ],
)
def test_frames_of_streams_without_an_index_are_those_of_a_plain_scan(
    tmp_path: Path, encode: Encode, name: str, codec: str, options: dict[str, str]
) -> None:
    path = encode(tmp_path / name, count=200, gop=15, height=128, width=208, codec=codec, options=options)
    info, scanned = DECODER.probe(path), plain_scan(path)
    assert info.frame_count == len(scanned)
    wrong = [at for at in range(200) if not np.array_equal(DECODER.read(path, [at], info)[0], scanned[at])]
    assert wrong == []


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mirrored_video_is_shown_mirrored(
    tmp_path: Path, encode: Encode, rotate_mp4: Callable[..., None], degrees: int, mirrored: bool
) -> None:
    path = encode(tmp_path / "mirrored.mp4", count=3)
    stored = plain_scan(path)[1]
    rotate_mp4(path, degrees, mirrored=mirrored)
    (frame,) = DECODER.read(path, [1], DECODER.probe(path))
    assert np.array_equal(frame, np.rot90(stored[:, ::-1] if mirrored else stored, -degrees // 90))


def test_one_frame(tmp_path: Path, encode: Encode, shown: Shown) -> None:
    info = assert_right(encode(tmp_path / "one.mp4", count=1), 1, shown)
    assert info.frame_times == (0.0,)
    assert info.duration == pytest.approx(0.04)


def test_odd_sizes(tmp_path: Path, encode: Encode, shown: Shown) -> None:
    info = assert_right(encode(tmp_path / "odd.mp4", count=12, height=35, width=51, pixels="yuv444p"), 12, shown)
    assert (info.height, info.width) == (35, 51)


def test_seeking_and_reading_on_agree(tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "long.mp4", count=120, gop=12, options={"bf": "3"})
    info = DECODER.probe(path)
    wanted = [3, 50, 51, 90, 119]
    decoder = PyAVDecoder(threads=1)
    sought = decoder.read(path, wanted, info)
    monkeypatch.setattr(pyav_decoder, "_COSTS", Costs(restart=10**9, keep=1))
    assert np.array_equal(sought, decoder.read(path, wanted, info))


def test_a_seek_that_misleads_is_noticed(tmp_path: Path, encode: Encode, shown: Shown) -> None:
    path = encode(tmp_path / "video.mp4", count=60, gop=60)
    honest = DECODER.probe(path)
    lying = VideoInfo(honest.duration, honest.width, honest.height, honest.frame_times, keyframes=(0, 20, 40))
    assert [shown(frame) for frame in DECODER.read(path, [30, 50], lying)] == [30, 50]


def test_a_seek_that_misleads_is_noticed_where_packets_tell(tmp_path: Path, encode: Encode, shown: Shown) -> None:
    path = encode(tmp_path / "video.mp4", count=60, gop=60, options={"bf": "3"})
    honest = DECODER.probe(path)
    assert honest.packets_tell
    lying = replace(honest, keyframes=(0, 20, 40))
    assert [shown(frame) for frame in DECODER.read(path, [30, 50], lying)] == [30, 50]


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_a_decoder_that_is_still_recovering_gives_no_frame(tmp_path: Path, name: str) -> None:
    # Points of recovery are marked as keyframes, and FFmpeg calls frames sound before it has recovered.
    options = {"preset": "medium", "x264-params": "keyint=60:intra-refresh=1:log-level=none"}
    texture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    path = tmp_path / name
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height = 320, 240
        for index in range(130):
            moved = np.ascontiguousarray(np.roll(texture, 3 * index, axis=1))
            output.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        output.mux(stream.encode())
    info, scanned = DECODER.probe(path), plain_scan(path)
    assert len(info.keyframes) > 1
    wrong = [at for at in range(100, 130) if not np.array_equal(DECODER.read(path, [at], info)[0], scanned[at])]
    assert wrong == []


def test_a_seek_into_the_middle_of_a_group_gives_no_frame_of_it(tmp_path: Path, encode: Encode) -> None:
    # FFmpeg's MPEG-4 decoder paints frames whose reference it never had, and calls them sound.
    path = encode(tmp_path / "v.ts", count=200, gop=60, height=128, width=208, codec="mpeg4", options={"bf": "2"})
    lying, scanned = replace(DECODER.probe(path), keyframes=(0, 50, 100, 150)), plain_scan(path)
    wrong = [at for at in range(200) if not np.array_equal(DECODER.read(path, [at], lying)[0], scanned[at])]
    assert wrong == []


def plain_scan(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b_frames.mp4", "libx264", {"bf": "3"}),
        ("open_gop.mp4", "libx264", {"bf": "3", "x264-params": "open-gop=1"}),
        ("b_frames.mkv", "libx264", {"bf": "3"}),
        ("hevc.mp4", "libx265", {"x265-params": "log-level=none:open-gop=1"}),
        ("vp9.webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "500k", "cpu-used": "8"}),
        ("av1.mp4", "libsvtav1", {"preset": "11", "svtav1-params": "lp=1"}),
    ],
)
def test_the_plan_alone_gives_the_pixels_of_a_plain_scan(
    tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, options: dict[str, str]
) -> None:
    path = encode(tmp_path / name, count=75, gop=15, codec=codec, options=options)
    info = DECODER.probe(path)
    scanned = np.stack(plain_scan(path))
    assert info.packets_tell
    monkeypatch.setattr(PyAVDecoder, "_read_through", lambda *_: pytest.fail("the plan did not find every frame"))
    monkeypatch.setattr(pyav_decoder, "_READER_COST", 20)
    for threads in (1, 2, 3):
        for wanted in ([2, 30, 31, 59, 74], [44], list(range(75)), list(range(7, 75, 13))):
            frames = PyAVDecoder(threads).read(path, wanted, info)
            assert np.array_equal(frames, scanned[wanted])


@pytest.mark.parametrize("size", [(56, 84), (35, 51), (112, 28)])
def test_resizing_as_frames_come_is_resizing_afterwards(
    tmp_path: Path, encode: Encode, rotate_mp4: Callable[[Path, int], None], size: tuple[int, int]
) -> None:
    plain = encode(tmp_path / "plain.mp4", count=30, options={"bf": "2"})
    turned = encode(tmp_path / "turned.mp4", count=12)
    rotate_mp4(turned, 90)
    odd = encode(tmp_path / "odd.mp4", count=12, height=35, width=51, pixels="yuv444p")
    for path in (plain, turned, odd):
        info = DECODER.probe(path)
        wanted = range(0, info.frame_count, 3)
        resized = DECODER.read_resized(path, wanted, info, size)
        assert np.array_equal(resized, resize_frames(DECODER.read(path, wanted, info), size))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_damage_beside_a_keyframe_never_gives_another_frame(
    tmp_path: Path, encode: Encode, shown: Shown, threads: int
) -> None:
    """A decoder reports the damage before it hands out the keyframe that it still holds."""
    path = encode(tmp_path / "video.mp4", count=45, gop=15, options={"bf": "2"})
    decoder, whole = PyAVDecoder(threads), path.read_bytes()
    info = decoder.probe(path)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for at, size in packets[13:21]:
        path.write_bytes(whole[:at] + bytes(size) + whole[at + size :])
        lost = 0
        for index in range(8, 36, 3):
            try:
                assert shown(decoder.read(path, [index], info)[0]) == index
            except MediaError:
                lost += 1
        assert lost < 10


def test_an_index_of_another_file_is_refused(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "video.mp4", count=10)
    other = DECODER.probe(encode(tmp_path / "other.mp4", times_ms=[0, 41, 83, 190]))
    with pytest.raises(MediaError) as caught:
        DECODER.read(path, [3], other)
    assert caught.value.kind == "truncated"


@pytest.mark.parametrize("indices", [[], [-1], [40], [3, 3], [4, 2]])
def test_indices_out_of_contract(tmp_path: Path, encode: Encode, indices: list[int]) -> None:
    path = encode(tmp_path / "video.mp4")
    with pytest.raises(ValueError, match="indices"):
        DECODER.read(path, indices, DECODER.probe(path))


@pytest.mark.parametrize(
    ("name", "container"),
    [("cut.mp4", {"movflags": "faststart"}), *((f"cut.{kind}", None) for kind in ("mkv", "webm", "avi", "wmv"))],
)
@pytest.mark.parametrize("part", [0.3, 0.6])  # the last fifth of such a small .avi is its index
def test_truncated_files(
    tmp_path: Path, encode: Encode, name: str, container: dict[str, str] | None, part: float
) -> None:
    codec = {"webm": "libvpx", "wmv": "wmv2"}.get(name[4:], "libx264")
    options = {"cpu-used": "8"} if codec == "libvpx" else {}
    path = encode(tmp_path / name, count=250, codec=codec, gop=25, container=container, options=options)
    data = path.read_bytes()
    header = data.find(b"mdat") + 8 if name.endswith("mp4") else 2000
    path.write_bytes(data[: header + int((len(data) - header) * part)])
    with pytest.raises(MediaError, match=r"\d+( of \d+)? frames are whole") as caught:
        DECODER.probe(path)
    assert caught.value.kind == "truncated"


def test_an_index_at_the_end_that_is_cut_off(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "video.mp4")
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(MediaError) as caught:
        DECODER.probe(path)
    assert caught.value.kind == "unreadable"


def test_a_cut_broadcast_stream_is_shorter_or_refused_but_never_wrong(
    tmp_path: Path, encode: Encode, shown: Shown
) -> None:
    path = encode(tmp_path / "cut.ts", options={"bf": "3"})
    data = path.read_bytes()
    outcomes = set()
    for part in range(30, 100, 7):
        path.write_bytes(data[: len(data) * part // 100])
        try:
            info = DECODER.probe(path)
            frames = DECODER.read(path, range(info.frame_count), info)
            # A frame lost from among B-frames leaves a hole; those on either side keep their times.
            assert [shown(frame) for frame in frames] == [round(25 * time) for time in info.frame_times]
            outcomes.add("right")
        except MediaError as error:
            outcomes.add(error.kind)
    assert outcomes <= {"right", "truncated", "unreadable"}


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libx265"])
def test_a_damaged_frame_spoils_nothing_but_its_own_group(
    tmp_path: Path, encode: Encode, shown: Shown, codec: str
) -> None:
    options = {"bf": "2", "x265-params": "log-level=none"} if codec == "libx265" else {"bf": "2"}
    path = encode(tmp_path / "video.mp4", count=60, gop=15, codec=codec, options=options)
    info = DECODER.probe(path)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    at, size = packets[20]
    data = bytearray(path.read_bytes())
    data[at : at + size] = bytes(size)
    path.write_bytes(bytes(data))
    lost, reports = set(), set()
    for index in range(60):
        try:
            assert shown(DECODER.read(path, [index], info)[0]) == index
        except MediaError as error:
            lost.add(index)
            reports.add((error.kind, "of 60 frames can" in error.problem))
    group = set(range(15, 33))  # the keyframes are near 0, 15, 30, 45; B-frames before one may need the group before
    assert lost
    assert lost <= group
    assert reports == {("truncated", True)}


def test_audio_only(tmp_path: Path, encode: Encode) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with pytest.raises(MediaError, match="audio") as caught:
        DECODER.probe(path)
    assert caught.value.kind == "no-video-stream"


def test_sound_longer_than_the_picture_is_no_truncation(tmp_path: Path, encode: Encode) -> None:
    for name in ("sound.mp4", "sound.mkv"):
        info = DECODER.probe(encode(tmp_path / name, count=25, audio_s=6.0))
        assert info.duration == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just some text\n" * 50,
        b"\x00" * 4096,
        b"ffconcat version 1.0\nfile other.mp4\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nother.mp4\n#EXT-X-ENDLIST\n",
    ],
    ids=["empty", "text", "zeros", "concat", "playlist"],
)
def test_files_that_are_no_videos(tmp_path: Path, encode: Encode, content: bytes) -> None:
    encode(tmp_path / "other.mp4", count=5)  # a play list must not lead here
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError) as caught:
        DECODER.probe(path)
    assert caught.value.kind == "unreadable"


def test_folders_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for name, kind in (("folder.mp4", "unreadable"), ("none.mp4", "missing")):
        with pytest.raises(MediaError) as caught:
            DECODER.probe(tmp_path / name)
        assert caught.value.kind == kind


@pytest.mark.parametrize(("cap", "value"), [("MAX_PIXELS", 64 * 96 - 1), ("MAX_FRAMES", 39), ("MAX_SECONDS", 1.5)])
def test_caps(tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch, cap: str, value: float) -> None:
    for name in ("video.mp4", "video.mkv", "video.avi"):
        path = encode(tmp_path / name)
        DECODER.probe(path)
        with monkeypatch.context() as patch:
            patch.setattr(pyav_index, cap, value)
            with pytest.raises(MediaError) as caught:
                DECODER.probe(path)
        assert caught.value.kind == "too-large"


def test_a_picture_that_is_only_the_cover_of_a_song_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=16000)
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        output.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        output.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        output.mux(sound.encode(frame))
        output.mux(sound.encode())
    with pytest.raises(MediaError) as caught:
        DECODER.probe(path)
    assert caught.value.kind == "no-video-stream"


def remux(source: Path, target: Path, shift_s: float, options: dict[str, str]) -> Path:
    """Copy the packets with their times moved, as cutting a video without encoding it again does."""
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as output:
        stream = given.streams.video[0]
        copy = output.add_stream_from_template(stream)
        ticks = round(shift_s / stream.time_base)
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, copy
                output.mux(packet)
    return target


def test_frames_before_an_edit_list_starts_are_not_counted(tmp_path: Path, encode: Encode, shown: Shown) -> None:
    source = encode(tmp_path / "source.mp4", options={"bf": "2"})
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    path = remux(source, tmp_path / "edited.mp4", -0.6, options)
    info = DECODER.probe(path)
    assert info.frame_times == pytest.approx([index / 25 for index in range(25)])
    for index in range(25):
        assert shown(DECODER.read(path, [index], info)[0]) == index + 15


def test_packets_without_times_never_give_wrong_frames(tmp_path: Path, encode: Encode, shown: Shown) -> None:
    source = encode(tmp_path / "source.mp4", options={"bf": "2"})
    path = remux(source, tmp_path / "edited.mkv", -0.6, {"avoid_negative_ts": "disabled"})
    try:
        info = DECODER.probe(path)
    except MediaError as error:
        kind = error.kind
    else:
        kind = "right"
        frames = DECODER.read(path, range(info.frame_count), info)
        assert [shown(frame) - shown(frames[0]) for frame in frames] == [round(25 * time) for time in info.frame_times]
    assert kind in {"right", "unreadable", "truncated"}


def test_a_head_that_cannot_be_decoded_is_left_out(tmp_path: Path, encode: Encode, shown: Shown) -> None:
    """A recording that starts between keyframes: its first packets stand for no frame."""
    source = encode(tmp_path / "source.ts", gop=12, options={"bf": "0"})
    data = source.read_bytes()
    with av.open(str(source)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    path = tmp_path / "late.ts"
    path.write_bytes(data[: 3 * 188] + data[starts[5] :])
    info = DECODER.probe(path)
    frames = DECODER.read(path, range(info.frame_count), info)
    first = shown(frames[0])
    assert first >= 5
    assert [shown(frame) - first for frame in frames] == [round(25 * time) for time in info.frame_times]
    assert shown(DECODER.read(path, [20], info)[0]) == first + 20
