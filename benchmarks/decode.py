"""Frames of a question, read by this project's decoder and by its peers side by side, on the same videos.

For every row (codec, length, frames, size) all readers return the same RGB frames, resized with the same Pillow
filter. They take turns in one process, and medians over the repeats are printed as peer / ours: 2.0 means that the
peer needs twice as long. CPU seconds of all threads stand beside wall-clock seconds; on a machine that is busy with
other things only they can be relied on. A reader is exact in a row if the number painted into each frame is that of
the frame asked for. Whether its pixels are also PyAV's, bit for bit, is printed, too. Only exact readers are compared
with.

Whole-video rows start cold: opening the file and building the index counts for everyone. Clips are read from an
opened and indexed video, as in an episode, whose first view has opened it.

Run ``python benchmarks/decode.py`` for everything (an hour on two idle cores), ``--quick`` for a part of it in less
than a minute, ``--rows h264`` or ``--rows clip`` for the rows whose names hold a word, ``--folder`` to keep the videos.
Peers that are not installed are named and left out: ``pip install decord opencv-python-headless torchcodec
qwen-vl-utils`` (torchcodec needs FFmpeg's shared libraries, see docs/decoding.md).
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from decode_videos import CODECS, HEIGHT, RATE, WIDTH, Codec, Video, painted, write_video
from numpy.typing import NDArray

from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video.decoder import VideoInfo
from vital_eval.video.pyav_decoder import PyAVDecoder
from vital_eval.video.resize import resize_frames, target_size
from vital_eval.video.sampling import choose_frames

Frames = NDArray[np.uint8]
THREADS = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work.

    Attributes:
        name: as printed, without the codec.
        groups: length of the video in groups of ten seconds.
        span: seconds that are looked at; ``None`` is everything.
        fps: frames a second.
        most: at most so many frames.
        side: a frame has at most ``side * side`` pixels.
        target: peer / ours that is aimed at.
    """

    name: str
    groups: int
    span: Span | None
    fps: float
    most: int
    side: int
    target: float

    def indices(self, info: VideoInfo) -> tuple[int, ...]:
        """Return the frames to read."""
        return choose_frames(info.frame_times, self.span, self.view)

    @property
    def view(self) -> View:
        """How frames are chosen and sized."""
        return View(self.fps, self.most, 28 * 28, self.side * self.side, clock=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is returned."""
        return target_size(HEIGHT, WIDTH, self.view, 28)


ROWS = (
    Row("30 s, 2 fps at 384", 3, None, 2.0, 256, 384, 1.0),
    Row("10 min, 256 at 384", 60, None, 2.0, 256, 384, 1.0),
    Row("10 min, 1024 at 224", 60, None, 99.0, 1024, 224, 1.0),
    Row("60 min, 256 at 384", 360, None, 2.0, 256, 384, 1.25),
    Row("60 min, 1024 at 224", 360, None, 99.0, 1024, 224, 1.25),
    Row("clip of 10 s in 60 min, 64 at 384", 360, Span(1623.2, 1633.2), 6.4, 64, 384, 1.5),
)
QUICK_ROWS = (
    ROWS[0],
    Row("10 min, 16 at 384", 60, None, 2.0, 16, 384, 1.25),
    Row("clip of 10 s in 10 min, 64 at 384", 60, Span(203.2, 213.2), 6.4, 64, 384, 1.5),
)


class Reader(Protocol):
    """Ours or a peer."""

    name: str

    def open(self, path: Path) -> Any:
        """Open a video and learn what reading by frame number needs."""

    def read(self, opened: Any, indices: Sequence[int]) -> tuple[Frames | Sequence[Frames], Sequence[int]]:
        """Return RGB frames at full size, and the numbers of the frames that the reader says they are."""


class Ours:
    """The project's default decoder, from the path to the frames as a model sees them."""

    name = "ours"

    def __init__(self) -> None:
        self._decoder = PyAVDecoder(THREADS)

    def open(self, path: Path) -> tuple[Path, VideoInfo]:
        """Open a video."""
        return path, self._decoder.probe(path)

    def read_resized(self, opened: tuple[Path, VideoInfo], indices: Sequence[int], size: tuple[int, int]) -> Frames:
        """Return frames of the wanted size."""
        return self._decoder.read_resized(opened[0], indices, opened[1], size)


class PyAVScan:
    """PyAV as documented, threads on: decode from the keyframe before the first frame, keep what is wanted."""

    name = "PyAV scan"

    def open(self, path: Path) -> Path:
        """Open a video."""
        return path

    def read(self, opened: Path, indices: Sequence[int]) -> tuple[list[Frames], Sequence[int]]:
        """Return frames and the numbers they are said to have."""
        frames: list[Frames] = []
        with av.open(str(opened)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            stamps = [round(index / RATE / stream.time_base) for index in indices]
            if indices[0]:
                container.seek(stamps[0], stream=stream)
            for frame in container.decode(stream):
                if abs(frame.time - indices[len(frames)] / RATE) < 0.5 / RATE:
                    frames.append(frame.to_ndarray(format="rgb24"))
                    if len(frames) == len(indices):
                        break
        return frames, indices


class PyAVSeek:
    """PyAV, one seek for each frame."""

    name = "PyAV seek"

    def open(self, path: Path) -> Path:
        """Open a video."""
        return path

    def read(self, opened: Path, indices: Sequence[int]) -> tuple[list[Frames], Sequence[int]]:
        """Return frames and the numbers they are said to have."""
        frames: list[Frames] = []
        with av.open(str(opened)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for index in indices:
                container.seek(round(index / RATE / stream.time_base), stream=stream)
                found = next(frame for frame in container.decode(stream) if frame.time > (index - 0.5) / RATE)
                frames.append(found.to_ndarray(format="rgb24"))
        return frames, indices


class Decord:
    """decord's VideoReader and get_batch."""

    name = "decord"

    def __init__(self) -> None:
        self._decord = importlib.import_module("decord")
        self._decord.logging.set_level(self._decord.logging.FATAL)

    def open(self, path: Path) -> Any:
        """Open a video."""
        try:
            return self._decord.VideoReader(str(path), ctx=self._decord.cpu(0), num_threads=THREADS)
        except self._decord.DECORDError as error:
            raise RuntimeError(str(error)) from error

    def read(self, opened: Any, indices: Sequence[int]) -> tuple[Frames, Sequence[int]]:
        """Return frames and the numbers they are said to have."""
        return opened.get_batch(list(indices)).asnumpy(), indices


class TorchCodec:
    """torchcodec's VideoDecoder in exact mode."""

    name = "torchcodec"

    def __init__(self) -> None:
        self._decoders = importlib.import_module("torchcodec.decoders")

    def open(self, path: Path) -> Any:
        """Open a video."""
        return self._decoders.VideoDecoder(
            str(path), dimension_order="NHWC", num_ffmpeg_threads=THREADS, seek_mode="exact"
        )

    def read(self, opened: Any, indices: Sequence[int]) -> tuple[Frames, Sequence[int]]:
        """Return frames and the numbers they are said to have."""
        return opened.get_frames_at(list(indices)).data.numpy(), indices


class OpenCVGrab:
    """OpenCV: seek to the first frame, grab on, retrieve only what is wanted."""

    name = "OpenCV grab"

    def __init__(self) -> None:
        self._cv2 = importlib.import_module("cv2")

    def open(self, path: Path) -> Any:
        """Open a video."""
        return self._cv2.VideoCapture(str(path), self._cv2.CAP_FFMPEG)

    def read(self, opened: Any, indices: Sequence[int]) -> tuple[list[Frames], Sequence[int]]:
        """Return frames and the numbers they are said to have."""
        frames: list[Frames] = []
        opened.set(self._cv2.CAP_PROP_POS_FRAMES, indices[0])
        at = indices[0]
        for index in indices:
            for _ in range(index - at):
                opened.grab()
            at = index + 1
            frames.append(self._retrieve(opened))
        return frames, indices

    def _retrieve(self, opened: Any) -> Frames:
        found, frame = opened.read()
        if not found:
            raise RuntimeError("no frame")
        return self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)


class OpenCVSeek(OpenCVGrab):
    """OpenCV, one seek for each frame."""

    name = "OpenCV seek"

    def read(self, opened: Any, indices: Sequence[int]) -> tuple[list[Frames], Sequence[int]]:
        """Return frames and the numbers they are said to have."""
        frames: list[Frames] = []
        for index in indices:
            opened.set(self._cv2.CAP_PROP_POS_FRAMES, index)
            frames.append(self._retrieve(opened))
        return frames, indices


class QwenVLUtils:
    """qwen-vl-utils' own reader; it opens the file each time and chooses its own, equally many frames."""

    name = "qwen-vl-utils"

    def __init__(self) -> None:
        os.environ["TORCHCODEC_NUM_THREADS"] = str(THREADS)
        try:
            importlib.import_module("torchvision")
        except ImportError:  # its readers do not use it, only the module that holds them imports it
            stub = types.ModuleType("torchvision")
            stub.io, stub.transforms = types.ModuleType("io"), types.ModuleType("torchvision.transforms")  # type: ignore[attr-defined]
            stub.transforms.InterpolationMode = None
            sys.modules.update({"torchvision": stub, "torchvision.transforms": stub.transforms})
        module: Any = importlib.import_module("qwen_vl_utils.vision_process")
        backend = "decord"
        try:
            importlib.import_module("torchcodec.decoders")
            backend = "torchcodec"
        except (ImportError, OSError, RuntimeError):
            importlib.import_module("decord")
        self._read: Callable[[dict[str, Any]], Any] = module.VIDEO_READER_BACKENDS[backend]
        self.name = f"qwen-vl-utils ({backend})"

    def open(self, path: Path) -> Path:
        """Open a video."""
        return path

    def read(self, opened: Path, indices: Sequence[int]) -> tuple[Frames, Sequence[int]]:
        """Return frames and the numbers they are said to have."""
        request = {"video": str(opened), "nframes": len(indices) // 2 * 2}
        if indices[0]:
            request |= {"video_start": indices[0] / RATE, "video_end": indices[-1] / RATE}
        video, facts, _ = self._read(request)
        return video.permute(0, 2, 3, 1).numpy(), facts["frames_indices"]


PEERS: tuple[type[Any], ...] = (PyAVScan, PyAVSeek, Decord, TorchCodec, OpenCVGrab, OpenCVSeek, QwenVLUtils)


@dataclass(frozen=True, slots=True)
class Measured:
    """One reading."""

    wall: float
    cpu: float
    exact: bool
    frames: Frames


def measure(reader: Any, video: Video, row: Row, indices: Sequence[int]) -> Measured:
    """Read the frames of a row once.

    Args:
        reader: ours or a peer.
        video: what is read.
        row: the work.
        indices: frames wanted.
    """
    opened = reader.open(video.path) if row.span else None
    wall, cpu = time.perf_counter(), time.process_time()
    opened = opened or reader.open(video.path)
    if isinstance(reader, Ours):
        frames, said = reader.read_resized(opened, indices, row.size), indices
    else:
        given, said = reader.read(opened, indices)
        frames = np.concatenate([resize_frames(frame[None], row.size) for frame in given])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    exact = painted(frames) == [video.numbers[index] for index in said] and len(frames) >= len(indices) - 1
    return Measured(wall, cpu, exact, frames)


def compare(codec: Codec, row: Row, readers: Sequence[Any], video: Video, repeats: int) -> float | None:
    """Measure one row and print it.

    Returns:
        Wall-clock seconds of the best exact peer over ours.
    """
    decoder = PyAVDecoder(THREADS)
    info = decoder.probe(video.path)
    indices = row.indices(info)
    results: dict[str, list[Measured]] = {reader.name: [] for reader in readers}
    for _ in range(repeats):
        for reader in readers:
            if reader.name not in results:
                continue
            try:
                results[reader.name].append(measure(reader, video, row, indices))
            except (RuntimeError, ValueError) as error:
                print(f"  {reader.name} fails: {str(error).strip().splitlines()[-1][:90]}", flush=True)
                del results[reader.name]
    ours = results["ours"]
    wall, cpu = (statistics.median(getattr(one, key) for one in ours) for key in ("wall", "cpu"))
    print(f"\n{codec.name}, {row.name} ({len(indices)} frames): ours {wall:.2f} s, CPU {cpu:.2f} s", flush=True)
    if not all(one.exact for one in ours):
        raise SystemExit("ours returned a wrong frame")
    best: dict[str, tuple[float, str]] = {}
    for name, given in results.items():
        if name == "ours":
            continue
        walls = [peer.wall / own.wall for peer, own in zip(given, ours, strict=True)]
        cpus = [peer.cpu / own.cpu for peer, own in zip(given, ours, strict=True)]
        exact = all(one.exact for one in given)
        same = exact and np.array_equal(given[0].frames, ours[0].frames)
        verdict = "exact, bit-equal" if same else "exact" if exact else "WRONG FRAMES"
        print(
            f"  {name:28s} wall x{statistics.median(walls):5.2f} ({min(walls):.2f} to {max(walls):.2f})"
            f"   CPU x{statistics.median(cpus):5.2f} ({min(cpus):.2f} to {max(cpus):.2f})   {verdict}",
            flush=True,
        )
        if exact:
            for key, ratios in (("wall", walls), ("cpu", cpus)):
                best[key] = min(best.get(key, (float("inf"), "")), (statistics.median(ratios), name))
    for key, (ratio, name) in best.items():
        print(f"  best exact peer by {key}: {name}, x{ratio:.2f} (aim {row.target:g})", flush=True)
    return best["wall"][0] if best else None


def available(words: Sequence[str]) -> list[Any]:
    """Return the peers that load, and name those that do not."""
    readers: list[Any] = []
    for peer in PEERS:
        if words and not any(word.lower() in peer.__name__.lower() for word in words):
            continue
        try:
            readers.append(peer())
        except (ImportError, OSError, RuntimeError) as error:
            print(f"left out: {peer.__name__} does not load ({str(error).strip().splitlines()[0][:80]})")
    return readers


def main() -> None:
    """Write the videos, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short videos and few frames")
    parser.add_argument("--rows", nargs="*", default=[], help="words; only rows that hold all of them")
    parser.add_argument("--peers", nargs="*", default=[], help="words; peers that hold none of them are left out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where videos are kept for the next time")
    given = parser.parse_args()
    rows = QUICK_ROWS if given.quick else ROWS
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        readers = [Ours(), *available(given.peers)]
        for codec in CODECS[:1] if given.quick and not given.rows else CODECS:
            for row in rows:
                if not given.rows or all(word in f"{codec.name}, {row.name}" for word in given.rows):
                    compare(codec, row, readers, write_video(folder, codec, row.groups), given.repeats)


if __name__ == "__main__":
    main()
