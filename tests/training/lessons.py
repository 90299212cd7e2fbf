"""Records, and lessons of them, for the tests of supervised training: vital-nano on a video kept in memory."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tests.training.nano_policy import DURATION, footage, protocol, tools
from vital_eval.engines.hf import HFEngine
from vital_eval.episode import Footage
from vital_eval.protocol import Mode
from vital_eval.training.mtvr.records import CotRecord, Media, ToolCotRecord
from vital_eval.training.rollouts import OpenVideo
from vital_eval.training.sft import SftMetrics, SftStage, train_sft
from vital_eval.training.supervised import Lesson, Lessons, lessons_of_records

ANSWER = "<think> seen</think><answer>3 to 7</answer>"


def call(start: float = 2, end: float = 8) -> str:
    arguments = f'{{"start_time": {start}, "end_time": {end}}}'
    return f'<think> look</think><tool_call>{{"name": "get_video_clip_frame", "arguments": {arguments}}}</tool_call>'


def cot(name: str, solution: str = ANSWER, **fields: Any) -> CotRecord:
    plain: dict[str, Any] = {
        "text": "red circle",
        "media": Media("video", f"{name}.mp4"),
        "duration": DURATION,
        "data_source": "./data/charades",
    }
    return CotRecord(id=name, solution=solution, **{**plain, **fields})


def tool_cot(name: str, first: str | None = None, last: str = ANSWER, **fields: Any) -> ToolCotRecord:
    plain: dict[str, Any] = {
        "text": "blue square",
        "media": Media("video", f"{name}.mp4"),
        "duration": DURATION,
        "data_source": "./data/vidchapter",
        "tool_params": (2.0, 8.0),
        "answer": (3.0, 7.0),
    }
    return ToolCotRecord(id=name, turns=(first or call(), last), **{**plain, **fields})


def play(
    engine: HFEngine,
    records: Sequence[CotRecord | ToolCotRecord],
    open_video: OpenVideo | None = None,
    mode: Mode = Mode.TOOL,
) -> Lessons:
    def speak(text: str) -> tuple[int, ...]:
        return (*engine._tokenizer(text, add_special_tokens=False)["input_ids"], engine._tokenizer.eos_token_id)

    async def grey(video: str) -> Footage:
        return footage()

    return asyncio.run(
        lessons_of_records(records, protocol(mode, 0.0), tools(), engine.info, speak, open_video or grey)
    )


def shaded(engine: HFEngine, shade: int, clip_shade: int) -> tuple[Lesson, ...]:
    async def open_video(video: str) -> Footage:
        return footage(shade, clip_shade)

    return play(engine, [tool_cot("t")], open_video).kept


def stage(**fields: Any) -> SftStage:
    return SftStage(**{"name": "taught", "protocol": protocol(Mode.TOOL, 0.0), "rate": 1e-3, "warmup": 1, **fields})


def train(
    engine: HFEngine, lessons: Sequence[Lesson], folder: Path, seed: int = 0, **fields: Any
) -> tuple[PreTrainedModel, tuple[SftMetrics, ...]]:
    """Train a copy of vital-nano."""
    model = copy.deepcopy(engine._model)
    metrics = train_sft(model, engine._encoder, lessons, stage(**fields), folder, seed, lambda line: None)
    return model, metrics
