"""What Ray costs: the same episodes in this process and with one worker on a Ray of this machine, side by side.

The engine writes a fixed text at once and the mode is blind, so that neither a model nor a decoder hides what it
costs to hand out episodes and to bring records home. Both ways take turns; the order changes from repeat to repeat.
Printed: seconds until Ray is up and its worker ready, then milliseconds an episode for each way, the difference, and
the ratio with its spread. On real work an episode takes seconds, and the difference is what Ray adds to each.

Run ``python benchmarks/ray_overhead.py`` (needs ``vital-eval[ray]``; a minute), ``--quick`` for fewer episodes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from vital_eval.cluster.crew import Crew
from vital_eval.cluster.places import Needs
from vital_eval.cluster.ray_cluster import RayCluster, connect
from vital_eval.cluster.worker import EngineChoice
from vital_eval.data_root import read_task
from vital_eval.plan import RunPlan, TaskPlan, make_manifest, make_plan
from vital_eval.presets import preset
from vital_eval.progress import Silent
from vital_eval.protocol import Mode
from vital_eval.registry import Registries
from vital_eval.run_log import RunLog
from vital_eval.runner import run
from vital_eval.settings import Settings

TASK = "charades_sta"
PLUGIN = """
from vital_eval.engines.scripted import ScriptedEngine


def load(checkpoint, device, dtype, batch_size):
    return ScriptedEngine(lambda request: "<think>x</think><answer>1.00 to 3.00</answer>")


def register(registries):
    registries.engines.add("scripted", lambda: load)
"""


def write_plan(root: Path, questions: int) -> RunPlan:
    """Write a task without videos: in the blind mode with annotated lengths none is opened."""
    folder = root / "data" / TASK
    folder.mkdir(parents=True)
    annotations = {
        f"V{number}": {"duration": 30.0, "timestamps": [[1.0, 4.0]] * 4, "sentences": ["a person opens a box."] * 4}
        for number in range(questions // 4)
    }
    (folder / "charades_test.json").write_text(json.dumps(annotations))
    registries = Registries()
    data = read_task(registries.tasks.load(TASK)(), root / "data")
    return make_plan((TaskPlan(data, (preset("vital", Mode.BLIND, TASK),)),), registries)


def time_alone(plan: RunPlan, settings: Settings, out: Path) -> float:
    """Return the seconds of a run in this process."""
    engine = Registries(settings.plugins).engines.load("scripted")(out, "cpu", "auto", 8)
    with RunLog.open(out, make_manifest(plan, engine.info, "x")) as log:
        started = time.perf_counter()
        asyncio.run(run(plan, engine, log, settings))
        return time.perf_counter() - started


def time_on_ray(plan: RunPlan, settings: Settings, out: Path) -> tuple[float, float]:
    """Return the seconds until a worker is ready on a Ray that runs, and those of the run."""

    async def play() -> tuple[float, float]:
        needs = Needs(1, 0)
        cluster = RayCluster(EngineChoice("scripted", out), settings, plan, needs)
        crew = Crew(cluster, plan, needs, settings, lambda line: None, most=1)
        started = time.perf_counter()
        try:
            info = await crew.open()
            ready = time.perf_counter()
            with RunLog.open(out, make_manifest(plan, info, "x")) as log:
                await crew.play(log, Silent())
            return ready - started, time.perf_counter() - ready
        finally:
            await crew.close()

    return asyncio.run(play())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 episodes and 2 repeats instead of 2000 and 5")
    args = parser.parse_args()
    episodes, repeats = (200, 2) if args.quick else (2000, 5)
    starts, ready, alone, spread = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        plugin = root / "scripted_plugin.py"
        plugin.write_text(PLUGIN)
        plan = write_plan(root, episodes)
        settings = Settings(concurrency=16, decode_workers=1, plugins=(plugin,))
        for repeat in range(repeats):
            for ray_is_next in ((False, True), (True, False))[repeat % 2]:
                out = root / f"run-{repeat}-{ray_is_next}"
                if not ray_is_next:
                    alone.append(1000 * time_alone(plan, settings, out) / episodes)
                    continue
                started = time.perf_counter()
                connect("local", gpus=False)
                starts.append(time.perf_counter() - started)
                seconds, playing = time_on_ray(plan, settings, out)
                ready.append(seconds)
                spread.append(1000 * playing / episodes)
    middle = statistics.median
    ratios = [one / other for one, other in zip(spread, alone, strict=True)]
    print(f"{episodes} episodes, medians of {repeats} (least to most)")
    print(f"Ray is up after        {middle(starts):8.1f} s   ({min(starts):.1f} to {max(starts):.1f})")
    print(f"and a worker ready in  {middle(ready):8.1f} s   ({min(ready):.1f} to {max(ready):.1f})")
    print(f"an episode alone       {middle(alone):8.2f} ms  ({min(alone):.2f} to {max(alone):.2f})")
    print(f"an episode on Ray      {middle(spread):8.2f} ms  ({min(spread):.2f} to {max(spread):.2f})")
    print(f"Ray adds               {middle(spread) - middle(alone):8.2f} ms")
    print(f"ratio                  {middle(ratios):8.2f}     ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
