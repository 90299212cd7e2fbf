"""``vital-eval merge``: shards together are the run that one machine would have made."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.timeless import timeless
from tests.toy_world import ANSWER, TASK, run_arguments, write_data_root
from vital_eval.cli.main import main
from vital_eval.data_root import Shard, select
from vital_eval.manifest import Manifest, differing, read_manifest, write_manifest
from vital_eval.record import Record, record_to_line
from vital_eval.run_log import read_run
from vital_eval.sample import Sample, Target


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a world with a whole run and the same run as two shards."""
    world = tmp_path_factory.mktemp("made")
    write_data_root(world)
    for name, more in (("whole", ()), ("s1", ("--shard", "1/2")), ("s2", ("--shard", "2/2"))):
        assert main(run_arguments(world, world / name, "--modes", "direct,tool", *more)) == 0
    return world


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "world")
    return tmp_path / "world"


def merge(world: Path, out: str, *runs: str, data: bool = True) -> int:
    more = ["--data-root", str(world / "data")] if data else []
    return main(["merge", str(world / out), *(str(world / run) for run in runs), *more])


def timeless_lines(records: tuple[Record, ...]) -> set[str]:
    return {record_to_line(timeless(record)) for record in records}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_two_shards_are_the_whole_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: contents(world / name) for name in ("s1", "s2")}
    assert all(0 < len(read_run(world / name)[1]) < 16 for name in before), "a shard is a real part"
    assert merge(world, "merged", "s2", "s1") == 0
    told = capsys.readouterr()
    assert "16 records of 2 shards" in told.out
    assert told.err == ""
    assert (world / "merged" / "summary.json").read_bytes() == (world / "whole" / "summary.json").read_bytes()
    manifest, records = read_run(world / "merged")
    whole, wanted = read_run(world / "whole")
    assert differing(manifest, whole) == ()
    assert timeless_lines(records) == timeless_lines(wanted)
    assert timeless_lines(records[1:]) != timeless_lines(wanted)
    assert {name: contents(world / name) for name in before} == before
    # It is an ordinary run: the command without --shard finds nothing left to do.
    merged = (world / "merged" / "records.jsonl").read_bytes()
    assert main(run_arguments(world, world / "merged", "--modes", "direct,tool")) == 0
    assert (world / "merged" / "records.jsonl").read_bytes() == merged


def write_shards(world: Path, count: int) -> None:
    """Deal the whole run's own records, times included, to folders ``p1`` ... as sharded runs would hold them."""
    manifest, records = read_run(world / "whole")
    for number in range(1, count + 1):
        part = _part(manifest, Shard(number, count))
        dealt = {identity for identity, _ in part.entries[0].samples}
        folder = world / f"p{number}"
        folder.mkdir()
        write_manifest(folder, part)
        lines = [record_to_line(record) for record in records if record.sample_id in dealt]
        (folder / "records.jsonl").write_text("".join(lines))


def _part(manifest: Manifest, shard: Shard) -> Manifest:
    entries = []
    for entry in manifest.entries:
        samples = tuple(Sample(i, entry.task, "", None, "", Target(), cluster) for i, cluster in entry.samples)
        kept = {sample.id for sample in select(samples, None, shard)}
        entries.append(dataclasses.replace(entry, samples=tuple(pair for pair in entry.samples if pair[0] in kept)))
    return dataclasses.replace(manifest, entries=tuple(entries), shard=str(shard))


