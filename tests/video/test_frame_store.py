"""The frame store gives back exactly what was decoded, notices damage, keeps to its size, and never fails a sample."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vital_eval.clip import Clip
from vital_eval.errors import MediaError, VitalError
from vital_eval.protocol import View
from vital_eval.registry import Registries
from vital_eval.span import Span
from vital_eval.video import content_hash, frame_store, video_reader
from vital_eval.video.content_hash import ContentHashes
from vital_eval.video.decoder import VideoInfo
from vital_eval.video.frame_store import Entry, FrameStore, StoreSettings, StoreUse
from vital_eval.video.pyav_decoder import PyAVDecoder
from vital_eval.video.source import ClipSource
from vital_eval.video.video_reader import Store, VideoReader, recipe_of
from vital_eval.video.worker import DecodeWorkers

Encode = Callable[..., Path]
VIEW = View(fps=2.0, max_frames=8, min_pixels=28 * 28, max_pixels=64 * 128, clock=True)
GIB = 2**30
SPAN = Span(0.1, 1.3)


class Counting(PyAVDecoder):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def probe(self, path: Path) -> VideoInfo:
        """Count."""
        self.calls.append("probe")
        return super().probe(path)

    def read(self, path: Path, indices: Sequence[int], info: VideoInfo) -> NDArray[np.uint8]:
        """Count."""
        self.calls.append("read")
        return super().read(path, indices, info)

    def read_resized(
        self, path: Path, indices: Sequence[int], info: VideoInfo, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Count."""
        self.calls.append("read")
        return super().read_resized(path, indices, info, size)


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: Path, encode: Encode) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    encode(folder / "v.mp4", count=50)
    return folder


def open_reader(folder: Path, told: list[str] | None = None, size: int = GIB) -> tuple[VideoReader, Counting, Store]:
    """A reader as a fresh process has it."""
    told = [] if told is None else told
    store = Store(StoreSettings(folder.parent / "store", size), told.append)
    decoder = Counting()
    return VideoReader(folder, decoder, store), decoder, store


def entries(folder: Path) -> list[Path]:
    return sorted((folder.parent / "store").glob("??/*.frames"))


def assert_equal(one: Clip, other: Clip) -> None:
    assert one.frames.dtype == other.frames.dtype == np.uint8
    assert np.array_equal(one.frames, other.frames)
    assert one.timestamps == other.timestamps
    assert one.span == other.span


def key(number: int) -> str:
    return f"{number:064x}"


def noise(number: int, size: int = 10_000) -> Entry:
    return Entry({"n": number}, np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8))


@pytest.mark.parametrize("span", [None, SPAN])
def test_what_is_kept_is_what_was_decoded(folder: Path, span: Span | None) -> None:
    plain = ClipSource(folder, PyAVDecoder())
    expected, info = plain.read("v.mp4", span, VIEW, 32), plain.probe("v.mp4")
    for again in (False, True):
        reader, decoder, store = open_reader(folder)
        assert_equal(reader.read("v.mp4", span, VIEW, 32), expected)
        extent = reader.extent("v.mp4")
        assert (extent.duration, extent.last_frame) == (info.duration, info.frame_times[-1])
        assert reader.weigh("v.mp4", VIEW, 32) == plain.read("v.mp4", None, VIEW, 32).frames.nbytes
        store.close()
        assert ("read" not in decoder.calls) == again
        assert (decoder.calls == []) == again


def test_everything_that_moves_a_pixel_is_another_key(folder: Path, encode: Encode) -> None:
    views = [
        VIEW,
        *(dataclasses.replace(VIEW, **change) for change in ({"fps": 4.0}, {"max_frames": 4}, {"clock": False})),
    ]
    reads = [("v.mp4", span, view, factor) for span in (None, SPAN) for view in views for factor in (28, 32)]
    for _ in range(2):
        reader, decoder, store = open_reader(folder)
        for read in reads:
            assert_equal(reader.read(*read), ClipSource(folder, PyAVDecoder()).read(*read))
        store.close()
    assert decoder.calls == []
    assert len(entries(folder)) == len(reads)
    shutil.copy(folder / "v.mp4", folder / "copy.mp4")  # the same content: nothing to decode
    encode(folder / "v.mp4", count=40, height=96)  # the same name: everything to decode
    reader, decoder, store = open_reader(folder)
    reader.read("copy.mp4", None, VIEW, 32)
    assert decoder.calls == []
    assert_equal(reader.read("v.mp4", None, VIEW, 32), ClipSource(folder, PyAVDecoder()).read("v.mp4", None, VIEW, 32))
    assert "read" in decoder.calls
    store.close()


