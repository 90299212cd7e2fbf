"""How soon the command line answers, and how soon a run sends its first generation request.

Run ``python benchmarks/startup.py`` where vital-eval is installed. The second figure is the time from process start to
the first request that reaches the engine, less the time spent loading it (torch and transformers included), on a
nano world whose videos are already written and with a warm disk cache.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path

from vital_eval.nano.formats import write_world

RUNS = 5

#: A plugin engine: loads the real one, and ends the process at the first request with the two times.
_PLUGIN = """
import os, sys, time

def register(registries):
    registries.engines.add("stopwatch", lambda: load)

def load(*arguments, **named):
    begin = time.time()
    from vital_eval.engines.hf import load_engine
    engine = load_engine(*arguments, **named)
    return Stopwatch(engine, time.time() - begin)

class Stopwatch:
    def __init__(self, engine, loading):
        self.engine, self.loading = engine, loading

    @property
    def info(self):
        return self.engine.info

    async def generate(self, request):
        print(f"stopwatch {time.time() - STARTED - self.loading} {self.loading}", flush=True)
        os._exit(0)

    def release(self, episode):
        pass

    async def close(self):
        pass
"""


def first_request(folder: Path, world: Path, run: int) -> tuple[float, float]:
    """Return seconds to the first request (loading left out) and seconds of loading."""
    plugin = folder / f"stopwatch{run}.py"
    command = [sys.executable, "-m", "vital_eval", "run", "--plugin", str(plugin), "--engine", "stopwatch"]
    command += ["--data-root", str(world), "--tasks", "all", "--preset", "nano", "--out", str(folder / f"run{run}")]
    with as_file(files("vital_eval.nano") / "checkpoint") as checkpoint:
        command += ["--checkpoint", str(checkpoint)]
        plugin.write_text(_PLUGIN.replace("STARTED", repr(time.time())), encoding="utf-8")
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    line = next((line for line in done.stdout.splitlines() if line.startswith("stopwatch")), None)
    if line is None:
        raise SystemExit(f"the run ended before its first request: {done.stderr[-500:]}")
    _, waited, loading = line.split()
    return float(waited), float(loading)


def help_seconds() -> float:
    """Return the wall-clock time of ``vital-eval --help``."""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "vital_eval", "--help"], check=True, capture_output=True)
    return time.monotonic() - begin


def main() -> None:
    """Measure and print medians."""
    helps = [help_seconds() for _ in range(RUNS)]
    print(f"vital-eval --help: {statistics.median(helps):.3f} s (median of {RUNS})")
    with tempfile.TemporaryDirectory() as name:
        world = Path(name) / "world"
        write_world(world, seed=1, per_task=24)
        times = [first_request(Path(name), world, run) for run in range(RUNS)]
    print(f"first generation request, loading left out: {statistics.median(w for w, _ in times):.2f} s")
    print(f"loading torch, transformers and the model: {statistics.median(loading for _, loading in times):.2f} s")


if __name__ == "__main__":
    main()
