"""Tokens a second, busy share and turn-2 latency of an engine under load, on random weights of real shapes.

    python benchmarks/engine_load.py --shape tiny                        # any machine, a minute
    python benchmarks/engine_load.py --shape 3b --engine vllm --batch-size 64 --episodes 256
    python benchmarks/engine_load.py --shape 7b --engine hf --device cuda --episodes 64

Episodes of two turns run together through an engine of the registry: a video of ``--frames`` frames and 128 tokens of
answer, then a clip of a quarter as many frames and 128 tokens more. Weights are drawn on the machine; nothing is
downloaded. A random model hardly ever ends a turn itself, so every turn is nearly as long as allowed. The first
episodes warm caches and kernels up and are not counted.

Busy share is the mean utilisation that ``nvidia-smi`` reports on a GPU; on a CPU it is the processor time of this
process and its children divided by wall-clock time and threads.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from random_models import SHAPES, noise, question, tool_reply, write_random

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn
from vital_eval.engine import Engine, GenerationRequest
from vital_eval.generation import Generation
from vital_eval.protocol import Sampling
from vital_eval.registry import Registries


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the engine.

    Attributes:
        episodes: of two turns each.
        together: of them under way at a time.
        frames: of the video shown first; the clip of turn 2 has a quarter.
        side: height and width of a frame in pixels, a multiple of 28.
        tokens: most that a turn may write.
    """

    episodes: int
    together: int
    frames: int
    side: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Timed:
    """One turn and the seconds from request to result."""

    said: Generation
    seconds: float


class BusyShare:
    """Samples how busy the device is, between entering and leaving."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._samples: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._began = (0.0, 0.0)
        self.share = 0.0

    def __enter__(self) -> BusyShare:
        """Start."""
        self._began = (time.monotonic(), _processor_seconds())
        if self._device == "cuda":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and set ``share``."""
        wall, spent = time.monotonic() - self._began[0], _processor_seconds() - self._began[1]
        if self._device == "cuda":
            self._done.set()
            self._thread.join()
            self.share = statistics.fmean(self._samples) if self._samples else float("nan")
        else:
            self.share = spent / wall / torch.get_num_threads()

    def _watch(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._done.wait(0.5):
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            self._samples.append(statistics.fmean(float(value) for value in told) / 100)


def _processor_seconds() -> float:
    """Return the processor time of this process and of its children that live (Linux) or have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used) + _living_children()


def _living_children() -> float:
    """Return the processor time of descendants that live, from ``/proc`` (man 5 proc: fields 4, 14 and 15)."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return sum(ticks[pid] for pid in own - {os.getpid()} if pid in ticks) / os.sysconf("SC_CLK_TCK")


async def _episode(engine: Engine, load: Load, clips: tuple[Clip, Clip], name: str) -> tuple[Timed, Timed]:
    sampling = Sampling(max_new_tokens=load.tokens)
    opening = question(clips[0])
    begin = time.monotonic()
    first = await engine.generate(GenerationRequest(opening, sampling, (), 0, name, expect_more=True))
    middle = time.monotonic()
    going_on = (*opening, AssistantTurn(first), tool_reply(clips[1]))
    second = await engine.generate(GenerationRequest(going_on, sampling, (), 0, name))
    engine.release(name)
    return Timed(first, middle - begin), Timed(second, time.monotonic() - middle)


def _videos(load: Load, first: int) -> list[tuple[Clip, Clip]]:
    """Return what every episode shows; no two videos are alike, or an engine would know one by its content."""
    return [
        (
            noise(load.frames, 0.0, 120.0, load.side, 2 * number),
            noise(max(2, load.frames // 4), 30.0, 40.0, load.side, 2 * number + 1),
        )
        for number in range(first, first + load.episodes)
    ]


async def _run(engine: Engine, load: Load, videos: Sequence[tuple[Clip, Clip]], name: str) -> list[tuple[Timed, Timed]]:
    gate = asyncio.Semaphore(load.together)

    async def one(number: int) -> tuple[Timed, Timed]:
        async with gate:
            return await _episode(engine, load, videos[number], f"{name} {number}")

    return list(await asyncio.gather(*(one(number) for number in range(load.episodes))))


async def _alone(engine: Engine, load: Load, rounds: int) -> list[tuple[Timed, Timed]]:
    """Play episodes one by one: the latency of turns that share the engine with none."""
    alone = Load(1, 1, load.frames, load.side, 1)
    found = []
    for number in range(rounds):
        found += await _run(engine, alone, _videos(alone, 1_000_000 + number), f"alone {number}")
    return found


def _spread(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return f"median {statistics.median(ordered):.3f} s, least {ordered[0]:.3f}, most {ordered[-1]:.3f}"


async def measure(engine: Engine, load: Load, device: str, rounds: int) -> None:
    """Measure and print."""
    warm = Load(min(4, load.episodes), load.together, load.frames, load.side, load.tokens)
    await _run(engine, warm, _videos(warm, 2_000_000), "warm")
    rates, shares = [], []
    for number in range(rounds):
        videos = _videos(load, number * load.episodes)
        busy = BusyShare(device)
        begin = time.monotonic()
        with busy:
            turns = [turn for pair in await _run(engine, load, videos, f"round {number}") for turn in pair]
        wall = time.monotonic() - begin
        written = sum(len(turn.said.token_ids) for turn in turns)
        read = sum(turn.said.prompt_tokens - turn.said.cached_tokens for turn in turns)
        rates.append(written / wall)
        shares.append(busy.share)
        print(f"round {number}: {wall:.1f} s, {written / wall:.0f} tokens/s written, {read / wall:.0f} read, "
              f"busy {100 * busy.share:.0f} %")  # fmt: skip
    print(f"written: median {statistics.median(rates):.0f} tokens/s, least {min(rates):.0f}, most {max(rates):.0f}")
    print(f"busy share: median {100 * statistics.median(shares):.0f} %")
    alone = await _alone(engine, load, max(3, rounds))
    print(f"turn 1 alone, to its only token: {_spread([pair[0].seconds for pair in alone])}")
    cached = statistics.median(pair[1].said.cached_tokens / pair[1].said.prompt_tokens for pair in alone)
    print(
        f"turn 2 alone, to its only token: {_spread([pair[1].seconds for pair in alone])}; {100 * cached:.0f} % cached"
    )


def _load_engine(folder: Path, given: argparse.Namespace, dtype: str) -> Engine:
    factory = Registries().engines.load(given.engine)
    engine: Engine = factory(folder, given.device, dtype, given.batch_size)
    return engine


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--engine", default="hf", help="hf or vllm (default: hf)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--together", type=int, help="under way at a time (default: twice the batch size)")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="4 episodes of 16 frames and 16 tokens, one round")
    given = parser.parse_args()
    if given.quick:
        given.episodes, given.frames, given.tokens, given.rounds = 4, 16, 16, 1
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    load = Load(given.episodes, given.together or 2 * given.batch_size, given.frames, given.side, given.tokens)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = write_random(Path(name) / given.shape, given.shape, device, getattr(torch, dtype))
        if device == "cuda":
            torch.cuda.empty_cache()
        engine = _load_engine(folder, given, dtype)
        machine = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads of a CPU"
        print(f"{given.shape}, {given.engine}, {dtype}, {machine}, torch {torch.__version__}, "
              f"transformers {version('transformers')}; {load}, batch size {given.batch_size}")  # fmt: skip

        async def whole() -> None:
            try:
                await measure(engine, load, device, given.rounds)
            finally:
                await engine.close()

        asyncio.run(whole())


if __name__ == "__main__":
    main()
