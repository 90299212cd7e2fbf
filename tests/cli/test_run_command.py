"""``vital-eval run``, ``rescore`` and ``prepare`` from the command line down to the files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tasks.official_forms import video_mme
from tests.toy_world import ANSWER, TASK, run_arguments, write_data_root, write_video
from vital_eval.cli.main import main
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.run_log import read_run
from vital_eval.settings import Settings
from vital_eval.video.frame_store import StoreSettings


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_data_root(tmp_path)
    return tmp_path


def lines_of(run: Path) -> int:
    records = run / "records.jsonl"
    return records.read_bytes().count(b"\n") if records.exists() else 0


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "vital_eval", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_records(process: subprocess.Popen[str], run: Path, wanted: int) -> None:
    deadline = time.monotonic() + 60
    while lines_of(run) < wanted:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_from_start_to_summary(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = world / "run"
    assert main(run_arguments(world, out)) == 0
    told = capsys.readouterr()
    assert "charades_sta" in told.out
    assert "32/32 episodes" in told.err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["complete"]
    assert [cell["mode"] for cell in summary["cells"]] == ["blind", "direct", "cot", "tool"]
    assert set(summary["baselines"][TASK]) == {"whole video", "centre span", "random"}
    before = (out / "summary.json").read_bytes()
    assert main(run_arguments(world, out)) == 0
    assert (out / "summary.json").read_bytes() == before
    assert lines_of(out) == 32


def test_a_run_says_what_its_frame_store_was_good_for(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = world / "kept"
    for name, expected in (("one", r"\d+ clips taken, [1-9]\d* decoded"), ("two", r"[1-9]\d* clips taken, 0 decoded")):
        assert main(run_arguments(world, world / name, "--modes", "tool", "--frame-store", str(store))) == 0
        assert re.search(f"frame store {store}: {expected}", capsys.readouterr().out)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_or_interrupted_then_resumed_is_the_same(world: Path, kill: signal.Signals) -> None:
    whole, broken = world / "whole", world / "broken"
    assert main(run_arguments(world, whole)) == 0
    arguments = run_arguments(world, broken, "--concurrency", "2", delay=0.08)
    process = start(arguments)
    wait_for_records(process, broken, 3)
    process.send_signal(kill)
    _, errors = process.communicate(timeout=60)
    if kill is not signal.SIGKILL:
        assert process.returncode == 130
        assert "interrupted" in errors
        assert "run the same command again to resume" in errors
        assert "Traceback" not in errors
    else:
        assert process.returncode == -signal.SIGKILL
    assert 3 <= lines_of(broken) < 32
    assert not (broken / "summary.json").exists()
    assert main(run_arguments(world, broken, "--concurrency", "2")) == 0
    assert (broken / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
    assert len(read_run(broken)[1]) == 32


def test_missing_video_leaves_samples_owed_and_says_why(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "data" / TASK / "videos" / "V2.mp4").unlink()
    assert main(run_arguments(world, world / "run", "--modes", "tool")) == 3
    told = capsys.readouterr().err
    assert "2 of 8 episodes are owed: 2 media-failed (missing)" in told
    assert not json.loads((world / "run" / "summary.json").read_text())["complete"]


def test_videos_of_another_length_are_named(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(world, world / "as-annotated", "--modes", "cot")) == 0
    assert "annotated" not in capsys.readouterr().err
    path = world / "data" / TASK / "charades_test.json"
    annotations = json.loads(path.read_text())
    annotations["V1"]["duration"] = annotations["V2"]["duration"] = 34.0
    path.write_text(json.dumps(annotations))
    assert main(run_arguments(world, world / "run", "--modes", "blind,cot")) == 0
    told = re.compile(r"4 samples are about videos .* such as charades_sta '.*': annotated as 34.00 s, the file has")
    assert told.search(capsys.readouterr().err)
    assert main(run_arguments(world, world / "run", "--modes", "blind,cot")) == 0  # nothing is left to play
    assert told.search(capsys.readouterr().err)


def test_a_dead_engine_is_one_line(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_root = write_data_root(world / "big", videos=11)
    arguments = run_arguments(world, world / "run", "--modes", "tool", dead=True)
    arguments[arguments.index("--data-root") + 1] = str(data_root)
    assert main(arguments) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("error: the engine failed 20 times in a row")


def test_another_specification_is_refused_and_named(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(world, world / "run", "--modes", "cot")) == 0
    assert main(run_arguments(world, world / "run", "--modes", "cot", "--label", "other")) == 1
    assert "label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--tasks", "charades_st"), "did you mean charades_sta?"),
        (("--tasks", ","), "no task given"),
        (("--modes", "tol"), "did you mean tool?"),
        (("--modes", "cot,cot"), "named twice"),
        (("--preset", "vitall"), "did you mean vital?"),
        (("--engine", "toi"), "did you mean toy"),
        (("--data-root", "/no/such/root"), "data root /no/such/root does not exist"),
        (("--tasks", "mmvu"), "mmvu has no folder"),
        (("--plugin", "/no/plugin.py"), "plugin file /no/plugin.py does not exist"),
        (("--protocol", "/no/protocol.json", "--modes", "cot"), "a protocol file says it all"),
        (("--subtitles",), "subtitles, which task charades_sta does not have"),
        (("--config", "/no/run.toml"), "cannot read /no/run.toml"),
    ],
)
def test_mistakes_are_one_line_and_exit_1(
    world: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, ...], words: str
) -> None:
    assert main([*run_arguments(world, world / "run"), *change]) == 1
    told = capsys.readouterr().err
    assert words in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert not (world / "run").exists()


@pytest.mark.parametrize(
    "flag", ["--limit=0", "--shard=5/4", "--shard=x", "--batch-size=many", "--decode-workers=2000000", "--nonsense"]
)
def test_wrong_arguments_exit_2(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", flag])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_debug_shows_the_error_itself(world: Path) -> None:
    from vital_eval.errors import UnknownNameError

    with pytest.raises(UnknownNameError):
        main([*run_arguments(world, world / "run", "--debug"), "--tasks", "nothing"])


def test_blind_needs_no_video_where_the_duration_is_annotated(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = world / "data" / TASK / "videos"
    for path in videos.iterdir():
        path.unlink()
    out = world / "run"
    blind = run_arguments(world, out, "--modes", "blind", turns=(ANSWER,))
    assert main(blind) == 0
    _, records = read_run(out)
    assert len(records) == 8
    assert {record.trajectory.frame_times for record in records} == {()}
    assert {record.trajectory.turns[0].visual_tokens for record in records} == {0}
    before = (out / "summary.json").read_bytes()
    assert json.loads(before)["complete"]
    assert main(blind) == 0
    assert (out / "summary.json").read_bytes() == before
    # The control: the direct question cannot do without.
    assert main(run_arguments(world, world / "seen", "--modes", "direct", turns=(ANSWER,))) == 3
    capsys.readouterr()
    assert main(run_arguments(world, world / "shown", "--modes", "blind", "--show", "1")) == 0
    told = capsys.readouterr().out
    assert "The video is 6.00 seconds long." in told
    assert "frames at" not in told


def test_a_training_file_beside_the_test_file_gives_the_prior_span(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = world / "data" / TASK / "charades_train.json"
    plain = world / "plain"
    assert main(run_arguments(world, plain, "--modes", "blind")) == 0
    content = {"T": {"duration": 10.0, "timestamps": [[2.0, 6.0]], "sentences": ["person sits."]}}
    training.write_text(json.dumps(content))
    fitted = world / "fitted"
    assert main(run_arguments(world, fitted, "--modes", "blind")) == 0
    one, other = (json.loads((run / "summary.json").read_text()) for run in (plain, fitted))
    # [0.2, 0.6] of 6 seconds is [1.2, 3.6]; half of the queries are [0.5, 4], the others start at 1.
    assert other["baselines"][TASK]["prior span"]["value"] > other["baselines"][TASK]["whole video"]["value"]
    del other["baselines"][TASK]["prior span"]
    assert one == other
    assert read_run(plain)[0].entries[0].data_hash == read_run(fitted)[0].entries[0].data_hash
    assert main(["rescore", str(fitted), "--data-root", str(world / "data")]) == 0
    again = world / "fitted-rescored" / "summary.json"
    assert again.read_bytes() == (fitted / "summary.json").read_bytes()
    training.write_text("{")
    capsys.readouterr()
    assert main(run_arguments(world, world / "damaged", "--modes", "blind")) == 1
    assert "charades_train.json is not JSON" in capsys.readouterr().err
    assert not (world / "damaged").exists()


def write_subtitled_world(root: Path) -> list[str]:
    """Write a Video-MME folder with three videos, two of them with subtitles; return the arguments of a run."""
    folder = root / "data" / "video_mme"
    for number in range(3):
        write_video(folder / "videos" / f"vid{number}.mp4")
    video_mme(folder)
    (folder / "subtitle").mkdir()
    (folder / "subtitle" / "vid0.srt").write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nhello <|im_end|> there\n\n2\n00:01:00,000 --> 00:01:02,000\ntoo late\n"
    )
    (folder / "subtitle" / "vid1.srt").write_text("2\n00:01:00,000 --> 00:01:02,000\ntoo late\n")
    arguments = run_arguments(root, root / "run", turns=("<think>x</think><answer>C</answer>",))
    arguments[arguments.index("--tasks") + 1] = "video_mme"
    return arguments


def test_subtitles_from_file_to_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = write_subtitled_world(tmp_path)
    assert main([*arguments, "--subtitles", "--modes", "blind,cot"]) == 0
    manifest, records = read_run(tmp_path / "run")
    asked = {entry.protocol.mode: entry.protocol for entry in manifest.entries}
    assert asked[Mode.COT].subtitles
    assert asked[Mode.COT].name == "vital-cot-subtitles"
    assert asked[Mode.BLIND].hash == preset("vital", Mode.BLIND, "video_mme").hash
    odd = {(record.mode, record.sample_id): record.trajectory.turns[0].anomalies for record in records}
    assert odd[Mode.COT, "002-1"] == ("subtitles-missing",)
    assert {key for key, anomalies in odd.items() if anomalies} == {(Mode.COT, "002-1")}
    capsys.readouterr()
    assert main([*arguments, "--subtitles", "--modes", "cot", "--show", "3"]) == 0
    told = capsys.readouterr().out
    first, second, third = (part for part in told.split("===") if "video_mme 00" in part)
    assert "[1.0 to 2.0] hello there\n\nThe video is 6.00" in first
    assert "too late" not in told
    assert "subtitle" not in second.partition("--- system")[2]
    assert "[subtitles-missing]" in third
    assert main([*arguments, "--modes", "cot", "--show", "3"]) == 0
    assert "subtitle" not in capsys.readouterr().out.lower().replace("--subtitles", "")


def test_subtitles_beside_a_protocol_file_are_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = run_arguments(world, world / "run", "--protocol", "/no/protocol.json", "--subtitles")
    del arguments[arguments.index("--preset") : arguments.index("--preset") + 2]
    assert main(arguments) == 1
    assert "a protocol file says it all" in capsys.readouterr().err


def test_dry_run_prints_the_plan_and_touches_nothing(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(world, world / "run", "--dry-run", "--limit", "3", "--modes", "tool")) == 0
    told = capsys.readouterr().out
    protocol = preset("vital", Mode.TOOL, TASK)
    assert protocol.hash in told
    assert "3 episodes" in told
    assert json.loads(told[told.index("{") :]) == json.loads(json.dumps(protocol.to_json()))
    assert not (world / "run").exists()


def test_show_prints_prompt_and_frame_times(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(world, world / "run", "--show", "1", "--modes", "tool")) == 0
    told = capsys.readouterr().out
    assert "--- system" in told
    assert "get_video_clip_frame" in told
    assert "person opens box 0." in told
    assert "frames at 0.000 0.500" in told
    assert not (world / "run").exists()


def test_limit_and_shards_mark_the_manifest(world: Path) -> None:
    counted = []
    for index in (1, 2):
        out = world / f"shard{index}"
        assert main(run_arguments(world, out, "--modes", "cot", "--limit", "6", "--shard", f"{index}/2")) == 0
        manifest, records = read_run(out)
        assert (manifest.limit, manifest.shard) == (6, f"{index}/2")
        counted.append(len(records))
    assert sum(counted) == 6


def test_a_shard_may_be_empty(world: Path) -> None:
    for index in (1, 2):
        assert main(run_arguments(world, world / f"s{index}", "--limit", "1", "--shard", f"{index}/2")) == 0
    assert sorted(lines_of(world / f"s{index}") for index in (1, 2)) == [0, 4]


def test_dead_tools_are_said_loudly(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = run_arguments(world, world / "run", "--modes", "tool", turns=("<tool_call>{</tool_call>", ANSWER))
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert "INVALID: 8 of 8 tool calls failed, most often by bad-json" in told.err
    assert "INVALID" in told.out


def test_config_file_gives_options_and_flags_win(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = world / "run.toml"
    config.write_text('modes = ["cot", "tool"]\nlimit = 2\nout = "elsewhere"\ndry-run = true\nbatch_size = 4\n')
    assert main(run_arguments(world, world / "run", "--config", str(config), "--modes", "direct")) == 0
    told = capsys.readouterr().out
    assert "2 episodes" in told
    assert "vital-direct" in told
    config.write_text("attempts = 3\nbatch-size = 2\ndry-run = true\n")
    assert main(run_arguments(world, world / "run", "--config", str(config), "--attempts", "1")) == 0
    assert "attempts" not in capsys.readouterr().out, "a flag that repeats the default wins, too"
    config.write_text("limitt = 2\n")
    assert main(run_arguments(world, world / "run", "--config", str(config))) == 1
    assert "did you mean limit" in capsys.readouterr().err
    config.write_text("limit = true\n")
    assert main(run_arguments(world, world / "run", "--config", str(config))) == 1
    assert "limit cannot be True" in capsys.readouterr().err


def test_memory_and_frame_store_reach_the_settings(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    def note(*given: object) -> int:
        (settings,) = (one for one in given if isinstance(one, Settings))
        seen.append(settings)
        return 0

    monkeypatch.setattr("vital_eval.cli.carry_out.carry_out", note)
    monkeypatch.chdir(world)
    arguments = run_arguments(world, world / "run")
    assert main(arguments) == 0
    assert main([*arguments, "--cache-gib", "0.5", "--frame-store", "frames", "--frame-store-gib", "2"]) == 0
    config = world / "run.toml"
    config.write_text('cache-gib = 1.5\nframe-store = "kept"\n')
    assert main([*arguments, "--config", str(config)]) == 0
    plain, given, filed = seen
    assert (plain.cache_bytes, plain.frame_store) == (4 * 2**30, None)
    assert (given.cache_bytes, given.frame_store) == (2**29, StoreSettings(world / "frames", 2 * 2**30))
    assert (filed.cache_bytes, filed.frame_store) == (3 * 2**29, StoreSettings(world / "kept", 100 * 2**30))


def test_a_size_without_a_store_is_one_clear_line(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(world, world / "run", "--frame-store-gib", "1")) == 1
    assert "--frame-store-gib without --frame-store" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--cache-gib", "--frame-store-gib"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much", ""])
def test_a_size_that_is_none_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "--data-root", str(tmp_path), "--out", str(tmp_path / "run"), option, value])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: argument {option}: ")
    assert "must be above 0" in line or "is not a number" in line
    config = tmp_path / "run.toml"
    config.write_text(f'{option.lstrip("-")} = "{value}"\n')
    assert main(["run", "--data-root", str(tmp_path), "--out", str(tmp_path / "run"), "--config", str(config)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{option.lstrip('-')} cannot be" in line
    assert not (tmp_path / "run").exists()


def test_a_protocol_file(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocol = preset("vital", Mode.COT, TASK)
    path = world / "mine.json"
    path.write_text(json.dumps(protocol.to_json()))
    arguments = run_arguments(world, world / "run", "--protocol", str(path), "--dry-run")
    del arguments[arguments.index("--preset") : arguments.index("--preset") + 2]
    assert main(arguments) == 0
    assert protocol.hash in capsys.readouterr().out
    path.write_text(json.dumps({**protocol.to_json(), "max_turn": 3}))
    assert main(arguments) == 1
    assert "max_turn" in capsys.readouterr().err


def test_rescore_needs_no_video_and_agrees_with_the_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = world / "run"
    assert main(run_arguments(world, run)) == 0
    for path in (world / "data" / TASK / "videos").iterdir():
        path.unlink()
    arguments = ["rescore", str(run), "--data-root", str(world / "data")]
    assert main(arguments) == 0
    assert "0 of 32 records changed" in capsys.readouterr().out
    again = world / "run-rescored"
    assert (again / "summary.json").read_bytes() == (run / "summary.json").read_bytes()
    assert read_run(again)[1] == read_run(run)[1]
    assert main(arguments) == 1
    assert "exists" in capsys.readouterr().err


def test_rescore_grades_stored_text_with_todays_code(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vital_eval.tasks.moment_retrieval import MomentRetrieval

    run = world / "run"
    assert main(run_arguments(world, run, "--modes", "direct", turns=(ANSWER,))) == 0
    monkeypatch.setattr(
        MomentRetrieval,
        "score",
        lambda self, answer, sample: {**dict.fromkeys(("iou", "r1@0.3", "r1@0.5", "r1@0.7"), 0.0)},
    )
    assert main(["rescore", str(run), "--data-root", str(world / "data"), "--out", str(world / "new")]) == 0
    assert "8 of 8 records changed" in capsys.readouterr().out
    assert json.loads((world / "new" / "summary.json").read_text())["cells"][0]["metrics"]["mIoU"]["value"] == 0


def test_rescore_refuses_other_annotations(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(world, world / "run", "--modes", "direct")) == 0
    path = world / "data" / TASK / "charades_test.json"
    path.write_text(path.read_text().replace("box 1", "bag 1"))
    assert main(["rescore", str(world / "run"), "--data-root", str(world / "data")]) == 1
    assert "annotation files of charades_sta" in capsys.readouterr().err


def test_prepare_finds_what_is_wrong(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world / "data" / TASK
    assert main(["prepare", TASK, "--source", str(world / "data")]) == 0
    whole = json.loads((folder / "prepared.json").read_text())
    assert (whole["samples"], whole["videos"], whole["problems"]) == (8, 4, [])
    (folder / "videos" / "V1.mp4").unlink()
    (folder / "videos" / "V2.mp4").write_bytes(b"this is no video")
    (folder / "videos" / "extra.mp4").write_bytes(b"unused")
    annotations = json.loads((folder / "charades_test.json").read_text())
    annotations["V3"]["duration"] = 30.0
    annotations["V0"]["timestamps"][1] = [5.0, 5.0]
    (folder / "charades_test.json").write_text(json.dumps(annotations))
    capsys.readouterr()
    assert main(["prepare", TASK, "--source", str(folder), "--fast"]) == 1
    told = capsys.readouterr()
    assert "4 of 8 samples cannot be answered" in told.err
    found = json.loads((folder / "prepared.json").read_text())
    assert {problem["video"]: problem["kind"] for problem in found["problems"]} == {
        "V1.mp4": "missing",
        "V2.mp4": "unreadable",
        "V3.mp4": "duration-mismatch",
    }
    assert found["unused"] == ["extra.mp4"]
    assert (whole["degenerate"], found["degenerate"]) == ([], ["V0/1"])
    assert "they stay in n): V0/1" in told.out
    assert found["data_hash"] != whole["data_hash"]
    assert found["media_hash"] != whole["media_hash"]


def test_prepare_survives_what_is_no_file(world: Path) -> None:
    folder = world / "data" / TASK
    for name in ("V1.mp4", "V2.mp4"):
        (folder / "videos" / name).unlink()
    (folder / "videos" / "V1.mp4").mkdir()
    os.mkfifo(folder / "videos" / "V2.mp4")
    assert main(["prepare", TASK, "--source", str(folder)]) == 1
    found = json.loads((folder / "prepared.json").read_text())
    assert [(problem["video"], problem["kind"]) for problem in found["problems"]] == [
        ("V1.mp4", "unreadable"),
        ("V2.mp4", "unreadable"),
    ]


def test_rescore_from_inside_the_run(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(run_arguments(world, world / "run")) == 0
    monkeypatch.chdir(world / "run")
    assert main(["rescore", ".", "--data-root", str(world / "data")]) == 0
    assert len(read_run(world / "run-rescored")[1]) == 32


def test_no_space_is_a_clear_line(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("vital_eval.line_file.os.fsync", full)
    assert main(run_arguments(world, world / "run", "--modes", "cot")) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("error: disk full while writing")


def test_shards_together_are_the_whole_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = [world / f"shard{index}" for index in (1, 2)]
    for index, out in enumerate(shards, start=1):
        assert main(run_arguments(world, out, "--shard", f"{index}/2")) == 0
    assert main(run_arguments(world, world / "whole")) == 0
    data = ["--data-root", str(world / "data")]
    # Any order of the shards; a lone shard, one given twice, and a whole run among them are refused.
    assert main(["rescore", str(shards[1]), str(shards[0]), *data, "--out", str(world / "merged")]) == 0
    merged, whole = (json.loads((world / name / "summary.json").read_text()) for name in ("merged", "whole"))
    assert merged["cells"] == whole["cells"]
    assert merged["baselines"] == whole["baselines"]
    manifest, records = read_run(world / "merged")
    assert manifest.shard is None
    assert len(records) == 32
    capsys.readouterr()
    for wrong, complaint in (
        ([shards[0], world / "whole"], "not a shard"),
        ([shards[0], shards[0].parent / "." / "shard1" / ".." / "shard1"], "both shard 1/2"),
    ):
        assert main(["rescore", *map(str, wrong), *data, "--out", str(world / "x")]) == 1
        assert complaint in capsys.readouterr().err
    assert main(["rescore", *map(str, shards), *data]) == 1
    assert "--out" in capsys.readouterr().err
