"""A video that hangs or kills its decoder costs its own sample; no process is left behind."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vital_eval.errors import MediaError, MissingExtraError, UnknownNameError
from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video.pyav_decoder import PyAVDecoder
from vital_eval.video.source import ClipSource
from vital_eval.video.video_reader import Extent
from vital_eval.video.worker import ClipReader, DecodeWorkers, Ticket

Encode = Callable[..., Path]
VIEW = View(fps=2.0, max_frames=8, min_pixels=28 * 28, max_pixels=64 * 128, clock=True)

PLUGIN = '''
import json, os, resource, signal, sys, time
import numpy as np
from vital_eval.errors import MediaError, MissingExtraError
from vital_eval.video.pyav_decoder import PyAVDecoder

class Odd(PyAVDecoder):
    """Does what the name of the video says."""
    name = "odd"
    def probe(self, path):
        match path.stem:
            case "hang": time.sleep(600)
            case "slow": time.sleep(0.5); raise MediaError("unreadable", "slow")
            case "segfault": os.kill(os.getpid(), signal.SIGSEGV)
            case "leave": os._exit(7)
            case "bug": raise ZeroDivisionError("a bug in a decoder")
            case "hungry": np.empty(9 * 1024**3, np.uint8)
            case "modules": raise MediaError("unreadable", json.dumps(sorted(sys.modules)))
            case "pid": raise MediaError("unreadable", json.dumps([os.getpid()]))
        return super().probe(path)

class Absent:
    def __init__(self):
        raise MissingExtraError("the decoder absent is not installed", "install it")

def register(registries):
    registries.decoders.add("odd", lambda: Odd)
    registries.decoders.add("absent", lambda: Absent)
'''
ODD = ("hang", "slow", "segfault", "leave", "bug", "hungry", "modules", "pid")


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "plugin.py").write_text(PLUGIN)
    for name in ODD:
        (folder / f"{name}.mp4").touch()
    return folder


@pytest.fixture(name="good", scope="module")
def good_fixture(folder: Path, encode_module: Encode) -> str:
    encode_module(folder / "good.mp4", count=50)
    return "good.mp4"


@pytest.fixture(name="reader")
def reader_fixture(folder: Path, good: str) -> Iterator[ClipReader]:
    with DecodeWorkers(1, timeout_s=60, plugins=(folder / "plugin.py",)) as workers:
        yield workers.reader(folder, "odd")


async def kind_of(reader: ClipReader, video: str) -> str:
    with pytest.raises(MediaError) as caught:
        await reader.extent(video)
    return caught.value.kind


async def told(reader: ClipReader, video: str) -> list[str]:
    with pytest.raises(MediaError) as caught:
        await reader.extent(video)
    answer: list[str] = json.loads(caught.value.problem)
    return answer


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def gone(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not is_alive(pid)


@pytest.mark.parametrize("count", [0, 2])
def test_what_comes_back_is_what_the_source_reads(folder: Path, good: str, count: int) -> None:
    async def read_all() -> None:
        clips = await asyncio.gather(*(reader.read(good, Span(0.0, 1.0), VIEW, 32) for _ in range(5)))
        for clip in clips:
            assert np.array_equal(clip.frames, expected.frames)
            assert clip.timestamps == expected.timestamps
            assert clip.span == expected.span
        info = source.probe(good)
        assert await reader.extent(good) == Extent(info.duration, info.frame_times[-1])
        assert await reader.weigh(good, VIEW, 32) == source.read(good, None, VIEW, 32).frames.nbytes
        assert await kind_of(reader, "none.mp4") == "missing"
        assert await kind_of(reader, "../none.mp4") == "outside-root"

    source = ClipSource(folder, PyAVDecoder())
    expected = source.read(good, Span(0.0, 1.0), VIEW, 32)
    with DecodeWorkers(count, timeout_s=60) as workers:
        reader = workers.reader(folder, "pyav")
        asyncio.run(read_all())
    assert multiprocessing.active_children() == []


def test_crashes_cost_their_own_sample(reader: ClipReader, good: str, capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        for video in ("segfault.mp4", "leave.mp4", "bug.mp4", "hungry.mp4"):
            assert await kind_of(reader, video) == "decoder-crashed"
            assert (await reader.extent(good)).duration == 2.0

    asyncio.run(run())
    errors = capfd.readouterr().err
    assert "a bug in a decoder" in errors  # a bug is counted, and seen
    assert "MemoryError" in errors or "Unable to allocate" in errors


def test_how_a_crash_is_told(reader: ClipReader) -> None:
    for video, words in (("segfault.mp4", "signal SIGSEGV"), ("leave.mp4", "exit status 7")):
        with pytest.raises(MediaError, match=words):
            asyncio.run(reader.extent(video))


def test_a_hanging_video_times_out_and_the_loop_goes_on(folder: Path, good: str) -> None:
    async def run() -> None:
        await reader.extent(good)  # started
        begin = time.monotonic()
        hanging = asyncio.create_task(kind_of(reader, "hang.mp4"))
        ticks = 0
        while not hanging.done():
            await asyncio.sleep(0.02)
            ticks += 1
        assert await hanging == "timeout"
        assert 1.4 <= time.monotonic() - begin < 15
        assert ticks > 5
        assert (await reader.extent(good)).duration == 2.0

    with DecodeWorkers(1, timeout_s=1.5, plugins=(folder / "plugin.py",)) as workers:
        reader = workers.reader(folder, "odd")
        asyncio.run(run())


def test_a_worker_killed_while_idle_is_replaced_without_loss(reader: ClipReader, good: str) -> None:
    async def run() -> None:
        (pid,) = await told(reader, "pid.mp4")
        os.kill(int(pid), signal.SIGKILL)
        assert (await reader.extent(good)).duration == 2.0
        assert await told(reader, "pid.mp4") != [pid]

    asyncio.run(run())


def test_children_leave_ctrl_c_to_the_parent(reader: ClipReader, good: str) -> None:
    async def run() -> None:
        (pid,) = await told(reader, "pid.mp4")
        os.kill(int(pid), signal.SIGINT)
        assert (await reader.extent(good)).duration == 2.0
        assert await told(reader, "pid.mp4") == [pid]

    asyncio.run(run())


def test_ctrl_c_leaves_a_child_that_is_still_starting_alone(folder: Path, good: str) -> None:
    async def run(reader: ClipReader) -> None:
        call = asyncio.create_task(reader.extent(good))
        while not multiprocessing.active_children():
            await asyncio.sleep(0.001)
        (child,) = multiprocessing.active_children()
        while not call.done() and child.pid is not None:
            os.kill(child.pid, signal.SIGINT)
            await asyncio.sleep(0.01)
        assert (await call).duration == 2.0
        assert multiprocessing.active_children() == [child]

    with DecodeWorkers(1, timeout_s=60, plugins=(folder / "plugin.py",)) as workers:
        asyncio.run(run(workers.reader(folder, "odd")))


def test_children_load_nothing_heavy(reader: ClipReader) -> None:
    loaded = set(asyncio.run(told(reader, "modules.mp4")))
    assert "av" in loaded
    assert not loaded & {"torch", "transformers", "pandas", "pyarrow", "scipy", "tokenizers"}


def test_close_ends_calls_under_way_and_all_processes(folder: Path) -> None:
    async def run() -> None:
        calls = [asyncio.create_task(reader.extent("hang.mp4")) for _ in range(3)]
        (pid,) = await told(reader, "pid.mp4")
        await asyncio.sleep(0.1)
        await asyncio.to_thread(workers.close)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, MediaError | asyncio.CancelledError) for result in results)
        assert not is_alive(int(pid))

    workers = DecodeWorkers(4, timeout_s=60, plugins=(folder / "plugin.py",))
    reader = workers.reader(folder, "odd")
    asyncio.run(run())
    assert multiprocessing.active_children() == []
    workers.close()


SCRIPT = """
import asyncio, sys
from pathlib import Path
from vital_eval.errors import MediaError
from vital_eval.video.video_reader import Extent
from vital_eval.video.worker import ClipReader, DecodeWorkers, Ticket

