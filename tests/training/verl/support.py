"""What the tests of the verl plugin share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import transformers

from vital_eval.protocol import View
from vital_eval.training.verl_plugin.stages import STAGES, Job

from ...engines.tiny import write_checkpoint  # noqa: TID252 - tests/ is not on the path

#: Six frames over 20 s are 7.9 s per temporal patch, which is no whole number either.
SMALL = View(fps=0.5, max_frames=6, min_pixels=28 * 28, max_pixels=2 * 28 * 28, clock=False)
#: Eight frames over 3 s: 0.86 s per temporal patch, which transformers cuts to 0.
CLOSE = View(fps=2.5, max_frames=8, min_pixels=28 * 28, max_pixels=2 * 28 * 28, clock=False)


def write_checkpoint_with_processor(folder: Path) -> Path:
    """Write a tiny checkpoint and the processor files that verl's loader asks for."""
    write_checkpoint(folder, "qwen2_5_vl")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    mean = json.loads((folder / "preprocessor_config.json").read_text())
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**mean),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(**mean),
        chat_template=tokenizer.chat_template,
    )
    processor.save_pretrained(folder)
    return folder


def write_video(path: Path, seconds: int, rate: int = 4) -> None:
    """Write a video of random grey frames that change."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(seconds * rate):
            grey = np.full((64, 96, 3), 8 + 3 * (index % 80), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        output.mux(stream.encode())


def make_job(number: int, checkpoint: Path, media: Path, output: Path, extra: dict[str, str] | None = None) -> Job:
    """Make a job of a stage and write its files, with views that fit the tiny model."""
    job = Job(
        stage=STAGES[number],
        model=checkpoint,
        train=(output / "train.parquet",),
        validation=(output / "validation.parquet",),
        media_root=media,
        output=output,
        spatial_factor=28,
        nodes=STAGES[number].nodes,
        gpus=8,
        extra=extra or {},
    )
    output.mkdir(parents=True, exist_ok=True)
    for path, text in job.files().items():
        path.write_text(text, encoding="utf-8")
    protocol = dataclasses.replace(job.stage.protocol(), view=SMALL, clip_view=CLOSE)
    job.protocol_file.write_text(json.dumps(protocol.to_json()), encoding="utf-8")
    return job


class ScriptedServer:
    """Stands in for the rollout server: writes given turns and keeps what it was asked."""

    def __init__(self, tokenizer: Any, turns: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.turns = list(turns)
        self.asked: list[dict[str, Any]] = []

    async def generate(self, **request: Any) -> Any:
        """Write the next turn."""
        from verl.workers.rollout.replica import TokenOutput

        request["prompt_ids"] = list(request["prompt_ids"])
        request["video_data"] = list(request["video_data"] or [])
        self.asked.append(request)
        ids = self.tokenizer(self.turns[len(self.asked) - 1], add_special_tokens=False)["input_ids"]
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids), num_preempted=0, extra_fields={})
