"""Peak memory of a run: whether it grows with the number of samples, and whether hour-long videos stay in their bound.

Run ``python benchmarks/memory.py`` where vital-eval is installed; ``--quick`` leaves the largest size out. Every figure
comes from a process of its own, which plays a whole run with real videos, real decoding processes, a real run log and
the summary at its end; only the model is a script, so what is measured is the harness.

* Sizes: 100, 1,000 and 10,000 samples in the tool mode, 25 to a video, a tool call in every tenth; the videos are nano
  videos under as many names as are needed. Printed is the peak of the main process after the run and after its summary,
  each as a ratio to that of the smallest size, and the peak of the largest decoding process.
* Hours: one question about each of 12 videos of an hour, 256 frames of 384 x 384 each (113 MB), with 32 episodes under
  way and a bound of a quarter, a half and one GiB on clips. Printed is the peak above that of a run over short videos.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from vital_eval.conversation import AssistantTurn
from vital_eval.data_root import TaskData
from vital_eval.engine import EngineInfo, FrameGeometry, GenerationRequest
from vital_eval.generation import FinishReason, Generation
from vital_eval.nano.render import write_mp4
from vital_eval.nano.world import VideoPlan, World, generator, make_video
from vital_eval.plan import RunPlan, TaskPlan, make_manifest, make_plan
from vital_eval.presets import preset
from vital_eval.progress import Tally
from vital_eval.protocol import Mode, Protocol
from vital_eval.registry import Registries
from vital_eval.run_log import RunLog
from vital_eval.runner import Settings, run
from vital_eval.sample import Sample, Target
from vital_eval.summary import summarise, write_summary

TASK = "charades_sta"
FILES = 8
PER_VIDEO = 25
HOURS = 12
#: Seconds of a turn about an hour of video.
HOUR_TURN = 10.0

_THOUGHT = "<think>" + "the shape appears and disappears again " * 8 + "</think>"
_CALL = '<tool_call>{"name": "get_video_clip_frame", "arguments": {"start_time": 1, "end_time": 3}}</tool_call>'
_ANSWER = "<answer>1.00 to 3.00</answer>"


class Script:
    """An engine that costs nothing and remembers nothing."""

    def __init__(self, turn_seconds: float) -> None:
        self._turn_seconds = turn_seconds
        self._asked = 0

    @property
    def info(self) -> EngineInfo:
        """Return who answers."""
        return EngineInfo("script", "script", "script", FrameGeometry(32, 2))

    async def generate(self, request: GenerationRequest) -> Generation:
        """Call a tool in the first turn of every tenth episode, else answer."""
        first = not any(isinstance(entry, AssistantTurn) for entry in request.conversation)
        self._asked += first
        await asyncio.sleep(self._turn_seconds)
        text = _THOUGHT + (_CALL if first and self._asked % 10 == 0 else _ANSWER)
        return Generation((1,), text, FinishReason.STOP_STRING, 1)

    def release(self, episode: str) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


def write_nano_videos(folder: Path) -> None:
    """Write the files that short videos are links to."""
    folder.mkdir(parents=True)
    for number in range(FILES):
        video = make_video(VideoPlan(24.0, 40.0), generator(World.TEST, 1, number))
        write_mp4(video, folder / f"file{number}.mp4")


def write_hour(path: Path) -> None:
    """Write an hour of grey at two frames a second."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=2, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for index in range(7200):
            picture = np.full((64, 64, 3), index % 256, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())


def make_work(folder: Path, protocol: Protocol, files: int, count: int, per_video: int) -> RunPlan:
    """Plan ``count`` samples about videos that are links to a few files."""
    videos = folder / "videos"
    samples, name = [], ""
    for number in range(count):
        if number % per_video == 0:
            name = f"video{number // per_video}.mp4"
            if not (videos / name).exists():
                os.link(videos / f"file{number // per_video % files}.mp4", videos / name)
        target = Target(windows=((1.0, 3.0),))
        samples.append(Sample(f"s{number}", TASK, name, None, f"shape {number} appears", target, name))
    data = TaskData(Registries().tasks.load(TASK)(), folder, "0", tuple(samples))
    return make_plan((TaskPlan(data, (protocol,)),), Registries())