async def run(reader):
    try:
        await reader.extent("pid.mp4")
    except MediaError as error:
        print(error.problem, flush=True)
    await reader.extent("hang.mp4")

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with DecodeWorkers(1, 600, plugins=(folder / "plugin.py",)) as workers:
        asyncio.run(run(workers.reader(folder, "odd")))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_children_do_not_outlive_their_parent(folder: Path, tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "main.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        (pid,) = json.loads(parent.stdout.readline())
        assert is_alive(pid)
        time.sleep(0.3)  # the child is now in the call that hangs
        parent.send_signal(how)
        parent.wait(timeout=15)
    assert gone(pid, seconds=10)


def test_wrong_names_and_what_is_not_installed(folder: Path) -> None:
    plugins = (folder / "plugin.py",)
    with DecodeWorkers(1, 60, plugins) as workers:
        with pytest.raises(UnknownNameError, match="pyav"):
            workers.reader(folder, "pyaw")
        with pytest.raises(MissingExtraError, match="install"):
            asyncio.run(workers.reader(folder, "absent").extent("good.mp4"))
    with pytest.raises(MissingExtraError):
        DecodeWorkers(0, 10, plugins).reader(folder, "absent")
    for count, timeout in ((-1, 10.0), (1, 0.0)):
        with pytest.raises(ValueError, match="timeout"):
            DecodeWorkers(count, timeout)


def test_urgent_calls_overtake_and_a_call_can_become_urgent(reader: ClipReader, good: str) -> None:
    async def run() -> None:
        await reader.extent(good)  # started
        order: list[str] = []
        tickets = {"ahead": Ticket(False), "hurried": Ticket(False), "urgent": Ticket()}

        async def read(name: str) -> None:
            await reader.read(good, None, VIEW, 32, tickets[name])
            order.append(name)

        first = asyncio.create_task(reader.extent("slow.mp4"))
        await asyncio.sleep(0)
        calls = [asyncio.create_task(read(name)) for name in tickets]
        await asyncio.sleep(0)
        tickets["hurried"].urgent = True
        await asyncio.gather(*calls, first, return_exceptions=True)
        assert order == ["hurried", "urgent", "ahead"]

    asyncio.run(run())


def test_a_call_that_is_cancelled_while_it_waits_leaves_its_place(reader: ClipReader, good: str) -> None:
    async def run() -> None:
        busy = asyncio.create_task(reader.extent("slow.mp4"))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(reader.extent(good)) for _ in range(3)]
        await asyncio.sleep(0)
        for call in waiting[:2]:
            call.cancel()
        assert (await waiting[2]).duration == 2.0
        with pytest.raises(MediaError):
            await busy
        assert (await reader.extent(good)).duration == 2.0

    asyncio.run(run())


def test_one_set_of_workers_serves_several_folders_and_decoders(folder: Path, good: str, tmp_path: Path) -> None:
    async def run() -> None:
        pids = {(await told(workers.reader(place, "odd"), "pid.mp4"))[0] for place in (folder, tmp_path)}
        assert len(pids) == 1
        assert (await workers.reader(folder, "pyav").extent(good)).duration == 2.0

    (tmp_path / "pid.mp4").touch()
    with DecodeWorkers(1, 60, (folder / "plugin.py",)) as workers:
        asyncio.run(run())


def test_workers_that_are_started_early_are_those_that_read(folder: Path, good: str) -> None:
    before = {child.pid for child in multiprocessing.active_children()}
    with DecodeWorkers(2, 60.0) as workers:
        workers.start()
        early = {child.pid for child in multiprocessing.active_children()} - before
        assert len(early) == 2
        reader = workers.reader(folder, "pyav")
        assert asyncio.run(reader.extent(good)).last_frame > 0
        assert {child.pid for child in multiprocessing.active_children()} - before == early
    assert not early & {child.pid for child in multiprocessing.active_children()}
