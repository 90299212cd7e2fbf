"""``vital-eval data`` from the command line down to the files, on the nano world and with vital-nano."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest

from tests.toy_world import write_toy
from vital_eval.cli.main import main
from vital_eval.training.mtvr.files import read_rl, write_records
from vital_eval.training.nano_mtvr import write_nano_mtvr
from vital_eval.training.rolls import Rolls, RollStore, read_rolls

CHECKPOINT = Path(str(files("vital_eval.nano") / "checkpoint"))


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    write_nano_mtvr(folder, seed=5, per_source=6)
    return folder


@pytest.fixture
def records(nano: Path) -> Path:
    return nano / "MTVR_RL" / "charades.json"


def rolling(records: Path, nano: Path, out: Path, *more: str) -> list[str]:
    arguments = ["data", "roll", str(records), "--media-root", str(nano), "--out", str(out), "--preset", "nano"]
    return [*arguments, "--checkpoint", str(CHECKPOINT), "--rollouts", "4", "--device", "cpu", *more]


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rolls_of(path: Path) -> Rolls:
    found = read_rolls(path)
    assert found is not None
    return found


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(told)
    return told[-1]


def test_from_nothing_to_filtered_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, rolls, kept = tmp_path / "w", tmp_path / "r.jsonl", tmp_path / "f" / "MTVR_RL" / "charades.json"
    assert main(["data", "nano", "--out", str(world), "--per-source", "4", "--seed", "3"]) == 0
    assert "76 videos" in capsys.readouterr().out
    found = [str(path) for path in sorted(world.glob("MTVR_*/*.json"))]
    assert main(["data", "check", *found, "--media-root", str(world)]) == 0
    assert capsys.readouterr().out.count(" none") == 19
    source = world / "MTVR_RL" / "charades.json"
    # Hot enough that the policy is wrong sometimes.
    assert main(rolling(source, world, rolls, "--temperature", "1.6")) == 0
    told = capsys.readouterr()
    assert "4 records with 4 rollouts" in told.out
    assert "4/4 records rolled" in told.err
    stored = rolls_of(rolls)
    assert set(stored.by_id) == {record.id for record in read_rl(source)}
    mixed = {name for name, roll in stored.by_id.items() if any(roll.passes) and not all(roll.passes)}
    assert mixed, "the test needs a record that is solved sometimes"
    assert main(["data", "filter", str(source), "--rolls", str(rolls), "--out", str(kept)]) == 0
    assert f"kept: some rollouts pass  {len(mixed):>7}" in capsys.readouterr().out
    assert {record.id for record in read_rl(kept)} == mixed
    assert main(["data", "check", str(kept), "--media-root", str(world)]) == 0


@pytest.mark.parametrize("mode", ["cot", "tool"])
def test_rolls_are_rollouts_with_their_rewards(nano: Path, records: Path, tmp_path: Path, mode: str) -> None:
    out = tmp_path / "r.jsonl"
    assert main(rolling(records, nano, out, "--mode", mode, "--rollouts", "2")) == 0
    stored = rolls_of(out)
    assert stored.identity.protocol.mode == mode
    for roll in stored.by_id.values():
        for reward, task, turns in zip(roll.rewards, roll.task_scores, roll.texts, strict=True):
            assert len(turns) <= (2 if mode == "tool" else 1)
            called = any("<tool_call>" in turn for turn in turns)
            assert reward >= task + (0.5 if called and len(turns) == 2 else 0.0)
    assert any(len(turns) == 2 for roll in stored.by_id.values() for turns in roll.texts) is (mode == "tool")
    before = out.read_bytes()
    assert main(rolling(records, nano, out, "--mode", mode, "--rollouts", "2")) == 0
    assert out.read_bytes() == before, "nothing is owed, so nothing is played"


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "vital_eval", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(process: subprocess.Popen[str], path: Path, wanted: int) -> None:
    deadline = time.monotonic() + 60
    while lines_of(path) < wanted:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_and_gone_on_with_is_the_same(nano: Path, records: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    hot = ("--temperature", "1.6", "--rollouts", "2")
    assert main(rolling(records, nano, whole, *hot)) == 0
    process = start(rolling(records, nano, broken, *hot, "--batch-size", "1"))
    wait_for_lines(process, broken, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert 2 <= lines_of(broken) < 7
    broken.write_bytes(broken.read_bytes() + b'{"id":"nano-5-MT')
    assert main(rolling(records, nano, broken, *hot)) == 0
    assert rolls_of(broken) == rolls_of(whole)
    assert sorted(broken.read_text().splitlines()) == sorted(whole.read_text().splitlines())


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_says_how_far_it_came(nano: Path, records: Path, tmp_path: Path, kill: signal.Signals) -> None:
    plugin, checkpoint = write_toy(tmp_path, "<think>x</think><answer>1 to 3</answer>", delay=0.1)
    out = tmp_path / "r.jsonl"
    toy = ("--engine", "toy", "--plugin", str(plugin), "--checkpoint", str(checkpoint), "--batch-size", "1")
    process = start(rolling(records, nano, out, *toy))
    wait_for_lines(process, out, 2)
    process.send_signal(kill)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "of 6 records are rolled and kept" in errors
    assert main(rolling(records, nano, out, *toy)) == 0
    assert len(rolls_of(out).by_id) == 6


def test_a_missing_video_is_owed_and_the_filter_wants_to_know(
    nano: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = read_rl(records)
    lost = dataclasses.replace(first, media=dataclasses.replace(first.media, path="videos/gone.mp4"))
    source, out, kept = tmp_path / "rl.json", tmp_path / "r.jsonl", tmp_path / "kept.json"
    write_records(source, [lost, *others])
    assert main(rolling(source, nano, out, "--temperature", "1.6")) == 3
    assert f"1 of 6 records are owed: 1 media-failed (missing) (last: {first.id}: missing: " in last_error(capsys)
    filtering = ["data", "filter", str(source), "--rolls", str(out), "--out", str(kept)]
    assert main(filtering) == 1
    assert f"1 of 6 records have no rolls: {first.id}; " in last_error(capsys)
    assert not kept.exists()
    assert main([*filtering, "--allow-missing"]) == 0
    assert first.id not in {record.id for record in read_rl(kept)}


def test_a_dead_engine_is_one_line(
    nano: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin, checkpoint = write_toy(tmp_path, dead=True)
    toy = ("--engine", "toy", "--plugin", str(plugin), "--checkpoint", str(checkpoint))
    out = tmp_path / "r.jsonl"
    assert main(rolling(records, nano, out, *toy)) == 3
    assert "6 of 6 records are owed: 6 engine-failed" in last_error(capsys)
    assert main(rolling(records, nano, out, "--rollouts", "2")) == 0, "a file without a roll binds nobody"


def test_another_identity_is_refused_before_the_model_is_loaded(
    nano: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin, checkpoint = write_toy(tmp_path, "<think>x</think><answer>1 to 3</answer>")
    toy = ["--engine", "toy", "--plugin", str(plugin), "--checkpoint", str(checkpoint)]
    out = tmp_path / "r.jsonl"
    assert main(rolling(records, nano, out, *toy)) == 0
    before = out.read_bytes()
    changed = tmp_path / "changed.json"
    write_records(changed, read_rl(records)[:5])
    for source, more, field in [
        (records, ["--rollouts", "3"], "rollouts"),
        (records, ["--threshold", "0.6"], "threshold"),
        (records, ["--temperature", "0.9"], "protocol.sampling.temperature"),
        (changed, [], "data"),
    ]:
        # A checkpoint that is not there would be the error if it were opened.
        arguments = [*rolling(source, nano, out, *toy), "--checkpoint", str(tmp_path / "gone"), *more]
        assert main(arguments) == 1
        assert f"differ in {field}; " in last_error(capsys)
    assert main(rolling(records, nano, out)) == 1
    assert "differ in checkpoint; " in last_error(capsys)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--media-root", "{tmp}"), "holds none of the videos"),
        (("--media-root", "{tmp}/gone"), "is no folder"),
        (("--checkpoint", "{tmp}/gone"), "does not exist"),
        (("--preset", "nanoo"), "did you mean nano?"),
        (("--engine", "hff"), "did you mean hf?"),
        (("--out", "{records}"), "own input"),
        (("--out", "{checkpoint}/config.json"), "is no file of rolls"),
        (("--data-source", "x"), ""),
    ],
)
def test_mistakes_of_roll_are_one_line(
    nano: Path,
    records: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    words: str,
) -> None:
    filled = [part.format(tmp=tmp_path, records=records, checkpoint=CHECKPOINT) for part in change]
    before = (records.read_bytes(), (CHECKPOINT / "config.json").read_bytes())
    status = main([*rolling(records, nano, tmp_path / "r.jsonl", "--rollouts", "1"), *filled])
    assert (status == 1) is bool(words)
    if words:
        assert words in last_error(capsys)
    assert before == (records.read_bytes(), (CHECKPOINT / "config.json").read_bytes())


@pytest.mark.parametrize(
    "arguments",
    [
        ["data"],
        ["data", "chek"],
        ["data", "check", "x.json"],
        ["data", "check", "x.json", "--no-media", "--form", "rll"],
        ["data", "nano", "--out", "x", "--per-source", "0", "--seed", "1"],
        ["data", "nano", "--out", "x", "--per-source", "1", "--seed", "-1"],
        ["data", "tool-cot", "x", "--out", "y", "--noise", "0.5"],
        ["data", "tool-cot", "x", "--out", "y", "--noise", "nan"],
        ["data", "filter", "x", "--rolls", "y", "--out", "z", "--threshold", "0"],
        ["data", "roll", "x", "--checkpoint", "y", "--media-root", "z", "--out", "o", "--temperature", "0"],
        ["data", "roll", "x", "--checkpoint", "y", "--media-root", "z", "--out", "o", "--rollouts", "²"],
        ["data", "roll", "x", "--checkpoint", "y", "--media-root", "z", "--out", "o", "--mode", "direct"],
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_check_says_what_is_wrong_and_writes_what_is_not(
    nano: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *others = read_rl(records)
    gone = dataclasses.replace(first, media=dataclasses.replace(first.media, path="../\x1b[2Jx.mp4"))
    late = dataclasses.replace(second, solution=(5.0, 500.0), id="late\nid")
    source = tmp_path / "MTVR_RL" / "charades.json"
    write_records(source, [gone, late, *others, others[0]])
    arguments = ["data", "check", str(source), "--media-root", str(nano)]
    assert main([*arguments, "--write-kept", str(tmp_path / "kept")]) == 3
    told = capsys.readouterr()
    assert "7     4  duplicate-id 1, outside-media-root 1, span-outside-video 1" in told.out
    assert "\x1b" not in told.out + told.err
    assert len(told.err.strip().splitlines()) == 3
    kept = tmp_path / "kept" / "MTVR_RL" / "charades.json"
    assert read_rl(kept) == tuple(others)
    assert main(["data", "check", str(kept), "--media-root", str(nano)]) == 0
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 3
    (report,) = json.loads(capsys.readouterr().out)["files"]
    assert (report["records"], report["kept"], report["error"]) == (7, 4, "")
    assert report["faults"]["duplicate-id"] == {
        "records": 1,
        "examples": [f"{others[0].id}: the id stands twice"],
    }
    assert main([*arguments, "--write-kept", str(tmp_path)]) == 1
    assert "own input" in last_error(capsys)
    assert main(["data", "roll", *rolling(source, nano, tmp_path / "r.jsonl")[2:]]) == 1
    assert "faulty records" in last_error(capsys)


def test_check_of_nothing_sound_is_an_error(
    nano: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "MTVR_RL" / "broken.json"
    broken.parent.mkdir()
    broken.write_text('[{"id": 1, "text": "\\u001b[2J"}]')
    assert main(["data", "check", str(broken), str(records), "--media-root", str(nano)]) == 1
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert "record 0" in told.err
    assert "6     6  none" in told.out, "one bad file does not hide the others"
    assert main(["data", "check", str(records), "--media-root", str(tmp_path)]) == 1
    assert "missing-media 6" in last_error(capsys)
    assert main(["data", "check", str(tmp_path / "gone.json"), "--no-media", "--form", "rl", "--json"]) == 1
    assert "does not exist" in json.loads(capsys.readouterr().out)["files"][0]["error"]


def test_check_names_every_malformed_record_of_a_file_and_checks_the_others(
    nano: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.loads(records.read_text())
    long = {**good[1], "id": "too-long", "duration": "32 s"}
    mixed = [good[0], 3, {**good[1], "solution": None}, long, {**good[2], "text": "\x1b[2J", "id": ""}, good[3]]
    reversed_span = {**good[4], "solution": [9.0, 4.0]}
    source = tmp_path / "MTVR_RL" / "charades.json"
    source.parent.mkdir()
    source.write_text(json.dumps([*mixed, reversed_span, *[{**long, "id": f"long{n}"} for n in range(20)]]))
    arguments = ["data", "check", str(source), "--media-root", str(nano)]
    assert main([*arguments, "--write-kept", str(tmp_path / "kept")]) == 3
    told = capsys.readouterr()
    assert "27     2  " in told.out
    assert "no-object 1, malformed-solution 1, malformed-duration 21, malformed-id 1, reversed-span 1" in told.out
    lines = told.err.splitlines()
    assert len(lines) == 24 + 1, "every malformed record has a line, a fault of the others at most three"
    assert "\x1b" not in told.err
    assert lines[0].startswith(f"{source}, record 1: no-object: it must be an object, not int; ")
    assert f"{source}, record 3 (id 'too-long'): malformed-duration: field 'duration' must be a finite" in lines[2]
    assert lines[2].endswith("got '32 s'; give seconds above 0 as a number, or leave the field out")
    assert lines[-1].startswith(f"{source}: reversed-span: ")
    kept = tmp_path / "kept" / "MTVR_RL" / "charades.json"
    assert [record.id for record in read_rl(kept)] == [good[0]["id"], good[3]["id"]]
    assert main([*arguments, "--json"]) == 3
    (report,) = json.loads(capsys.readouterr().out)["files"]
    assert (report["records"], report["kept"], report["error"]) == (27, 2, "")
    assert report["counts"]["malformed-duration"] == 21
    assert [entry["record"] for entry in report["malformed"]] == [1, 2, 3, 4, *range(7, 27)]
    assert set(report["malformed"][2]) == {"record", "id", "kind", "problem", "mend"}
    # Training refuses the file at the first one.
    assert main(rolling(source, nano, tmp_path / "r.jsonl")) == 1
    assert f"{source}, record 1: it must be an object, not int; " in last_error(capsys)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON (it is empty); download it again"),
        (b'[{"id": 1, "text": "wh', "is not JSON (Unterminated string"),
        (b'[{"id": 1, "text": "\xff\xfe"}]', "is not JSON ('utf-8' codec"),
        (b"\x80", "is not JSON ('utf-8' codec"),
        (b'{"id": 1}', "must hold a list of records"),
    ],
)
def test_a_file_that_is_damaged_as_a_whole_is_one_line(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    source = tmp_path / "x.json"
    source.write_bytes(content)
    assert main(["data", "check", str(source), str(records), "--form", "rl", "--no-media"]) == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert f"{source} {words}" in told.err
    assert "6     6  none" in told.out


def test_checking_loads_nothing_heavy(nano: Path, records: Path) -> None:
    code = (
        "import sys; from vital_eval.cli.main import main; "
        f"assert main(['data', 'check', {str(records)!r}, '--media-root', {str(nano)!r}]) == 0; "
        "sys.exit(', '.join({'torch', 'transformers', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("rolls", ["", "hello", "[]\n", '{"schema_version":1,"rolls":{}}\n', None])
def test_filter_with_what_is_no_file_of_rolls(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rolls: str | None
) -> None:
    path, out = tmp_path / "r.jsonl", tmp_path / "kept.json"
    if rolls is not None:
        path.write_text(rolls)
    assert main(["data", "filter", str(records), "--rolls", str(path), "--out", str(out)]) == 1
    assert str(path) in last_error(capsys)
    assert not out.exists()


def test_filter_of_other_records_is_refused(
    nano: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rolls = tmp_path / "r.jsonl"
    assert main(rolling(records, nano, rolls, "--rollouts", "1")) == 0
    other = nano / "MTVR_RL" / "vidchapters.json"
    assert main(["data", "filter", str(other), "--rolls", str(rolls), "--out", str(tmp_path / "k.json")]) == 1
    assert "other records" in last_error(capsys)
    assert main(["data", "filter", str(records), "--rolls", str(rolls), "--out", str(rolls)]) == 1
    assert "own input" in last_error(capsys)
    with RollStore.open(rolls, rolls_of(rolls).identity, [record.id for record in read_rl(records)]):
        pass  # still a file of rolls


def test_tool_dialogues_of_nano_pass_the_checks(nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("charades", "vidchapters"):
        out = tmp_path / "MTVR_Tool_CoT" / f"{name}.json"
        source = nano / "MTVR_RL" / f"{name}.json"
        assert main(["data", "tool-cot", str(source), "--out", str(out), "--seed", "1"]) == 0
        first = out.read_bytes()
        assert main(["data", "check", str(out), "--media-root", str(nano)]) == 0
        assert main(["data", "tool-cot", str(source), "--out", str(out), "--seed", "1"]) == 0
        assert out.read_bytes() == first
        assert main(["data", "tool-cot", str(source), "--out", str(out), "--seed", "2"]) == 0
        assert out.read_bytes() != first
    capsys.readouterr()
    assert main(["data", "tool-cot", str(nano / "MTVR_RL/nextgqa.json"), "--out", str(tmp_path / "x.json")]) == 1
    assert "no record asks for a moment" in last_error(capsys)


def test_real_records_need_thoughts(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = [dataclasses.replace(record, id=f"real{place}") for place, record in enumerate(read_rl(records))]
    source, out, thoughts = tmp_path / "rl.json", tmp_path / "MTVR_Tool_CoT" / "charades.json", tmp_path / "t.jsonl"
    write_records(source, real)
    arguments = ["data", "tool-cot", str(source), "--out", str(out)]
    assert main(arguments) == 1
    assert "no template can write the thoughts of real videos; give a file" in last_error(capsys)
    said = [{"id": record.id, "look": "Let me look closer.", "answer": "There it is."} for record in real]
    thoughts.write_text("\n".join(json.dumps(each) for each in said[1:]))
    assert main([*arguments, "--thoughts", str(thoughts)]) == 1
    assert "lacks 1 of 6 grounding records: real0" in last_error(capsys)
    thoughts.write_text("\n".join(json.dumps(each) for each in [*said, {**said[0], "id": "typo"}]))
    assert main([*arguments, "--thoughts", str(thoughts), "--noise", "0"]) == 0
    assert "typo" in capsys.readouterr().err
    assert main(["data", "check", str(out), "--no-media"]) == 0
    written = json.loads(out.read_text())
    assert [record["id"] for record in written] == [record.id for record in real]
    start, end = real[0].solution
    assert written[0]["tool_params"] == f"({start}, {end})"
