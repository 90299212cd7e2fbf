"""Rolls that survive anything, a filter that drops what it says, thoughts that only their writer makes up."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.nano_policy import nano_engine, open_grey, tools
from vital_eval.engines.hf import HFEngine
from vital_eval.episode import Footage
from vital_eval.errors import DataError, MediaError, RunLogError, VitalError
from vital_eval.protocol import Mode, Protocol
from vital_eval.runner import StoppedError
from vital_eval.training.curation import tool_cot_record
from vital_eval.training.data_run import (
    RollTally,
    build_tool_cot,
    check_file,
    filter_records,
    passing_score,
    read_sound_rl,
    roll_records,
    rollout_protocol,
    write_new_nano,
)
from vital_eval.training.mtvr.checks import check_records
from vital_eval.training.mtvr.files import read_tool_cot, write_records
from vital_eval.training.mtvr.records import Form, Media, RlRecord, records_hash
from vital_eval.training.mtvr.sources import read_sources
from vital_eval.training.nano_mtvr import nano_video, write_nano_mtvr
from vital_eval.training.problems import problems_of_records
from vital_eval.training.rewards import Reward, read_solution, require_source, score_answer
from vital_eval.training.rolls import Roll, RollIdentity, RollStore, differing, read_rolls
from vital_eval.training.thoughts import NanoThoughts, read_thoughts

PROTOCOL = rollout_protocol("nano", Mode.COT, 1.0)


def moment(name: str, start: float = 4.0, end: float = 9.0) -> RlRecord:
    return RlRecord(
        id=name,
        text="When: red circle",
        media=Media("video", f"{name}.mp4"),
        duration=32.0,
        data_source="./data/charades",
        solution=(start, end),
    )


def identity(records: tuple[RlRecord, ...] = (), protocol: Protocol = PROTOCOL, rollouts: int = 2) -> RollIdentity:
    return RollIdentity("c0ffee", protocol, rollouts, records_hash(records), 0.5)


def roll(name: str, *scores: float) -> Roll:
    outcomes = tuple(score >= 0.5 for score in scores)
    return Roll(name, tuple(1 + score for score in scores), scores, scores, outcomes, (("said",),) * len(scores))


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    write_nano_mtvr(folder, seed=5, per_source=4)
    return folder


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    with nano_engine() as loaded:
        yield loaded


# --- the file of rolls


def test_what_is_appended_is_read_back_and_the_store_goes_on(tmp_path: Path) -> None:
    path, records = tmp_path / "new" / "r.jsonl", (moment("a"), moment("b"))
    mine = identity(records)
    with RollStore.open(path, mine, ["a", "b"]) as store:
        store.append(roll("a", 0.25, 0.75))
        with pytest.raises(RunLogError, match="being written"):
            RollStore.open(path, mine, ["a", "b"])
        for name in ("a", "c"):
            with pytest.raises(RunLogError, match="not owed"):
                store.append(roll(name, 0.0, 0.0))
    with RollStore.open(path, mine, ["a", "b"]) as store:
        assert list(store.rolls.by_id) == ["a"]
        store.append(roll("b", 1.0, 1.0))
    found = read_rolls(path)
    assert found is not None
    assert found.identity == mine
    assert found.by_id == {"a": roll("a", 0.25, 0.75), "b": roll("b", 1.0, 1.0)}


@pytest.mark.parametrize("torn", ['{"id":"b","rewa', '{"id":"b"\n', "\x00\x00"])
def test_a_torn_last_line_is_cut_off_and_owed(tmp_path: Path, torn: str) -> None:
    path, mine = tmp_path / "r.jsonl", identity()
    with RollStore.open(path, mine, ["a", "b"]) as store:
        store.append(roll("a", 0.25, 0.75))
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    found = read_rolls(path)
    assert found is not None
    assert list(found.by_id) == ["a"]
    with RollStore.open(path, mine, ["a", "b"]):
        assert path.read_bytes() == whole


def test_an_identity_cut_while_it_was_written_begins_again(tmp_path: Path) -> None:
    path, mine = tmp_path / "r.jsonl", identity()
    with RollStore.open(path, mine, ["a"]):
        head = path.read_bytes()
    path.write_bytes(head[: len(head) // 2])
    assert read_rolls(path) is None
    with RollStore.open(path, mine, ["a"]):
        assert path.read_bytes() == head


def test_wherever_the_file_is_cut_it_goes_on(tmp_path: Path) -> None:
    path, mine = tmp_path / "r.jsonl", identity()
    with RollStore.open(path, mine, ["a", "b"]) as store:
        store.append(roll("a", 0.25, 0.75))
        store.append(roll("b", 0.0, 1.0))
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for size in {*range(0, len(whole), 7), *ends, *(end - 1 for end in ends)}:
        path.write_bytes(whole[:size])
        with RollStore.open(path, mine, ["a", "b"]) as store:
            assert len(store.rolls.by_id) == sum(size >= end for end in ends[1:])
        assert path.read_bytes() in [whole[:end] for end in ends]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mine, write = tmp_path / "r.jsonl", identity(), os.write

    def full(file: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:-10])

    with RollStore.open(path, mine, ["a", "b"]) as store:
        store.append(roll("a", 0.25, 0.75))
        before = path.read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            with pytest.raises(RunLogError, match="disk full"):
                store.append(roll("b", 0.0, 1.0))
        assert path.read_bytes() == before
        store.append(roll("b", 0.0, 1.0))
    found = read_rolls(path)
    assert found is not None
    assert list(found.by_id) == ["a", "b"]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("checkpoint", "other", "checkpoint"),
        ("rollouts", 3, "rollouts"),
        ("data", "other", "data"),
        ("threshold", 0.6, "threshold"),
        ("protocol", rollout_protocol("nano", Mode.COT, 0.9), "protocol.sampling.temperature"),
        ("protocol", rollout_protocol("nano", Mode.TOOL, 1.0), "protocol.mode"),
    ],
)
def test_another_identity_is_refused_with_its_field(tmp_path: Path, field: str, value: object, named: str) -> None:
    path, mine = tmp_path / "r.jsonl", identity()
    other = dataclasses.replace(mine, **{field: value})
    assert named in differing(mine, other)
    with RollStore.open(path, mine, ["a"]) as store:
        pass
    with RollStore.open(path, other, ["a"]):
        pass  # Without a roll the file binds nobody.
    path.unlink()
    with RollStore.open(path, mine, ["a"]) as store:
        store.append(roll("a", 0.0, 1.0))
    before = path.read_bytes()
    with pytest.raises(RunLogError, match=rf"differ in .*{named}"):
        RollStore.open(path, other, ["a"])
    assert path.read_bytes() == before
    with pytest.raises(RunLogError, match="no record of the file"):
        RollStore.open(path, mine, ["b"])


GOOD = {
    "id": "b",
    "rewards": [1.0, 1.5],
    "task_scores": [0.0, 0.5],
    "scores": [0.0, 0.5],
    "passes": [False, True],
    "texts": [["x"], []],
}


def test_the_good_line_of_the_next_test_is_read(tmp_path: Path) -> None:
    assert list(with_line(tmp_path, json.dumps(GOOD))) == ["a", "b", "c"]


def with_line(folder: Path, line: str) -> list[str]:
    path = folder / "r.jsonl"
    with RollStore.open(path, identity(), ["a", "b", "c"]) as store:
        store.append(roll("a", 0.25, 0.75))
    last = json.dumps(dataclasses.asdict(roll("c", 0.0, 0.0)))
    path.write_text(f"{path.read_text()}{line}\n{last}\n")
    found = read_rolls(path)
    assert found is not None
    return list(found.by_id)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "{}",
        "NaN",
        "[" * 100_000,
        json.dumps({**GOOD, "id": "a"}),
        json.dumps({**GOOD, "id": 7}),
        json.dumps({**GOOD, "rewards": [1.0]}),
        json.dumps({**GOOD, "scores": [0.0, 1.5], "passes": [False, True]}),
        json.dumps({**GOOD, "passes": [True, True]}),
        json.dumps({**GOOD, "passes": [0, 1]}),
        json.dumps({**GOOD, "scores": ["0.0", 0.5]}),
        json.dumps({**GOOD, "texts": ["x", "y"]}),
        json.dumps(GOOD).replace("1.5", "1e999"),
    ],
)
def test_a_line_that_is_no_roll_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(RunLogError, match=r"line 3|second line"):
        with_line(tmp_path, line)


@pytest.mark.parametrize("text", ["hello", "hello\n", "{}\n", '[{"id": 1}]\n', '{"schema_version":9,"rolls":{}}\n'])
def test_a_strangers_file_is_never_cut(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(RunLogError):
        RollStore.open(path, identity(), ["a"])
    assert path.read_text() == text


# --- rolling


def play(
    engine: HFEngine, records: list[RlRecord], path: Path, broken: tuple[str, ...] = ()
) -> tuple[RollTally, dict[str, Roll]]:
    async def open_video(video: str) -> Footage:
        if video in broken:
            raise MediaError("missing", f"no video at {video}")
        return await open_grey(video)

    with RollStore.open(path, identity(tuple(records)), [record.id for record in records]) as store:
        tally = asyncio.run(
            roll_records(problems_of_records(records), PROTOCOL, {}, engine, open_video, store, 2, lambda tally: None)
        )
        return tally, dict(store.rolls.by_id)


def test_a_bad_video_is_counted_apart_and_owed_again(engine: HFEngine, tmp_path: Path) -> None:
    records = [moment(name) for name in "abc"]
    with nano_engine() as first, nano_engine() as second, nano_engine() as control:
        tally, rolls = play(first, records, tmp_path / "r.jsonl", broken=("b.mp4",))
        assert set(rolls) == {"a", "c"}
        assert (tally.done, tally.owed, dict(tally.lost)) == (2, 1, {"media-failed (missing)": 1})
        assert tally.example.startswith("b: ")
        tally, rolls = play(second, records, tmp_path / "r.jsonl")
        assert (tally.before, tally.done, tally.owed) == (2, 1, 0)
        # Going on gives what one go would have given.
        assert rolls == play(control, records, tmp_path / "control.jsonl")[1]
    assert {len(roll.texts) for roll in rolls.values()} == {2}


def test_record_after_record_lost_stops(engine: HFEngine, tmp_path: Path) -> None:
    records = [moment(f"v{index}") for index in range(30)]
    with pytest.raises(StoppedError, match="20 records in a row"):
        play(engine, records, tmp_path / "r.jsonl", broken=tuple(record.media.path for record in records))


def test_the_sampler_of_rollouts_is_the_one_that_training_models() -> None:
    for name in ("nano", "vital"):
        for mode in (Mode.COT, Mode.TOOL):
            sampling = rollout_protocol(name, mode, 1.0).sampling
            assert (sampling.temperature, sampling.top_p, sampling.repetition_penalty) == (1.0, 1.0, 1.0)
    view = rollout_protocol("vital", Mode.COT, 1.0).view
    assert (view.max_frames, view.max_pixels) == (64, 224 * 224)
    with pytest.raises(DataError, match="same rollout"):
        rollout_protocol("nano", Mode.COT, 0.0)
    with pytest.raises(VitalError, match="did you mean nano"):
        rollout_protocol("nan", Mode.COT, 1.0)
    assert tools().keys() == set(rollout_protocol("nano", Mode.TOOL, 1.0).tools)


def passing(name: str, solution: object, answer: str | None) -> float:
    source = require_source(name)
    scored = score_answer(source, read_solution(source, solution), answer)
    return passing_score(Reward(scored.value, 0.0, scored.value, 0.0, scored.parts))


def test_what_passes_is_the_plain_overlap_and_both_parts_of_a_grounded_answer() -> None:
    assert passing("charades", [0.0, 10.0], "0 to 4") == pytest.approx(0.4, abs=1e-3)
    # The reward of this source stretches 0.4 to 0.8; the overlap is the same.
    assert passing("vidchapter_cutreward", [0.0, 10.0], "0 to 4") == pytest.approx(0.4, abs=1e-3)
    assert passing("nextgqa", "B, 0 to 10", "B, 0 to 4") == pytest.approx(0.4, abs=1e-3)
    assert passing("nextgqa", "B, 0 to 10", "A, 0 to 10") == 0.0
    assert passing("nextgqa", "B, 0 to 10", "B, 0 to 10") == pytest.approx(1.0, abs=1e-3)
    assert passing("video_r1/multiple_choice", "B", "B") == 1.0
    assert passing("charades", [0.0, 10.0], None) == 0.0


# --- the filter


RECORDS = tuple(moment(name) for name in ("easy", "middle", "hard", "late"))


def rolls_of(tmp_path: Path, *rolls: Roll, records: tuple[RlRecord, ...] = RECORDS) -> Path:
    path = tmp_path / "r.jsonl"
    with RollStore.open(path, identity(records), [record.id for record in records]) as store:
        for each in rolls:
            store.append(each)
    return path


def test_the_filter_keeps_what_is_solved_sometimes(tmp_path: Path) -> None:
    rolls = read_rolls(
        rolls_of(
            tmp_path, roll("late", 0.9, 0.1), roll("easy", 0.5, 1.0), roll("hard", 0.0, 0.49), roll("middle", 0, 1.0)
        )
    )
    assert rolls is not None
    result = filter_records(RECORDS, rolls, allow_missing=False)
    assert [record.id for record in result.kept] == ["middle", "late"]
    assert result.filtered.all_passed == ("easy",)
    assert result.filtered.none_passed == ("hard",)
    # Another threshold needs no other rollouts.
    assert [record.id for record in filter_records(RECORDS, rolls, allow_missing=False, threshold=0.4).kept] == [
        "middle",
        "hard",
        "late",
    ]
    low = {**rolls.by_id, "easy": roll("easy", 1.0, 1.0)}
    low |= {name: roll(name, 0.1, 0.2) for name in ("middle", "late")}
    with pytest.raises(DataError, match="1 records always pass, 3 never"):
        filter_records(RECORDS, dataclasses.replace(rolls, by_id=low), allow_missing=False)


def test_missing_rolls_are_named_and_refused_unless_allowed(tmp_path: Path) -> None:
    rolls = read_rolls(rolls_of(tmp_path, roll("middle", 0.0, 1.0), roll("easy", 1.0, 1.0)))
    assert rolls is not None
    with pytest.raises(DataError, match="2 of 4 records have no rolls: hard, late"):
        filter_records(RECORDS, rolls, allow_missing=False)
    result = filter_records(RECORDS, rolls, allow_missing=True)
    assert [record.id for record in result.kept] == ["middle"]
    assert result.missing == ("hard", "late")


def test_rolls_of_other_records_are_refused(tmp_path: Path) -> None:
    rolls = read_rolls(rolls_of(tmp_path, *(roll(record.id, 0.0, 1.0) for record in RECORDS)))
    assert rolls is not None
    for other in (RECORDS[:3], (*RECORDS[:3], moment("late", 4.0, 9.5)), RECORDS[::-1]):
        with pytest.raises(DataError, match="rolls are of other records"):
            filter_records(other, rolls, allow_missing=True)


# --- checks


def test_a_file_is_reported_never_raised(nano: Path, tmp_path: Path) -> None:
    sound = check_file(nano / "MTVR_RL" / "charades.json", nano, None, None)
    assert (sound.form, sound.total, len(sound.kept), sound.error) == (Form.RL, 4, 4, "")
    lost = check_file(nano / "MTVR_RL" / "charades.json", tmp_path, None, None)
    assert (lost.total, len(lost.kept)) == (4, 0)
    assert "missing-media 4" in lost.error
    for text, words in [
        ("", "not JSON"),
        ("{}", "must hold a list"),
        ("[1]", "none of 1 records is in the form of MTVR_RL"),
        ("[]", "nothing to train on"),
        ("\xff", "not JSON"),
    ]:
        path = tmp_path / "x.json"
        path.write_bytes(text.encode("latin-1"))
        assert words in check_file(path, None, Form.RL, None).error
    assert "names no form" in check_file(path, None, None, None).error


def test_faulty_records_are_not_rolled(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_records(path, [moment("a"), moment("b", 9.0, 4.0)])
    with pytest.raises(DataError, match="reversed-span 1"):
        read_sound_rl(path)
    write_records(path, [dataclasses.replace(moment("a"), text="half \ud83d")])
    with pytest.raises(DataError, match="half a character"):
        read_sound_rl(path)
    write_records(path, [moment("a"), dataclasses.replace(moment("b"), solution="3 to 9 or 4 to 8")])
    with pytest.raises(DataError, match=r"unreadable-answer 1 \(such as b: a charades record needs one span"):
        read_sound_rl(path)
    sound = (moment("a"), dataclasses.replace(moment("b"), solution="<answer>3.0 to 9</answer>"))
    write_records(path, sound)
    assert read_sound_rl(path) == sound


def test_a_moment_that_stands_as_text_is_a_moment_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"id": "b", "look": "I look closer", "answer": "It begins here"}))
    stated = dataclasses.replace(moment("b"), solution="<answer>4.0 to 9</answer>")
    said = build_tool_cot((stated,), read_thoughts(path), seed=3)
    assert said == build_tool_cot((moment("b"),), read_thoughts(path), seed=3)
    (problem,) = problems_of_records([stated])
    assert problem.sample.target.windows == ((4.0, 9.0),)


NUMBERS = st.sampled_from(["0", "2", "2.5", "4", "8", "9.50", "1:05", "-1", "1e3"])
TAGS = ("<answer>", "</answer>", "<think>", "</think>")
LINKS = (" to ", " - ", ", ", " or ", "from ", "between ", " and ", "?", "[", "]", "\n")
PIECES = st.sampled_from(
    [*TAGS, *LINKS, "A", "B", "(C)", "H", "Z", "yes", "it falls", "seconds", "frames ", "2 people"]
)
SOLUTIONS = st.one_of(
    st.tuples(st.floats(-1, 40, allow_nan=False), st.floats(-1, 40, allow_nan=False)),
    st.lists(NUMBERS | PIECES, min_size=1, max_size=7).map("".join),
    st.builds("{}{} to {}{}".format, st.sampled_from(["", "From ", "B, ", "<answer>"]), NUMBERS, NUMBERS, PIECES),
    st.builds("From {} to {}, {}".format, NUMBERS, NUMBERS, PIECES),
    st.text(min_size=1, max_size=12),
).filter(lambda solution: not isinstance(solution, str) or bool(solution.strip()))


@pytest.mark.parametrize("name", [*read_sources().data_sources])
@settings(max_examples=120, deadline=None)
@given(solution=SOLUTIONS)
def test_what_the_check_keeps_is_what_training_takes(name: str, solution: tuple[float, float] | str) -> None:
    # So long that no span leaves it: whether a span fits its video is asked of the record, not of the solution.
    record = dataclasses.replace(moment("a"), data_source=name, solution=solution, duration=1e13)
    try:
        check_records([record], None)
        kept = True
    except DataError:
        kept = False
    try:
        taken = bool(problems_of_records([record]))
    except DataError:
        taken = False
    assert kept is taken


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        *((name, ["3 to 9", (3.0, 9.0)], ["3", (9.0, 3.0), "B"]) for name in ("charades", "actnet")),
        *((f"{name}_cutreward", ["3 to 9", (3.0, 9.0)], ["9 to 3"]) for name in ("charades", "actnet", "vidchapter")),
        *((name, ["B, 3 to 9"], [(3.0, 9.0), "B", "3 to 9"]) for name in ("nextgqa", "nextgqa_cutreward")),
        *((name, ["From 3 to 9, rain"], [(3.0, 9.0), "rain"]) for name in ("rextime", "rextime_cutreward")),
        ("video_r1/multiple_choice", ["B", "<answer>B. red</answer>"], ["Z", (3.0, 9.0)]),
        ("video_r1/numerical", ["3", "<answer>2.5</answer>"], ["2 or 3", (3.0, 9.0)]),
        ("video_r1/regression", ["3"], ["many"]),
        ("video_r1/free_form", ["A man sits"], ["?!", (3.0, 9.0)]),
        ("video_r1/OCR", ["STOP"], [(3.0, 9.0)]),
    ],
)
def test_every_source_has_solutions_of_both_kinds(name: str, right: list[object], wrong: list[object]) -> None:
    """The control of the property above: neither side refuses, or takes, everything."""
    full = next(known for known in read_sources().data_sources if known.removeprefix("./data/") == name)
    for solution in (*right, *wrong):
        record = dataclasses.replace(moment("a"), data_source=full, solution=solution)
        if solution in right:
            assert check_records([record], None).kept == (record,)
            assert len(problems_of_records([record])) == 1
        else:
            with pytest.raises(DataError, match="nothing to train on"):
                check_records([record], None)
            with pytest.raises(DataError, match="record a: a "):
                problems_of_records([record])


# --- tool dialogues


def test_nano_template_says_what_the_writer_of_nano_says(nano: Path) -> None:
    records = read_sound_rl(nano / "MTVR_Tool_RL" / "vidchapters.json")
    built = build_tool_cot(records, NanoThoughts(), seed=0, decimals=0)
    assert len(built.records) + len(built.not_visible) == 4
    assert built.records
    assert not check_records(built.records, nano, tolerance_seconds=0.0).counts
    # The same shape as the dialogues that come with nano: a timeline, then the name and times.
    own = read_tool_cot(nano / "MTVR_Tool_CoT" / "vidchapters.json")
    for record in (*own, *built.records):
        assert record.turns[0].startswith("<think> ")
        assert record.turns[1].count("<answer>") == 1
    assert all(nano_video(record) is not None for record in records)
    moved = dataclasses.replace(records[0], solution=(1.0, 2.0))
    assert nano_video(moved) is None, "a record that was changed is not nano's any more"
    with pytest.raises(DataError, match="no nano record"):
        tool_cot_record(moved, NanoThoughts(), seed=0)


def test_thoughts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        json.dumps({"id": "a", "look": "I look closer", "answer": "It begins here"})
        + "\n\n"
        + json.dumps({"id": "b", "look": "Hm", "answer": "So"})
    )
    choice = dataclasses.replace(moment("q"), data_source="video_r1/multiple_choice", solution="B")
    built = build_tool_cot((moment("a"), choice, moment("b")), read_thoughts(path), seed=3)
    assert built.no_moment == ("q",)
    assert [record.id for record in built.records] == ["a", "b"]
    first, last = built.records[0].turns
    assert first.startswith('<think>I look closer</think><tool_call>{"name": "get_video_clip_frame"')
    assert last == "<think>It begins here</think><answer>4.00 to 9.00</answer>"
    start, end = built.records[0].tool_params
    assert abs(start - 4.0) <= 1.01
    assert abs(end - 9.0) <= 1.01
    with pytest.raises(DataError, match="record c has no thoughts"):
        build_tool_cot((moment("c"),), read_thoughts(path), seed=3)
    path.write_text(json.dumps({"id": "a", "look": "<answer>1 to 2</answer>", "answer": "x"}))
    with pytest.raises(DataError, match="wrong-form"):
        build_tool_cot((moment("a"),), read_thoughts(path), seed=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no thoughts"),
        ("nonsense", "line 1 is not JSON"),
        ('{"id": "a", "look": "x", "answer": "y"}\n[]', "line 2 must be an object"),
        ('{"id": "a", "look": "x"}', "must be an object with id, look, answer"),
        ('{"id": "a", "look": "x", "answer": " "}', "answer must be a text"),
        ('{"id": "a", "look": 1, "answer": "x"}', "look must be a text"),
        ('{"id": "a", "look": "x", "answer": "y"}\n{"id": "a", "look": "x", "answer": "y"}', "stands twice"),
        ("\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_thoughts_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=words):
        read_thoughts(path)


def test_nano_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "w"

    def broken(folder: Path, seed: int, per_source: int) -> None:
        (folder / "videos").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("vital_eval.training.data_run.write_nano_mtvr", broken)
    with pytest.raises(KeyboardInterrupt):
        write_new_nano(out, 1, 1)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    out.mkdir()
    assert write_new_nano(out, 1, 1).videos == 19
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    with pytest.raises(DataError, match="not an empty folder"):
        write_new_nano(out, 1, 1)
