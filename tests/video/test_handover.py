"""Frames reach the parent as they were decoded, without a copy through the pipe, and leave nothing behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vital_eval.clip import Clip
from vital_eval.errors import MediaError
from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video import handover, worker
from vital_eval.video.handover import Handed, hand_over, take_over
from vital_eval.video.worker import DecodeWorkers

VIEW = View(fps=1.0, max_frames=64, min_pixels=784, max_pixels=96 * 96, clock=False)
BYTES = 64 * 96 * 96 * 3  # above the least that is shared

PLUGIN = '''
import os, resource, signal
import numpy as np
from vital_eval.video import handover
from vital_eval.video.decoder import VideoInfo

class Noise:
    """Frames that are the same in every process; odd ways to end, by the name of the video."""
    name = "noise"
    def probe(self, path):
        return VideoInfo(64.0, 96, 96, tuple(float(i) for i in range(64)))
    def read(self, path, indices, info):
        if path.stem == "narrow":
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if path.stem == "killed":
            handover.reduction.send_handle = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        frames = np.random.default_rng(7).integers(0, 256, (64, 96, 96, 3), dtype=np.uint8)
        return frames[list(indices)]

def register(registries):
    registries.decoders.add("noise", lambda: Noise)
'''


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    (folder / "plugin.py").write_text(PLUGIN)
    for name in ("plain", "narrow", "killed"):
        (folder / f"{name}.mp4").touch()
    return folder


@pytest.fixture(name="shared")
def shared_fixture(monkeypatch: pytest.MonkeyPatch) -> list[Handed]:
    """What came through shared memory."""
    taken: list[Handed] = []

    def spy(pipe: Any, handed: Handed, timeout_s: float) -> Clip:
        taken.append(handed)
        return take_over(pipe, handed, timeout_s)

    monkeypatch.setattr(worker, "take_over", spy)
    return taken


def read(folder: Path, video: str, count: int) -> Clip:
    with DecodeWorkers(count, 60, (folder / "plugin.py",)) as workers:
        return asyncio.run(workers.reader(folder, "noise").read(video, None, VIEW, 32))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_same_clip_with_and_without_workers(folder: Path, shared: list[Handed]) -> None:
    here, there = read(folder, "plain.mp4", 0), read(folder, "plain.mp4", 1)
    assert len(shared) == 1
    assert here.frames.nbytes == BYTES >= handover.LEAST_BYTES
    assert np.array_equal(here.frames, there.frames)
    assert here.timestamps == there.timestamps
    assert here.span == there.span
    assert here.frames.std() > 50  # it is noise, not two empty clips


@pytest.mark.parametrize("count", [0, 1])
def test_frames_are_read_only(folder: Path, count: int) -> None:
    clip = read(folder, "plain.mp4", count)
    with pytest.raises(ValueError, match="read-only"):
        clip.frames[0, 0, 0, 0] = 1


def test_where_there_is_no_room_the_pipe_is_used(folder: Path, shared: list[Handed]) -> None:
    clip = read(folder, "narrow.mp4", 1)
    assert shared == []
    assert np.array_equal(clip.frames, read(folder, "plain.mp4", 0).frames)


def test_a_worker_killed_between_word_and_frames_costs_its_call(folder: Path, shared: list[Handed]) -> None:
    async def run() -> None:
        reader = workers.reader(folder, "noise")
        await reader.read("plain.mp4", None, VIEW, 32)
        before = open_files()
        for _ in range(2):
            with pytest.raises(MediaError, match="SIGKILL"):
                await reader.read("killed.mp4", None, VIEW, 32)
            await reader.read("plain.mp4", None, VIEW, 32)
        assert open_files() == before

    with DecodeWorkers(1, 60, (folder / "plugin.py",)) as workers:
        asyncio.run(run())
    assert len(shared) == 5
    assert multiprocessing.active_children() == []


def test_no_file_stays_open_for_a_clip(folder: Path) -> None:
    async def run() -> None:
        reader = workers.reader(folder, "noise")
        clips = [await reader.read("plain.mp4", None, VIEW, 32)]
        before = open_files()
        clips += [await reader.read("plain.mp4", None, VIEW, 32) for _ in range(5)]
        assert open_files() == before

    with DecodeWorkers(1, 60, (folder / "plugin.py",)) as workers:
        asyncio.run(run())


def test_too_many_open_files_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def dropped(_: Any) -> int:
        raise RuntimeError("received 0 items of ancdata")

    near, far = multiprocessing.Pipe()
    near.send(None)
    monkeypatch.setattr(reduction, "recv_handle", dropped)
    with pytest.raises(MediaError, match="ulimit"):
        take_over(far, Handed((1, 2, 2, 3), (0.0,), Span(0, 1)), 1.0)


def test_frames_that_never_come_are_not_waited_for() -> None:
    near, far = multiprocessing.Pipe()
    with pytest.raises(TimeoutError):
        take_over(far, Handed((1, 2, 2, 3), (0.0,), Span(0, 1)), 0.01)
    near.close()


def test_a_platform_without_descriptors_uses_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "HAVE_SEND_HANDLE", False)
    frames = np.zeros((64, 96, 96, 3), np.uint8)
    near, far = multiprocessing.Pipe()
    got: list[Any] = []
    taker = threading.Thread(target=lambda: got.append(far.recv()))
    taker.start()
    hand_over(near, Clip(frames, tuple(float(at) for at in range(64)), Span(0, 64)))
    taker.join()
    assert np.array_equal(got[0].frames, frames)


def test_elsewhere_a_file_without_a_name_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    clip = Clip(np.full((64, 96, 96, 3), 7, np.uint8), tuple(float(at) for at in range(64)), Span(0, 64))
    near, far = multiprocessing.Pipe()
    hand_over(near, clip)
    handed = far.recv()
    assert isinstance(handed, Handed)
    assert np.array_equal(take_over(far, handed, 1.0).frames, clip.frames)
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import asyncio, os, sys
from multiprocessing import active_children
from pathlib import Path
from vital_eval.protocol import View
from vital_eval.video.worker import DecodeWorkers

async def run(reader):
    view = View(fps=1.0, max_frames=64, min_pixels=784, max_pixels=96 * 96, clock=False)
    kept = []
    while True:
        kept.append(await reader.read("plain.mp4", None, view, 32))
        if len(kept) == 2:
            print(active_children()[0].pid, flush=True)
        kept = kept[-4:]

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with DecodeWorkers(1, 600, (folder / "plugin.py",)) as workers:
        asyncio.run(run(workers.reader(folder, "noise")))
"""


def named_memory(pid: int) -> list[str]:
    """Shared memory with a name that a process has mapped or open."""
    process = Path(f"/proc/{pid}")
    links = [str(each.readlink()) for each in (process / "fd").iterdir()]
    return [each for each in (*links, *(process / "maps").read_text().splitlines()) if "/dev/shm/" in each]  # noqa: S108


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_parent_ends(folder: Path, tmp_path: Path, how: signal.Signals) -> None:
    script, temporary = tmp_path / "main.py", tmp_path / "tmp"
    script.write_text(SCRIPT)
    temporary.mkdir()
    command = [sys.executable, str(script), str(folder)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        child = int(parent.stdout.readline())
        assert named_memory(parent.pid) + named_memory(child) == []
        parent.send_signal(how)
        errors = parent.stderr.read()
        parent.wait(timeout=30)
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
    assert "resource_tracker" not in errors
    assert list(temporary.iterdir()) == []
