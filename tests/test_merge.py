"""Merging below the command: figures from thinned records, tries at one sample, many logs, little memory."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path

import pytest

from vital_eval import merge
from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.errors import RunLogError
from vital_eval.generation import FinishReason
from vital_eval.manifest import Entry, Manifest, write_manifest
from vital_eval.merge import figures_only, whole_manifest, write_merged
from vital_eval.outcome import Outcome
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.record import Record, record_to_line
from vital_eval.run_log import read_run
from vital_eval.summary import summarise
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

MODES = (Mode.COT, Mode.TOOL)


def make_manifest(numbers: range, shard: str | None = None, attempts: int = 1) -> Manifest:
    samples = tuple((f"s{index}", f"v{index // 2}") for index in numbers)
    entries = tuple(
        Entry("moments", 1, "mIoU", {"mIoU": "iou"}, preset("nano", mode, "moments"), "d1", samples) for mode in MODES
    )
    engine = EngineInfo("hf", "nano-1", "f1", FrameGeometry(32, 2))
    return Manifest("nano", engine, entries, "2026", "0.1.0", attempts=attempts, shard=shard)


def make_record(index: int, mode: Mode, attempt: int = 0, text: str = "words") -> Record:
    odd = {3: Outcome.UNPARSED, 5: Outcome.INFRA_FAILED}.get(index % 7, Outcome.ANSWERED)
    call = ToolCall("raw", "get_video_clip_frame", "bad-json" if index % 4 == 0 else "", "seen", (0, 1))
    turn = Turn(text, FinishReason.STOP_STRING, 40, 0, 24, 12, 0.2, call if mode is Mode.TOOL else None)
    return Record(
        task="moments",
        mode=mode,
        protocol=preset("nano", mode, "moments").hash,
        sample_id=f"s{index}",
        attempt=attempt,
        cluster=f"v{index // 2}",
        outcome=odd,
        reason="" if odd is Outcome.ANSWERED else "why",
        answer=None,
        scores={"iou": 0.1 * (index % 10) if odd is Outcome.ANSWERED else 0.0},
        trajectory=Trajectory((turn, turn), StopReason.ANSWERED, "1", (0.0, 1.0), 9.0, "", 1.5),
    )


def write_shard(folder: Path, manifest: Manifest, text: str = "words") -> None:
    folder.mkdir()
    write_manifest(folder, manifest)
    numbers = [int(identity[1:]) for identity, _ in manifest.entries[0].samples]
    with (folder / "records.jsonl").open("w") as file:
        for index in numbers:
            for mode in MODES:
                file.writelines(
                    record_to_line(make_record(index, mode, attempt, text)) for attempt in range(manifest.attempts)
                )


def write_split(root: Path, size: int, parts: int, attempts: int = 1, text: str = "words") -> dict[Path, Manifest]:
    runs = {}
    for number in range(parts):
        manifest = make_manifest(range(number, size, parts), f"{number + 1}/{parts}", attempts)
        runs[root / f"p{number}"] = manifest
        write_shard(root / f"p{number}", manifest, text)
    return runs


def merged(out: Path, runs: dict[Path, Manifest]) -> merge.Merged:
    whole = whole_manifest({str(folder): manifest for folder, manifest in runs.items()})
    return write_merged(out, runs, whole.manifest, {})


def test_figures_need_no_texts() -> None:
    manifest = make_manifest(range(40))
    records = [make_record(index, mode) for index in range(40) for mode in MODES]
    whole = summarise(manifest, records)
    assert summarise(manifest, map(figures_only, records)) == whole
    # The control: without its calls a tool run is none.
    bare = (
        dataclasses.replace(record, trajectory=Trajectory((), StopReason.ANSWERED, None, (), 0.0)) for record in records
    )
    assert summarise(manifest, bare) != whole


@pytest.mark.parametrize("attempts", [1, 3])
def test_many_logs_and_several_attempts(tmp_path: Path, attempts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_OPEN_FILES", 2)  # more logs than may be open
    result = merged(tmp_path / "out", write_split(tmp_path, 30, 5, attempts))
    manifest, records = read_run(tmp_path / "out")
    assert (len(records), result.records, result.total) == (60 * attempts,) * 3
    assert result.summary == summarise(manifest, records)
    expected = {
        record_to_line(make_record(index, mode, attempt))
        for index in range(30)
        for mode in MODES
        for attempt in range(attempts)
    }
    assert set((tmp_path / "out" / "records.jsonl").read_text().splitlines(keepends=True)) == expected
    failed = 2 * attempts * sum(index % 7 == 5 for index in range(30))
    assert dict(result.owed) == {"why": failed}
    assert len(result.named) == min(failed, merge.NAMED)


def test_a_second_record_in_one_log_is_damage(tmp_path: Path) -> None:
    runs = write_split(tmp_path, 4, 2)
    path = tmp_path / "p0" / "records.jsonl"
    path.write_text(path.read_text() + record_to_line(make_record(0, Mode.COT)))
    with pytest.raises(RunLogError, match="line 5: second record of moments 's0'"):
        merged(tmp_path / "out", runs)


def test_the_manifest_is_that_of_the_whole() -> None:
    one, two = make_manifest(range(0, 4, 2), "1/2"), make_manifest(range(1, 4, 2), "2/2")
    two = dataclasses.replace(two, created="2025", packages={"torch": "2"}, git_commit="abc")
    whole = whole_manifest({"b": two, "a": one})
    assert [identity for identity, _ in whole.manifest.entries[1].samples] == ["s0", "s2", "s1", "s3"]
    assert (whole.manifest.created, whole.manifest.shard, whole.missing) == ("2025", None, ())
    assert whole.unlike == ("torch", "git_commit")
    with pytest.raises(RunLogError, match="shards 2/4, 3/4, 4/4 are missing"):
        whole_manifest({"a": dataclasses.replace(one, shard="1/4")})


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    peaks = []
    for name, text in (("short", "x"), ("long", "x" * 4000)):
        root = tmp_path / name
        root.mkdir()
        runs = write_split(root, 300, 2, text=text)
        tracemalloc.start()
        merged(root / "out", runs)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 600 records of two turns: almost five million characters more on disk.
    assert peaks[1] - peaks[0] < 400_000
