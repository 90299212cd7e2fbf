"""vital-nano as a policy, and problems that need no file: a video kept in memory, shown by the harness's own views."""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files

import numpy as np

from vital_eval.clip import Clip
from vital_eval.engines.hf import HFEngine, load_engine
from vital_eval.episode import Footage
from vital_eval.presets import preset
from vital_eval.protocol import Mode, Protocol, Sampling, View
from vital_eval.registry import Registry
from vital_eval.sample import Sample, Target
from vital_eval.span import Span
from vital_eval.task import AnswerKind
from vital_eval.toolbox import Tool
from vital_eval.training.policy import Policy
from vital_eval.training.problems import Problem
from vital_eval.training.rewards import Scored

DURATION = 32.0


@contextmanager
def nano_engine(batch_size: int = 8) -> Iterator[HFEngine]:
    with as_file(files("vital_eval.nano") / "checkpoint") as folder:
        yield load_engine(folder, "cpu", "float32", batch_size)


def policy_of(engine: HFEngine) -> Policy:
    model, vocabulary = engine._model, engine._vocabulary
    reference = copy.deepcopy(model).eval()
    return Policy(model, reference, engine._encoder, engine, vocabulary.pad_id, vocabulary.banned_ids)


def protocol(mode: Mode, temperature: float = 1.0, tokens: int = 48) -> Protocol:
    return dataclasses.replace(
        preset("nano", mode, "moments"), sampling=Sampling(max_new_tokens=tokens, temperature=temperature)
    )


def tools() -> dict[str, Tool]:
    return {"get_video_clip_frame": Registry("tool").load("get_video_clip_frame")()}


def problem(name: str, question: str = "red circle", score: Callable[[str | None], Scored] | None = None) -> Problem:
    def answered(answer: str | None) -> Scored:
        return Scored(0.0 if answer is None else 1.0)

    sample = Sample(name, "moments", f"{name}.mp4", DURATION, question, Target(windows=((4.0, 9.0),)), name)
    return Problem(sample, AnswerKind.SPAN, score or answered, verbatim=False)


def taste(answer: str | None) -> Scored:
    """Give every text another reward, so that groups differ and there is something to learn."""
    return Scored(zlib.crc32((answer or "").encode()) % 1000 / 1000)


def footage(shade: int = 90, clip_shade: int | None = None) -> Footage:
    """A grey video whose clips may have another shade than the first view shows."""

    async def read(span: Span | None, view: View) -> Clip:
        shown = span or Span(0.0, DURATION)
        count = min(view.max_frames, max(2, int(shown.length * view.fps)))
        count -= count % 2
        times = tuple(float(time) for time in np.linspace(shown.start, shown.end, count, endpoint=False))
        value = shade if span is None or clip_shade is None else clip_shade
        return Clip(np.full((count, 32, 32, 3), value, dtype=np.uint8), times, shown)

    return Footage(DURATION, DURATION - 0.25, read)


async def open_grey(video: str) -> Footage:
    del video
    return footage()