def board(world: Path, run: Path) -> dict[str, bytes]:
    out = world / f"board-{run.parent.name}"
    assert main(["board", str(run), "--out", str(out), "--no-plots"]) == 0
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_boards_are_equal_byte_by_byte(world: Path) -> None:
    write_shards(world, 3)
    (world / "a").mkdir()
    (world / "b").mkdir()
    shutil.copytree(world / "whole", world / "a" / "run")
    assert merge(world, "b/run", "p3", "p1", "p2") == 0
    one, other = world / "a" / "run", world / "b" / "run"
    for name in ("manifest.json", "summary.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    lines = [sorted((run / "records.jsonl").read_bytes().splitlines()) for run in (one, other)]
    assert lines[0] == lines[1]
    before = board(world, one)
    assert before == board(world, other)
    # The control: one answer less shows.
    text = (other / "records.jsonl").read_text()
    (other / "records.jsonl").write_text(text.partition("\n")[2])
    assert before != board(world, other)


def test_without_annotation_files_the_figures_are_the_same(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge(world, "merged", "s1", "s2", data=False) == 0
    assert "no baselines" in capsys.readouterr().err
    merged, whole = (json.loads((world / name / "summary.json").read_text()) for name in ("merged", "whole"))
    assert merged["cells"] == whole["cells"]
    assert merged["baselines"] == {}
    assert read_manifest(world / "merged").shard is None


def test_a_missing_shard_is_named_and_its_samples_are_owed(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owed = 16 - len(read_run(world / "s1")[1])
    assert merge(world, "merged", "s1", data=False) == 1
    assert "shard 2/2 is missing" in capsys.readouterr().err
    assert not (world / "merged").exists()
    assert merge(world, "merged", "s1") == 3
    told = capsys.readouterr()
    assert "missing shards: 2/2" in told.err
    assert f"{owed} of 16 episodes are owed: {owed} no record" in told.err
    assert f"owed: {TASK} direct {read_manifest(world / 's2').entries[0].samples[0][0]}: no record" in told.err
    assert "incomplete" in told.out
    assert not json.loads((world / "merged" / "summary.json").read_text())["complete"]
    # What is owed can be answered in the merged folder itself.
    assert main(run_arguments(world, world / "merged", "--modes", "direct,tool")) == 0
    assert (world / "merged" / "summary.json").read_bytes() == (world / "whole" / "summary.json").read_bytes()


def test_failures_stay_owed_and_the_resumed_copy_counts(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = world / "data" / TASK / "videos" / "V2.mp4"
    content = video.read_bytes()
    video.unlink()
    status = [main(run_arguments(world, world / f"f{i}", "--modes", "direct", "--shard", f"{i}/2")) for i in (1, 2)]
    assert 3 in status
    capsys.readouterr()
    assert merge(world, "merged", "f1", "f2") == 3
    assert "2 of 8 episodes are owed: 2 media-failed (missing)" in capsys.readouterr().err
    assert len(read_run(world / "merged")[1]) == 8
    # A copy of a failed shard, resumed: what it answered counts, what both hold counts once, in either order.
    video.write_bytes(content)
    for number in (1, 2):
        shutil.copytree(world / f"f{number}", world / f"g{number}")
        assert main(run_arguments(world, world / f"g{number}", "--modes", "direct", "--shard", f"{number}/2")) == 0
    capsys.readouterr()
    assert merge(world, "one", "f1", "g1", "f2", "g2") == 0
    assert "6 are in two of them with equal content" in capsys.readouterr().out
    assert merge(world, "other", "g2", "g1", "f2", "f1") == 0
    assert merge(world, "plain", "g1", "g2") == 0
    plain = (world / "plain" / "records.jsonl").read_bytes()
    assert (world / "one" / "records.jsonl").read_bytes() == plain
    assert (world / "other" / "records.jsonl").read_bytes() == plain


def test_records_that_differ_in_their_times_only_count_once(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(world / "s1", world / "again")
    path = world / "again" / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["trajectory"]["began"] += 60
        line["trajectory"]["turns"][0]["seconds"] += 1
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert merge(world, "merged", "s1", "s2", "again") == 0
    assert f"; {len(lines)} are in two of them" in capsys.readouterr().out
    assert timeless_lines(read_run(world / "merged")[1]) == timeless_lines(read_run(world / "whole")[1])


def test_different_records_of_one_attempt_are_named(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(world / "s1", world / "again")
    path = world / "again" / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    record = json.loads(lines[1])
    record["trajectory"]["turns"][0]["text"] += "!"
    lines[1] = json.dumps(record) + "\n"
    path.write_text("".join(lines))
    assert merge(world, "merged", "s1", "s2", "again") == 1
    told = capsys.readouterr().err
    assert f"{world}/s1/records.jsonl, line 2, and {path}, line 2, hold different records of {TASK}" in told
    assert repr(record["sample_id"]) in told
    assert not (world / "merged").exists()


def test_mistakes_are_one_line(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "nothing").mkdir()
    (world / "inside").mkdir()
    for name, more in (("label", ("--label", "other", "--shard", "2/2")), ("third", ("--shard", "2/3"))):
        assert main(run_arguments(world, world / name, "--modes", "direct,tool", *more, turns=(ANSWER,))) == 0
    other = ("--label", "other", "--shard", "1/2")
    assert main(run_arguments(world, world / "twin", "--modes", "direct,tool", *other)) == 0
    for number in (1, 2):
        shutil.copytree(world / f"s{number}", world / f"e{number}")
        (world / f"e{number}" / "records.jsonl").write_text("")
    before = sorted(path.name for path in world.iterdir())
    for out, runs, words in (
        ("x", ["nothing", "s1"], "no run in"),
        ("x", ["s1", "whole"], "is a whole run, not a shard"),
        ("x", ["s1", "label"], "differs in label"),
        ("x", ["s1", "twin"], "both shard 1/2, but differ in label"),
        ("x", ["s1", "third"], "splits into [2, 3] parts"),
        ("x", ["s1", "s2", "nothing/../s1"], "is given twice"),
        ("x", ["e1", "e2"], "none of the shards holds a record"),
        ("inside", ["s1", "s2"], "inside exists"),
        ("s1/x", ["s1", "s2"], "which is only read"),
    ):
        capsys.readouterr()
        assert merge(world, out, *runs) == 1, words
        told = capsys.readouterr().err
        assert words in told
        assert told.startswith("error: ")
        assert told.count("\n") == 1
    assert sorted(path.name for path in world.iterdir()) == before


def test_other_annotation_files_are_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = world / "data" / TASK / "charades_test.json"
    path.write_text(path.read_text().replace("box 1", "bag 1"))
    assert merge(world, "merged", "s1", "s2") == 1
    assert "annotation files of charades_sta hash to" in capsys.readouterr().err


def test_a_killed_merge_leaves_no_half_made_run(world: Path) -> None:
    code = (
        "import os, signal, sys, vital_eval.merge as merge\n"
        "from vital_eval.cli.main import main\n"
        "merge.write_summary = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main(sys.argv[1:])"
    )
    arguments = ["merge", str(world / "merged"), str(world / "s1"), str(world / "s2")]
    done = subprocess.run([sys.executable, "-P", "-c", code, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (world / "merged").exists()
    assert merge(world, "merged", "s1", "s2") == 0


def test_an_error_leaves_nothing_behind(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    before = sorted(path.name for path in world.iterdir())
    monkeypatch.setattr("vital_eval.merge.os.fsync", full)
    assert merge(world, "merged", "s1", "s2") == 1
    assert "disk full while writing" in capsys.readouterr().err
    assert sorted(path.name for path in world.iterdir()) == before


def test_shards_that_were_dealt_otherwise_are_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, shard in (("s1", "2/2"), ("s2", "1/2")):
        write_manifest(world / name, dataclasses.replace(read_manifest(world / name), shard=shard))
    assert merge(world, "merged", "s1", "s2") == 1
    assert f"of task {TASK} in {world}/s1 has other samples" in capsys.readouterr().err