def peak_mb(process: int | str = "self") -> float:
    """Return the peak of a process since its program began, in MiB; 0 if it is gone (Linux)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


class ChildPeaks:
    """Notes the largest peak of a decoding process while a run goes on."""

    def __init__(self) -> None:
        self.largest = 0.0
        self._updates = 0

    def update(self, tally: Tally) -> None:
        """Look at the children now and then, and at the end."""
        self._updates += 1
        if self._updates % 10 == 0 or tally.done == tally.total:
            children = multiprocessing.active_children()
            self.largest = max([self.largest, *(peak_mb(child.pid or 0) for child in children)])


def play(plan: RunPlan, folder: Path, settings: Settings, turn_seconds: float) -> dict[str, float]:
    """Play a whole run and return peaks in MiB."""
    engine, peaks = Script(turn_seconds), ChildPeaks()
    begin = time.monotonic()
    with RunLog.open(folder, make_manifest(plan, engine.info, "script")) as log:
        tally = asyncio.run(run(plan, engine, log, settings, peaks))
        peak = peak_mb()
        write_summary(folder, summarise(log.manifest, log.stream()))
    if tally.owed:
        raise SystemExit(f"{tally.owed} episodes are owed: {tally.infra}")
    return {"run": peak, "summary": peak_mb(), "child": peaks.largest, "seconds": time.monotonic() - begin}


def child(work: Path, count: int, cache_mb: int) -> None:
    """Do one measurement and print it as JSON; ``count`` 0 are the hours."""
    settings = Settings(concurrency=32, decode_workers=2, cache_bytes=cache_mb * 2**20)
    nano = preset("nano", Mode.TOOL, TASK)
    with tempfile.TemporaryDirectory(dir=work) as name:
        if count:
            plan = make_work(work / "short", nano, FILES, count, PER_VIDEO)
        else:
            view = dataclasses.replace(nano.view, max_frames=256, min_pixels=384 * 384, max_pixels=384 * 384)
            plan = make_work(work / "long", dataclasses.replace(nano, view=view), 1, HOURS, 1)
        # Hours: the engine is slower than decoding, so that clips gather up to their bound.
        print(json.dumps(play(plan, Path(name) / "run", settings, 0.01 if count else HOUR_TURN)))


def measure(work: Path, count: int, cache_mb: int) -> dict[str, float]:
    """Do one measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", str(work), str(count), str(cache_mb)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave the largest size out")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "SAMPLES", "MIB"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(Path(given.child[0]), int(given.child[1]), int(given.child[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_nano_videos(work / "short" / "videos")
        (work / "long" / "videos").mkdir(parents=True)
        write_hour(work / "long" / "videos" / "file0.mp4")
        first: dict[str, float] = {}
        for count in (100, 1_000) if given.quick else (100, 1_000, 10_000):
            figures = measure(work, count, 256)
            first = first or figures
            print(
                f"{count:>6} samples: {figures['run']:.1f} MiB after the run ({figures['run'] / first['run']:.3f} x), "
                f"{figures['summary']:.1f} after the summary ({figures['summary'] / first['summary']:.3f} x), "
                f"largest decoding process {figures['child']:.1f}; {figures['seconds']:.0f} s",
                flush=True,
            )
        for bound in (256, 512, 1024):
            figures = measure(work, 0, bound)
            above = figures["run"] - first["run"]
            print(
                f"{HOURS} hours, clips bounded by {bound} MiB: {figures['run']:.1f} MiB, {above:.1f} above short videos"
                f" ({above / bound:.2f} x the bound), largest decoding process {figures['child']:.1f}; "
                f"{figures['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
