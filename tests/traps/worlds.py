"""What the trap tests share: samples, episodes with a script for a model, and runs made through the real run log."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.tasks.official_forms import WRITERS
from vital_eval.clip import Clip
from vital_eval.engine import EngineInfo, FrameGeometry, GenerationRequest
from vital_eval.engines.scripted import ScriptedEngine, turns
from vital_eval.episode import Attempt, Footage, run_episode
from vital_eval.generation import FinishReason
from vital_eval.manifest import Entry, Manifest
from vital_eval.outcome import Grade, Outcome, grade
from vital_eval.presets import preset
from vital_eval.protocol import Mode, Protocol, View
from vital_eval.record import Record
from vital_eval.registry import Registry
from vital_eval.run_log import RunLog
from vital_eval.runner import make_record
from vital_eval.sample import Sample, Target
from vital_eval.span import Span
from vital_eval.task import Task
from vital_eval.toolbox import GetVideoClipFrame
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

DURATION = 60.0


def task(name: str) -> Task:
    """Return a registered task."""
    found: Task = Registry("task").load(name)()
    return found


def official(name: str, folder: Path) -> tuple[Task, tuple[Sample, ...]]:
    """Return a task with the samples of its small annotation files."""
    WRITERS[name](folder)
    found = task(name)
    return found, found.samples(folder)


def moment(start: float = 12.0, end: float = 30.0, task_name: str = "charades_sta", name: str = "q1") -> Sample:
    """Return a grounding question."""
    return Sample(name, task_name, "v.mp4", DURATION, "a man sits", Target(windows=((start, end),)), cluster="v")


def choice(letter: str, *options: str, task_name: str = "video_mme") -> Sample:
    """Return a multiple-choice question."""
    return Sample(
        "q1",
        task_name,
        "v.mp4",
        None,
        "what happens?",
        Target(letter=letter, text=options[ord(letter) - ord("A")]),
        cluster="v",
        options=options,
        attributes={"duration_category": "short", "question_type": "multiple-choice", "track": "Perception"},
    )


def opened(text: str = "", *, gold: str, task_name: str, number: float | None = None) -> Sample:
    """Return an open question."""
    return Sample(
        "q1",
        task_name,
        "v.mp4",
        None,
        text or "how many?",
        Target(text=gold, number=number),
        cluster="v",
        attributes={"question_type": "open-ended", "track": "Adaptation"},
    )


def size(number: float) -> Sample:
    """Return a numeric question of VSI-Bench."""
    return Sample(
        "q1",
        "vsi_bench",
        "v.mp4",
        None,
        "how many chairs?",
        Target(number=number),
        cluster="v",
        attributes={"question_type": "object_counting", "dataset": "scannet"},
    )


async def _read(span: Span | None, view: View) -> Clip:
    shown = span or Span(0.0, DURATION)
    times = tuple(np.arange(shown.start, shown.end, 1.0 / view.fps).tolist())
    return Clip(np.zeros((len(times), 32, 32, 3), np.uint8), times, shown)


async def _open() -> Footage:
    return Footage(DURATION, DURATION - 0.5, _read)


def play(
    sample: Sample,
    *texts: str,
    mode: Mode = Mode.COT,
    reply: Callable[[GenerationRequest], str] | None = None,
    **changes: Any,
) -> tuple[Trajectory, ScriptedEngine]:
    """Play one episode of the real loop with a script for a model."""
    protocol = dataclasses.replace(preset("vital", mode, sample.task), **changes)
    tools = {"get_video_clip_frame": GetVideoClipFrame()} if mode is Mode.TOOL else {}
    engine = ScriptedEngine(reply or turns(*texts))
    attempt = Attempt(sample, task(sample.task).answer_kind(sample), protocol, tools)
    return asyncio.run(run_episode(attempt, engine, _open)), engine


def judged(sample: Sample, *texts: str, mode: Mode = Mode.COT, **changes: Any) -> Grade:
    """Play one episode and grade it: the whole public path from what a model writes to its scores."""
    trajectory, _ = play(sample, *texts, mode=mode, **changes)
    return grade(task(sample.task), sample, trajectory)


def answered(sample: Sample, answer: str) -> Grade:
    """Grade an answer field."""
    return judged(sample, f"<think>so</think><answer>{answer}</answer>")


def window(graded: Grade) -> tuple[float, float] | None:
    """Return the span that was read, if any."""
    return graded.answer.spans[0].as_window() if graded.answer and graded.answer.spans else None


def call(start: float, end: float) -> str:
    """Return a tool call as a model writes it."""
    arguments = f'{{"start_time": {start}, "end_time": {end}}}'
    return f'<tool_call>{{"name": "get_video_clip_frame", "arguments": {arguments}}}</tool_call>'


# Runs.

PROTOCOL = preset("nano", Mode.COT, "moments")


def entry(samples: Iterable[tuple[str, str]], protocol: Protocol = PROTOCOL, **changes: Any) -> Entry:
    """Return what a run owes: one grounding task."""
    fields: dict[str, Any] = {
        "task": "moments",
        "scorer_version": 1,
        "primary": "mIoU",
        "metrics": {"mIoU": "iou"},
        "protocol": protocol,
        "data_hash": "d1",
        "samples": tuple(samples),
    }
    return Entry(**{**fields, **changes})


def manifest(*entries: Entry, **changes: Any) -> Manifest:
    """Return the manifest of a run; six samples of three videos if no entry is given."""
    owed = entries or (entry((f"s{index}", f"v{index // 2}") for index in range(6)),)
    fields: dict[str, Any] = {
        "label": "nano",
        "engine": EngineInfo("hf", "nano-1", "f1", FrameGeometry(32, 2)),
        "entries": owed,
        "created": "2026",
        "vital_eval": "0.1.0",
    }
    return Manifest(**{**fields, **changes})


def record(index: int, score: float | None = 1.0, outcome: Outcome = Outcome.ANSWERED, **changes: Any) -> Record:
    """Return one finished episode of such a run."""
    calls: tuple[str, ...] = changes.pop("calls", ())
    played = tuple(Turn("", FinishReason.STOP_STRING, 1, 0, 0, 1, 1.0, ToolCall("", "t", error, "")) for error in calls)
    fields: dict[str, Any] = {
        "task": "moments",
        "mode": PROTOCOL.mode,
        "protocol": PROTOCOL.hash,
        "sample_id": f"s{index}",
        "attempt": 0,
        "cluster": f"v{index // 2}",
        "outcome": outcome,
        "reason": "",
        "answer": None,
        "scores": {"iou": score},
        "trajectory": Trajectory(played, StopReason.ANSWERED, "", (), 10.0),
    }
    return Record(**{**fields, **changes})


def write_run(folder: Path, owed: Manifest, records: Iterable[Record]) -> Path:
    """Write a run folder through the real run log."""
    with RunLog.open(folder, owed) as log:
        for one in records:
            log.append(one)
    return folder


def graded_records(samples: Iterable[Sample], answers: Mapping[str, str], protocol: Protocol) -> list[Record]:
    """Grade one answer per sample by the runner's own function."""
    made = []
    for sample in samples:
        if sample.id in answers:
            said = answers[sample.id]
            trajectory = Trajectory((), StopReason.ANSWERED, said, (0.0,), DURATION)
            made.append(make_record(task(sample.task), sample, protocol, 0, trajectory))
    return made


def task_entry(samples: Iterable[Sample], protocol: Protocol) -> Entry:
    """Return what a run over these samples of one task owes."""
    kept = tuple(samples)
    found = task(kept[0].task)
    return Entry(
        task=found.name,
        scorer_version=found.scorer_version,
        primary=found.primary,
        metrics={metric.name: metric.score for metric in found.metrics},
        protocol=protocol,
        data_hash="d1",
        samples=tuple((sample.id, sample.cluster) for sample in kept),
    )
