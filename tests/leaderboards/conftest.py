"""Small runs on disk, made through the real run log."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.generation import FinishReason
from vital_eval.manifest import Entry, Manifest
from vital_eval.outcome import Outcome
from vital_eval.presets import preset
from vital_eval.protocol import Mode, Protocol
from vital_eval.record import Record
from vital_eval.run_log import RunLog
from vital_eval.statistics.means import Estimate
from vital_eval.summary import summarise, write_summary
from vital_eval.task import Answer
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn


@dataclass(frozen=True)
class RunSpec:
    """What a made-up run looks like; scores are drawn per task and mode from a seeded generator."""

    name: str = "run"
    label: str = "nano"
    fingerprint: str = "f1"
    tasks: Sequence[str] = ("charades_sta", "mmvu", "rextime")
    modes: Sequence[Mode] = (Mode.DIRECT, Mode.COT, Mode.TOOL)
    samples: int = 12
    data_hash: str = "d1"
    limit: int | None = None
    shard: str | None = None
    leave_out: int = 0
    infra: int = 0
    tool_error: str = ""
    calls: bool = True
    lift: float = 0.1
    change: Callable[[Protocol], Protocol] = lambda protocol: protocol
    and_also: Callable[[Protocol], Protocol] | None = None
    baselines: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    luck: str = ""
    attempts: int = 1
    letters: bool = False
    scorer_version: int = 1
    tool_hash: str = ""


MakeRun = Callable[..., Path]


def _record(spec: RunSpec, entry: Entry, index: int, attempt: int) -> Record:
    protocol = entry.protocol
    seed = f"{entry.task} {protocol.mode} {index}{spec.luck}" + (f" {attempt}" if attempt else "")
    generator = random.Random(seed)  # noqa: S311
    tool = protocol.mode is Mode.TOOL
    score = min(1.0, generator.random() + (spec.lift if tool else 0.0))
    call = ToolCall("{}", "get_video_clip_frame", spec.tool_error, "", (0, 1), frame_times=(0.0, 0.5))
    turn = Turn("text", FinishReason.STOP_STRING, 40, 0, 24, 12, 0.2)
    first = dataclasses.replace(turn, tool_call=call) if tool and spec.calls else turn
    outcome = Outcome.INFRA_FAILED if index < spec.infra else Outcome.ANSWERED
    if outcome is Outcome.ANSWERED and index % 6 == 5:
        outcome = Outcome.UNPARSED
    if outcome is not Outcome.ANSWERED:
        score = 0.0
    return Record(
        task=entry.task,
        mode=protocol.mode,
        protocol=protocol.hash,
        sample_id=f"s{index}",
        attempt=attempt,
        cluster=f"v{index // 2}",
        outcome=outcome,
        reason="no-span" if outcome is Outcome.UNPARSED else "",
        answer=Answer("A", letter="A" if score > 0.5 else "B")
        if spec.letters and outcome is Outcome.ANSWERED
        else None,
        attributes={"length": "short" if index < 6 else "long"},
        scores={"iou": score, "right": float(score > 0.5)},
        trajectory=Trajectory((first, turn) if tool else (turn,), StopReason.ANSWERED, "1", (0.0, 1.0), 9.0, "", 1.5),
    )


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Return a function that writes the run of a :class:`RunSpec` (given by keyword) and returns its folder."""
    # A hundred real fsyncs a run take a second; durability is tested with the run log itself.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def make(**fields: object) -> Path:
        spec = dataclasses.replace(RunSpec(), **fields)  # type: ignore[arg-type]
        samples = tuple((f"s{index}", f"v{index // 2}") for index in range(spec.samples))
        entries = []
        for task in spec.tasks:
            grounding = task in ("charades_sta", "rextime", "vidchapters", "activitynet_mr")
            metrics = {"mIoU": "iou", "R@0.5": "right"} if grounding else {"accuracy": "right"}
            if task == "videommmu":
                metrics["Adaptation"] = "right"
            changes = [spec.change, *([spec.and_also] if spec.and_also else [])]
            entries += [
                Entry(
                    task,
                    spec.scorer_version,
                    next(iter(metrics)),
                    metrics,
                    change(preset("nano", mode, task)),
                    spec.data_hash,
                    samples,
                    {"get_video_clip_frame": spec.tool_hash} if spec.tool_hash and mode is Mode.TOOL else {},
                )
                for mode in spec.modes
                for change in changes
            ]
        engine = EngineInfo("hf", "nano-1", spec.fingerprint, FrameGeometry(32, 2), spec.details)
        manifest = Manifest(
            spec.label,
            engine,
            tuple(entries),
            "2026",
            "0.1.0",
            attempts=spec.attempts,
            limit=spec.limit,
            shard=spec.shard,
        )
        folder = tmp_path / spec.name
        with RunLog.open(folder, manifest) as log:
            for entry in entries:
                for index in range(spec.samples - spec.leave_out):
                    for attempt in range(spec.attempts):
                        log.append(_record(spec, entry, index, attempt))
            write_summary(folder, summarise(manifest, log.records, spec.baselines))
        return folder

    return make
