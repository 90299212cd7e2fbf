"""How soon after its start a run sends the first generation request, here and in lmms-eval.

    python benchmarks/first_request.py --lmms-python /path/to/an/environment/bin/python
    python benchmarks/first_request.py --quick --lmms-python ...

Both run from their command lines, each in a process of its own, in alternation, with a model that loads nothing and
ends the process when the first request reaches it: what is timed is all but the model. Ours has a video to open and to
decode first (a task of a nano world); lmms-eval gets a dozen questions of text in a local file, its shortest way.

lmms-eval needs an environment of its own (2.4 GB):

    python -m venv lmms && lmms/bin/pip install lmms-eval==0.7.3 'torch==2.13.0'

Without ``--lmms-python`` only ours is timed. The folder that makes torchvision's stock wheel load beside a CPU build of
torch is added to its path.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vital_eval.nano.formats import write_world

_TELL = """
import os, sys, time

def tell():
    print("first-request", time.time() - float(os.environ["STARTED"]), time.process_time(), flush=True)
    os._exit(0)
"""

_OURS = (
    _TELL
    + """
from vital_eval.engine import EngineInfo, FrameGeometry

def register(registries):
    registries.engines.add("stopwatch", lambda: load)

def load(*arguments, **named):
    return Stopwatch()

class Stopwatch:
    info = EngineInfo("stopwatch", "none", "0" * 16, FrameGeometry(32, 2))

    async def generate(self, request):
        tell()

    def release(self, episode):
        pass

    async def close(self):
        pass
"""
)

_THEIRS = (
    _TELL
    + """
from lmms_eval.api.model import lmms

def manifest():
    from lmms_eval.models.registry_v2 import ModelManifest
    return ModelManifest(model_id="stopwatch", chat_class_path="lmms_stopwatch.Stopwatch")

class Stopwatch(lmms):
    is_simple = False

    def __init__(self, **named):
        super().__init__()

    def generate_until(self, requests):
        tell()

    def generate_until_multi_round(self, requests):
        tell()

    def loglikelihood(self, requests):
        tell()
"""
)

_TASK = """
task: stopwatch_task
dataset_path: json
dataset_kwargs:
  data_files: DATA
test_split: train
output_type: generate_until
doc_to_messages: !function stopwatch_functions.messages
doc_to_text: !function stopwatch_functions.text
doc_to_visual: !function stopwatch_functions.visual
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 16
  temperature: 0
  do_sample: false
process_results: !function stopwatch_functions.results
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1
"""

_FUNCTIONS = """
def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def visual(doc):
    return []

def messages(doc, lmms_eval_specific_kwargs=None):
    return [{"role": "user", "content": [{"type": "text", "text": doc["question"]}]}]

def results(doc, results):
    return {"accuracy": float(results[0] == doc["answer"])}
"""


def start(command: Sequence[str], folder: Path, extra: Mapping[str, str]) -> tuple[float, float]:
    """Run a command until its first request.

    Returns:
        Wall-clock seconds since it was started, and processor seconds of its main process.
    """
    environment = {**os.environ, **extra, "STARTED": repr(time.time())}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    line = next((line for line in done.stdout.splitlines() if line.startswith("first-request")), None)
    if line is None:
        raise SystemExit(f"{command[:4]} ended before its first request: {(done.stdout + done.stderr)[-1500:]}")
    _, wall, cpu = line.split()
    return float(wall), float(cpu)


def prepare_ours(folder: Path) -> list[str]:
    """Write plugin and world, and return the command without its output folder."""
    write_world(folder / "world", seed=1, per_task=12)
    (folder / "plugin.py").write_text(_OURS, encoding="utf-8")
    command = [sys.executable, "-m", "vital_eval", "run", "--plugin", str(folder / "plugin.py")]
    command += ["--engine", "stopwatch", "--checkpoint", str(folder), "--data-root", str(folder / "world")]
    return [*command, "--tasks", "mmvu", "--modes", "direct", "--preset", "nano"]


def prepare_theirs(folder: Path, python: str) -> tuple[list[str], dict[str, str]]:
    """Write model, task and questions, and return the command and its environment."""
    information = folder / "lmms_stopwatch-0.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: lmms-stopwatch\nVersion: 0.0\n")
    (information / "entry_points.txt").write_text("[lmms_eval.models]\nstopwatch = lmms_stopwatch:manifest\n")
    (folder / "lmms_stopwatch.py").write_text(_THEIRS, encoding="utf-8")
    tasks = folder / "tasks"
    tasks.mkdir()
    rows = [{"question": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(12)]
    (tasks / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tasks / "stopwatch_functions.py").write_text(_FUNCTIONS, encoding="utf-8")
    (tasks / "task.yaml").write_text(_TASK.replace("DATA", str(tasks / "questions.jsonl")), encoding="utf-8")
    shim = Path(__file__).resolve().parent.parent / "tests" / "engines" / "vllm" / "shim"
    environment = {
        "PYTHONPATH": os.pathsep.join((str(folder), str(shim))),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
    }
    command = [python, "-m", "lmms_eval", "eval", "--model", "stopwatch", "--tasks", "stopwatch_task"]
    return [*command, "--include_path", str(tasks), "--batch_size", "1", "--output_path", str(folder)], environment


def show(name: str, found: Sequence[tuple[float, float]]) -> None:
    """Print one side's figures."""
    walls, cpus = zip(*found, strict=True)
    print(
        f"{name:<10} {statistics.median(walls):.2f} s (least {min(walls):.2f}, most {max(walls):.2f}), "
        f"{statistics.median(cpus):.2f} s of processor time (least {min(cpus):.2f}); {len(found)} runs"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lmms-python", help="interpreter of an environment that has lmms-eval")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        here, there = Path(name) / "ours", Path(name) / "lmms"
        here.mkdir()
        there.mkdir()
        command = prepare_ours(here)
        peer = prepare_theirs(there, given.lmms_python) if given.lmms_python else None
        ours: list[tuple[float, float]] = []
        theirs: list[tuple[float, float]] = []
        # The first round only warms the disk's cache.
        for number in range((2 if given.quick else given.rounds) + 1):
            ours.append(start([*command, "--out", str(here / f"run{number}")], here, {}))
            if peer is not None:
                theirs.append(start(peer[0], there, peer[1]))
    show("ours", ours[1:])
    if peer is None:
        print("lmms-eval was not timed: name an environment that has it with --lmms-python")
        return
    show("lmms-eval", theirs[1:])
    for what, at in (("wall-clock", 0), ("processor", 1)):
        ratios = [peer_run[at] / own[at] for own, peer_run in zip(ours[1:], theirs[1:], strict=True)]
        middle = statistics.median(ratios)
        print(f"lmms-eval / ours, {what}, pair by pair: {middle:.0f} (least {min(ratios):.0f}, most {max(ratios):.0f})")


if __name__ == "__main__":
    main()
