"""A run over MMVU questions in the official form, most of them open-ended, without a model or a video."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from vital_eval.data_root import TaskData, read_task
from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.manifest import Entry, Manifest
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.record import Record
from vital_eval.registry import Registry
from vital_eval.run_log import RunLog
from vital_eval.runner import make_record
from vital_eval.trajectory import StopReason, Trajectory

TASK = "mmvu"
REFERENCE = "Pan Shot"
OPEN, CHOICES = 10, 2

#: Open sample to its answer field: right by the rules; right or wrong by a judge that looks for "right"; none.
ANSWERS: Mapping[str, str | None] = {
    "open_0": "pan shot",
    "open_1": "the right panning",
    "open_2": "the right panning too",
    "open_3": "a zoom",
    "open_4": "a tilt",
    "open_5": "",
    "open_6": " . ",
    "open_7": None,
    "open_8": "another right one",
    "open_9": "THE ANSWER IS: pan shot.",
}


def write_data_root(root: Path, question: str = "Which shot is it?") -> Path:
    """Write the annotation file and return the data root."""
    folder = root / "data" / TASK
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"A": "pan", "B": "tilt", "C": "zoom", "D": "dolly", "E": "crane"}

    def row(identity: str, kind: str, number: int, choices: dict[str, str], answer: str) -> dict[str, object]:
        return {
            "id": identity,
            "video": f"https://example.org/resolve/main/videos/Art/{number // 2}.mp4",
            "youtube_url": "",
            "metadata": {"subject": "Art", "textbook": "", "knowledge": [], "rationale": ""},
            "question": question,
            "question_type": kind,
            "choices": choices,
            "answer": answer,
        }

    rows = [row(f"open_{n}", "open-ended", n, dict.fromkeys(texts, ""), REFERENCE) for n in range(OPEN)]
    rows += [row(f"choice_{n}", "multiple-choice", n, texts, "D") for n in range(CHOICES)]
    (folder / "validation.json").write_text(json.dumps(rows))
    return root / "data"


def read_data(data_root: Path) -> TaskData:
    return read_task(Registry("task").load(TASK)(), data_root)


def make_run(
    data: TaskData,
    answers: Mapping[str, str | None] = ANSWERS,
    modes: Iterable[Mode] = (Mode.COT,),
    failed: Iterable[str] = (),
) -> tuple[Manifest, tuple[Record, ...]]:
    """Return manifest and records of a run in which every mode gives the same answers, and letters are wrong."""
    task = data.task
    protocols = [preset("nano", mode, TASK) for mode in modes]
    entries = tuple(
        Entry(
            task=TASK,
            scorer_version=task.scorer_version,
            primary=task.primary,
            metrics={metric.name: metric.score for metric in task.metrics},
            protocol=protocol,
            data_hash=data.data_hash,
            samples=tuple((sample.id, sample.cluster) for sample in data.samples),
        )
        for protocol in protocols
    )
    engine = EngineInfo("hf", "model", "f1", FrameGeometry(32, 2))
    manifest = Manifest("model", engine, entries, "2026", "0.1.0")

    def trajectory(sample_id: str) -> Trajectory:
        text = answers.get(sample_id, "the right letter is A")
        stop = StopReason.NO_ANSWER if text is None else StopReason.ANSWERED
        stop = StopReason.ENGINE_FAILED if sample_id in set(failed) else stop
        return Trajectory((), stop, text, (), 10.0)

    records = tuple(
        make_record(task, sample, protocol, 0, trajectory(sample.id))
        for protocol in protocols
        for sample in data.samples
    )
    return manifest, records


def write_run(folder: Path, manifest: Manifest, records: Iterable[Record]) -> Path:
    with RunLog.open(folder, manifest) as log:
        for record in records:
            log.append(record)
    return folder
