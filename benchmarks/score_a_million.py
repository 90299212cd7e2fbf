"""Seconds and memory of ``vital-eval score`` on a million predictions, beside the usual script for the same figures.

The peer is what published evaluation scripts do: load everything, one regular expression an answer, a mean without an
interval. It is the least work that can give the same means, so the ratio says what parsing that cannot be fooled,
intervals and bookkeeping cost. Run it on an idle machine: ``python benchmarks/score_a_million.py``.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUERIES_PER_VIDEO = 3

PEER = """
import json, re, sys
truth = json.load(open(sys.argv[2]))
number = re.compile(r"(\\d+(?:\\.\\d+)?)")
total = n = 0
for line in open(sys.argv[1]):
    record = json.loads(line)
    video, place = record["id"].split("/")
    start, end = truth[video]["timestamps"][int(place)]
    a, b = map(float, number.findall(record["text"].split("<answer>")[1])[:2])
    total += max(0.0, min(b, end) - max(a, start)) / (max(b, end) - min(a, start))
    n += 1
print(f"mIoU {100 * total / n:.2f} over {n}")
"""


def write_world(folder: Path, count: int) -> tuple[Path, Path]:
    """Write annotations in the form of Charades-STA and one noisy prediction for every query."""
    rng = random.Random(0)  # noqa: S311 - made-up data
    annotations, predictions = folder / "charades_sta" / "charades_test.json", folder / "predictions.jsonl"
    annotations.parent.mkdir()
    videos = {}
    with predictions.open("w", encoding="utf-8") as file:
        for number in range(-(-count // QUERIES_PER_VIDEO)):
            duration = round(rng.uniform(10, 70), 2)
            windows = []
            for place in range(QUERIES_PER_VIDEO):
                start = round(rng.uniform(0, duration - 3), 1)
                end = round(rng.uniform(start + 1, duration), 1)
                windows.append([start, end])
                first = max(0.0, start + rng.gauss(0, 3))
                last = max(first + 0.5, end + rng.gauss(0, 3))
                text = f"<think>It is near.</think><answer>From {first:.2f} to {last:.2f} seconds.</answer>"
                file.write(json.dumps({"id": f"v{number:06d}/{place}", "text": text}) + "\n")
            videos[f"v{number:06d}"] = {
                "duration": duration,
                "timestamps": windows,
                "sentences": ["a light is turned on"] * QUERIES_PER_VIDEO,
            }
    annotations.write_text(json.dumps(videos), encoding="utf-8")
    return annotations, predictions


def measured(command: list[str], cwd: Path) -> tuple[float, float, str]:
    """Return wall seconds, peak resident megabytes so far of any child, and the output."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd)
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, done.stdout


def main() -> None:
    """Measure both and print the ratio."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations, predictions = write_world(folder, count)
        peer, peer_memory, printed = measured([sys.executable, "-c", PEER, str(predictions), str(annotations)], folder)
        print(f"usual script   {peer:6.1f} s  {peer_memory:6.0f} MB  {printed.strip()}, no interval")
        command = [sys.executable, "-P", "-m", "vital_eval", "score", "charades_sta", "--no-baselines"]
        ours, memory, printed = measured(
            [*command, "--predictions", str(predictions), "--data-root", str(folder)], folder
        )
        row = next(line for line in printed.splitlines() if line.startswith("mIoU"))
        print(f"vital-eval     {ours:6.1f} s  {memory:6.0f} MB  {' '.join(row.split())}")
        print(f"ratio          {ours / peer:6.1f}")


if __name__ == "__main__":
    main()