def test_a_change_of_same_size_and_time_is_noticed(folder: Path, encode: Encode, tmp_path: Path) -> None:
    video = folder / "v.mp4"
    hashes = ContentHashes(tmp_path / "hashes")
    before, stat = hashes.of(video), video.stat()
    data = bytearray(video.read_bytes())
    data[-1] ^= 1
    video.write_bytes(data)
    os.utime(video, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert video.stat().st_mtime_ns == stat.st_mtime_ns
    assert hashes.of(video) != before


def test_a_hash_is_computed_once_and_remembered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(content_hash, "_SETTLED_SECONDS", -1.0)
    first = ContentHashes(tmp_path / "hashes").of(folder / "v.mp4")
    monkeypatch.setattr(content_hash.hashlib, "file_digest", None)  # reading again would fail
    assert ContentHashes(tmp_path / "hashes").of(folder / "v.mp4") == first
    (note,) = (tmp_path / "hashes").glob("*/*.json")
    note.write_text("{")
    with pytest.raises(TypeError):
        ContentHashes(tmp_path / "hashes").of(folder / "v.mp4")


def test_a_file_that_has_just_changed_is_not_remembered_on_disk(folder: Path, tmp_path: Path) -> None:
    (folder / "v.mp4").touch()
    ContentHashes(tmp_path / "hashes").of(folder / "v.mp4")
    assert not (tmp_path / "hashes").exists()


def test_the_recipe_knows_code_and_versions() -> None:
    recipe, other = recipe_of(PyAVDecoder()), recipe_of(Counting())
    assert recipe is not None
    assert other is not None
    assert recipe["decoder"] == "pyav"
    assert recipe["packages"].keys() >= {"av", "numpy", "pillow"}
    assert recipe == recipe_of(PyAVDecoder())
    assert recipe["code"] != other["code"]  # a part of it is in this file


PLUGIN = """
from vital_eval.video.pyav_decoder import PyAVDecoder

class Mine(PyAVDecoder):
    name = "mine"
    def probe(self, path):
        return super().probe(path)

def register(registries):
    registries.decoders.add("mine", lambda: Mine)
"""


def test_a_plugin_decoder_is_known_by_its_file(folder: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    codes = []
    for text in (PLUGIN, PLUGIN, PLUGIN + "# changed"):
        plugin.write_text(text)
        recipe = recipe_of(Registries((plugin,)).decoders.load("mine")())
        assert recipe is not None
        codes.append(recipe["code"])
    assert codes[0] == codes[1] != codes[2]
    with DecodeWorkers(1, 120, (plugin,), StoreSettings(folder.parent / "store", GIB)) as workers:
        asyncio.run(workers.reader(folder, "mine").read("v.mp4", None, VIEW, 32))
    assert len(entries(folder)) == 1


def test_frames_of_a_decoder_whose_code_cannot_be_read_are_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_reader, "_files_of", lambda _: ())
    reader, decoder, store = open_reader(folder)
    assert_equal(reader.read("v.mp4", None, VIEW, 32), ClipSource(folder, PyAVDecoder()).read("v.mp4", None, VIEW, 32))
    store.close()
    assert "read" in decoder.calls
    assert entries(folder) == []


@pytest.mark.parametrize("damage", ["head", "facts", "frames", "shorter", "longer", "empty", "swapped"])
def test_damage_is_noticed_and_mended(folder: Path, damage: str) -> None:
    reader, _, store = open_reader(folder)
    expected = reader.read("v.mp4", None, VIEW, 32)
    reader.read("v.mp4", SPAN, VIEW, 32)
    store.close()
    for path in entries(folder):
        data = bytearray(path.read_bytes())
        match damage:
            case "head":
                data[3] ^= 1
            case "facts":
                data[40] ^= 1
            case "frames":
                data[-1] ^= 1
            case "shorter":
                del data[-1]
            case "longer":
                data += b"0"
            case "empty":
                data = bytearray()
        path.write_bytes(data)
    if damage == "swapped":
        one, other = entries(folder)
        one.rename(one.with_suffix(".x"))
        other.rename(one)
        one.with_suffix(".x").rename(other)
    told: list[str] = []
    reader, decoder, store = open_reader(folder, told)
    assert_equal(reader.read("v.mp4", None, VIEW, 32), expected)
    store.close()
    assert "read" in decoder.calls
    assert len(told) == 1
    assert "damaged" in told[0]
    reader, decoder, store = open_reader(folder, told)
    assert_equal(reader.read("v.mp4", None, VIEW, 32), expected)
    store.close()
    assert decoder.calls == []


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*") if path.is_file())


def test_the_size_is_kept_and_what_was_used_last_stays(tmp_path: Path) -> None:
    store = FrameStore(StoreSettings(tmp_path, 5 * 16_384), pytest.fail)
    for number in range(12):
        assert store.put(key(number), noise(number))
        os.utime(store._path(key(number)), ns=(number * 10**9, number * 10**9))
        if number == 6:
            assert store.get(key(2)) is not None  # used now: later than all the others
        assert total(tmp_path) <= 5 * 16_384
    kept = [number for number in range(12) if store.get(key(number)) is not None]
    assert kept == [2, 8, 9, 10, 11]
    assert not store.put(key(99), noise(99, 6 * 16_384))  # larger than the store: not kept, nothing lost for it
    assert store.get(key(11)) is not None


def test_nothing_else_in_the_folder_is_touched(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    mine = [tmp_path / "notes.txt", tmp_path / "ab" / "thesis.frames"]
    for path in mine:
        path.write_bytes(bytes(10**6))
        os.utime(path, (0, 0))
    store = FrameStore(StoreSettings(tmp_path, 20_000), pytest.fail)
    for number in range(5):
        store.put(key(number), noise(number))
    assert all(path.exists() for path in mine)


def test_an_entry_that_is_being_read_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FrameStore(StoreSettings(tmp_path, 20_000), pytest.fail)
    store.put(key(1), noise(1))
    read = frame_store._read

    def slow(descriptor: int, name: str) -> Entry:
        assert store.put(key(2), noise(2))
        assert not store._path(key(1)).exists()
        return read(descriptor, name)

    monkeypatch.setattr(frame_store, "_read", slow)
    entry = store.get(key(1))
    assert entry is not None
    assert np.array_equal(entry.array, noise(1).array)


def test_a_store_that_cannot_be_written_or_read_is_told_and_costs_nothing(folder: Path) -> None:
    (folder.parent / "store").write_text("a file is in the way")
    told: list[str] = []
    reader, _, store = open_reader(folder, told)
    expected = ClipSource(folder, PyAVDecoder()).read("v.mp4", None, VIEW, 32)
    assert_equal(reader.read("v.mp4", None, VIEW, 32), expected)
    store.close()
    assert told
    assert all("frame store" in line for line in told)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, head: bytes, array: object) -> None:
        path.write_bytes(head[:10])
        raise OSError(28, "No space left on device")

    told: list[str] = []
    store = FrameStore(StoreSettings(tmp_path, GIB), told.append)
    monkeypatch.setattr(frame_store, "_write", full)
    assert not store.put(key(1), noise(1))
    assert len(told) == 1
    assert "No space left" in told[0]
    assert total(tmp_path) == 0
    assert store.get(key(1)) is None


def test_a_smaller_size_than_last_time_is_kept_too(folder: Path) -> None:
    reader, _, store = open_reader(folder)
    for factor in (28, 32):
        reader.read("v.mp4", None, VIEW, factor)
    store.close()
    sizes = [path.stat().st_size for path in entries(folder)]
    open_reader(folder)
    assert [path.stat().st_size for path in entries(folder)] == sizes
    open_reader(folder, size=sum(sizes) - 1)
    assert 0 < len(entries(folder)) < len(sizes)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_store_was_good_for_is_counted(folder: Path, workers: int) -> None:
    settings = StoreSettings(folder.parent / "store", GIB)

    async def run(used: DecodeWorkers) -> None:
        reader = used.reader(folder, "pyav")
        await asyncio.gather(*(reader.read("v.mp4", span, VIEW, 32) for span in (None, SPAN)))
        with pytest.raises(MediaError):
            await reader.read("missing.mp4", None, VIEW, 32)

    for expected in (StoreUse(taken=0, decoded=2), StoreUse(taken=2, decoded=0)):
        with DecodeWorkers(workers, 60, store=settings) as used:
            asyncio.run(run(used))
        assert used.store_use == expected


def test_the_same_trouble_is_told_once_by_all_workers(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = folder.parent / "store"
    store.write_text("a file is in the way")
    expected = ClipSource(folder, PyAVDecoder()).read("v.mp4", None, VIEW, 32)

    async def run() -> None:
        reader = workers.reader(folder, "pyav")
        for _ in range(2):
            clips = await asyncio.gather(*(reader.read("v.mp4", None, VIEW, 32) for _ in range(4)))
            assert_equal(clips[0], expected)

    with DecodeWorkers(2, 60, store=StoreSettings(store, GIB)) as workers:
        asyncio.run(run())
    assert 1 <= len(caplog.messages) <= 2  # not read, and not written
    assert len(set(caplog.messages)) == len(caplog.messages)


def test_workers_finish_writing_when_they_are_closed(folder: Path) -> None:
    expected = ClipSource(folder, PyAVDecoder()).read("v.mp4", None, VIEW, 32)
    settings = StoreSettings(folder.parent / "store", GIB)
    with DecodeWorkers(1, 60, store=settings) as workers:
        assert_equal(asyncio.run(workers.reader(folder, "pyav").read("v.mp4", None, VIEW, 32)), expected)
    (path,) = entries(folder)
    entry = FrameStore(settings, pytest.fail).get(path.stem)
    assert entry is not None
    assert np.array_equal(entry.array, expected.frames)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from vital_eval.video.frame_store import Entry, FrameStore, StoreSettings

store = FrameStore(StoreSettings(Path(sys.argv[1]), int(sys.argv[2])), sys.exit)
print("ready", flush=True)
for turn in range(int(sys.argv[3])):
    number = turn % 7
    array = np.random.default_rng(number).integers(0, 256, 300_000, dtype=np.uint8)
    store.put(f"{number:064x}", Entry({"n": number}, array))
    entry = store.get(f"{number:064x}")
    if entry is not None and not np.array_equal(entry.array, array):
        sys.exit("wrong frames")
"""


def start_writer(folder: Path, size: int, turns: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(size), str(turns)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_write_and_evict_the_same_keys(tmp_path: Path) -> None:
    size = 4 * 310_000  # room for four of the seven
    writers = [start_writer(tmp_path, size, 60) for _ in range(2)]
    largest = 0
    while any(writer.poll() is None for writer in writers):
        largest = max(largest, size_of(tmp_path))
        time.sleep(0.005)
    for writer in writers:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    assert 0 < largest <= size
    assert not list(tmp_path.glob("??/.*"))


def size_of(folder: Path) -> int:
    """Return how large a store is at one moment, while others write to it."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(path.stat().st_size for path in folder.glob("??/*"))


def test_an_entry_gets_its_name_while_nobody_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FrameStore(StoreSettings(tmp_path, GIB), pytest.fail)
    write, written, counting = frame_store._write, threading.Event(), threading.Event()

    def write_when_counting(*args: Any) -> None:
        counting.wait(10)
        write(*args)
        written.set()

    monkeypatch.setattr(frame_store, "_write", write_when_counting)
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(store.put, key(0), Entry({}, np.zeros(10, dtype=np.uint8)))
        while not list(tmp_path.glob("??/.*")):
            time.sleep(0.001)
        with (tmp_path / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            counting.set()
            assert written.wait(10)
            time.sleep(0.1)
            assert [path.suffix for path in tmp_path.glob("??/*")] == [".tmp"]
        assert put.result(10)
    assert [path.suffix for path in tmp_path.glob("??/*")] == [".frames"]


def test_a_writer_killed_at_any_moment_leaves_a_usable_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in (0.0, 0.01, 0.03):
        writer = start_writer(tmp_path, GIB, 10**6)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(wait)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    (tmp_path / "00").mkdir(exist_ok=True)
    left = tmp_path / "00" / f".{key(5)}.1-aa.tmp"  # as a kill in the middle leaves it
    left.write_bytes(bytes(1000))
    store = FrameStore(StoreSettings(tmp_path, GIB), pytest.fail)
    for number in range(7):
        array = np.random.default_rng(number).integers(0, 256, 300_000, dtype=np.uint8)
        entry = store.get(key(number))
        assert entry is None or np.array_equal(entry.array, array)
        assert store.put(key(number), Entry({"n": number}, array))
        assert store.get(key(number)) is not None
    assert left.exists()  # perhaps still being written
    monkeypatch.setattr(frame_store, "_ABANDONED_SECONDS", -1.0)
    assert store.put(key(8), noise(8))
    assert not list(tmp_path.glob("??/.*"))


def test_an_impossible_store_is_refused() -> None:
    with pytest.raises(VitalError, match="0 bytes"):
        StoreSettings(Path("x"), 0)
