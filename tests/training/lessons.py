"""Records, and lessons of them, for the tests of supervised training: vital-nano on a video kept in memory."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from tests.training.nano_policy import DURATION, footage, protocol, tools
from vital_eval.conversation import Conversation
from vital_eval.engines.background_loop import BackgroundLoop
from vital_eval.engines.hf import HFEngine
from vital_eval.episode import Footage
from vital_eval.protocol import Mode
from vital_eval.training.lesson_player import KEPT_BYTES, LessonPlayer
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
    max_tokens: int | None = None,
) -> Lessons:
    """Play records; their frames stay in memory, so that they can be shown without a loop."""
    with BackgroundLoop("test") as background:
        played = player(engine, background, open_video, mode)
        return lessons_of_records(records, played, engine._encoder, max_tokens)


def player(
    engine: HFEngine,
    background: BackgroundLoop,
    open_video: OpenVideo | None = None,
    mode: Mode = Mode.TOOL,
    kept_bytes: int = KEPT_BYTES,
) -> LessonPlayer:
    def speak(text: str) -> tuple[int, ...]:
        return (*engine._tokenizer(text, add_special_tokens=False)["input_ids"], engine._tokenizer.eos_token_id)

    async def grey(video: str) -> Footage:
        return footage()

    asked = protocol(mode, 0.0)
    return LessonPlayer(asked, tools(), engine.info, speak, open_video or grey, background, kept_bytes)


def showing(lesson: Lesson, conversation: Conversation) -> Lesson:
    """Return a lesson that shows another conversation of the same length."""
    shown: Future[Conversation] = Future()
    shown.set_result(conversation)
    return dataclasses.replace(lesson, show=lambda: shown)


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


def distance(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """Return how far two models' weights lie apart, as the length of their difference.

    Adam divides by the size of the gradient, so of a million float32 weights a few whose gradient is little but
    rounding step by chance, as far as any other: the largest difference says less than the length.
    """
    assert set(one) == set(other)
    return math.sqrt(math.fsum(float(((one[name].astype(np.float64) - other[name]) ** 2).sum()) for name in one))
