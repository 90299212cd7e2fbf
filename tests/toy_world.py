"""A data root in the official Charades-STA form with small real videos, and an engine that needs no model."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np

TASK = "charades_sta"
SECONDS = 6
QUERIES = 2

#: A plugin: engine ``toy`` reads ``script.json`` from its "checkpoint": a list of turns and a delay.
PLUGIN = """
import json

from vital_eval.engines.scripted import ScriptedEngine, question_of, turns
from vital_eval.errors import EngineError


def load_toy(checkpoint, device, dtype, batch_size):
    script = json.loads((checkpoint / "script.json").read_text())
    play = turns(*script["turns"])

    def reply(request):
        if script.get("dead"):
            raise EngineError("device lost")
        for word, text in script.get("by_question", {}).items():
            if word in question_of(request.conversation):
                return text
        return play(request)

    return ScriptedEngine(reply, delay=script.get("delay", 0.0), obeys_limit=script.get("obeys_limit", True))


def register(registries):
    registries.engines.add("toy", lambda: load_toy)
"""

CALL = (
    "<think>look</think><tool_call>"
    '{"name": "get_video_clip_frame", "arguments": {"start_time": 1, "end_time": 3}}'
    "</tool_call>"
)
ANSWER = "<think>seen</think><answer>1.00 to 3.00</answer>"


def write_video(path: Path, seconds: int = SECONDS, rate: int = 4) -> None:
    """Encode a small video whose grey level rises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(seconds * rate):
            picture = np.full((48, 64, 3), 5 * index % 256, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())


def write_data_root(root: Path, videos: int = 4) -> Path:
    """Write ``videos`` videos with two queries each and return the data root."""
    folder = root / "data" / TASK
    names = [f"V{index}" for index in range(videos)]
    for index, name in enumerate(names):
        write_video(folder / "videos" / f"{name}.mp4") if index == 0 else _copy(folder, names[0], name)
    annotations = {
        name: {
            "duration": float(SECONDS),
            "timestamps": [[1.0, 2.0 + 0.5 * (index % 4)], [0.5, 4.0]],
            "sentences": [f"person opens box {index}.", f"person closes box {index}."],
        }
        for index, name in enumerate(names)
    }
    (folder / "charades_test.json").write_text(json.dumps(annotations))
    return root / "data"


def write_toy(root: Path, *turns: str, **options: object) -> tuple[Path, Path]:
    """Write the plugin file and a "checkpoint" and return both paths."""
    plugin = root / "toy_plugin.py"
    plugin.write_text(PLUGIN)
    checkpoint = root / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / "script.json").write_text(json.dumps({"turns": turns or (CALL, ANSWER), **options}))
    return plugin, checkpoint


def run_arguments(root: Path, out: Path, *more: str, videos: int = 4, **options: object) -> list[str]:
    """Write a whole toy world below ``root`` and return the arguments of a run over it."""
    data_root = root / "data"
    if not data_root.exists():
        write_data_root(root, videos)
    plugin, checkpoint = write_toy(root, **options)
    arguments = ["run", "--engine", "toy", "--plugin", str(plugin), "--checkpoint", str(checkpoint)]
    arguments += ["--data-root", str(data_root), "--tasks", TASK, "--preset", "vital", "--out", str(out)]
    return arguments + list(more)


def _copy(folder: Path, source: str, target: str) -> None:
    (folder / "videos" / f"{target}.mp4").write_bytes((folder / "videos" / f"{source}.mp4").read_bytes())
