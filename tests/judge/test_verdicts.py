"""The file of verdicts: durable, of one judge, readable without data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vital_eval.judge.errors import JudgeError
from vital_eval.judge.figures import read_verdicts
from vital_eval.judge.identity import identify
from vital_eval.judge.question import hash_answer
from vital_eval.judge.verdicts import VERDICTS_NAME, Verdict, VerdictStore, read_verdict_file

JUDGE = identify("judge-1", "localhost", plain_json=False)


def verdict(number: int, correct: bool = True, **changes: str) -> Verdict:
    fields = {
        "key": f"k{number}",
        "task": "mmvu",
        "sample_id": f"s{number}",
        "answer_hash": hash_answer(f"answer {number}"),
        "extracted_answer": "x\u2028\x1b",
        "model": "judge-1-a",
    } | changes
    return Verdict(correct=correct, **fields)


def fill(path: Path, count: int = 3) -> None:
    with VerdictStore.open(path, JUDGE) as store:
        store.declare("mmvu", "d1", [f"s{number}" for number in range(5)])
        for number in range(count):
            store.append(verdict(number, correct=number % 2 == 0))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_verdicts(tmp_path) is None
    fill(tmp_path / VERDICTS_NAME)
    verdicts = read_verdicts(tmp_path)
    assert verdicts is not None
    assert verdicts.identity == JUDGE
    assert verdicts.model == "judge-1-a"
    assert verdicts.scopes["mmvu"].samples == {"s0", "s1", "s2", "s3", "s4"}
    assert [verdicts.right("mmvu", f"s{n}", f"answer {n}") for n in range(4)] == [True, False, True, None]
    assert verdicts.right("mmvu", "s0", "answer 1") is None
    assert verdicts.by_place[verdict(0).place] == verdict(0)
    assert "judge-1-a (asked for as judge-1) at localhost" in verdicts.judge


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_tail_is_owed_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j"
    fill(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    stored = read_verdict_file(path)
    assert stored is not None
    assert len(stored.by_place) == 2
    with VerdictStore.open(path, JUDGE) as store:
        assert store.find("mmvu", "s2", verdict(2).answer_hash, "k2") is None
        store.append(verdict(2))
    assert path.read_bytes() == whole


def test_a_file_torn_anywhere_can_be_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fill(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        read_verdict_file(path)
        fill_again = VerdictStore.open(path, JUDGE)
        fill_again.close()
        assert path.read_bytes().endswith(b"\n")


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fill(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:20] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(JudgeError, match="line 3 is damaged"):
        read_verdict_file(path)


@pytest.mark.parametrize(
    "content", [b"my notes", b"my notes\n", b'{"a": 1}\n', b'{"task": "mmvu"}\n{"a": 1}\n', b"[]\n"]
)
def test_a_strangers_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(JudgeError):
        VerdictStore.open(path, JUDGE)
    assert path.read_bytes() == content


def test_another_judge_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fill(path)
    for other, field in (
        (identify("judge-2", "localhost", plain_json=False), "model"),
        (identify("judge-1", "elsewhere", plain_json=False), "host"),
        (dataclasses.replace(JUDGE, prompt_hash="x"), "prompt_hash"),
        (dataclasses.replace(JUDGE, temperature=0.5), "temperature"),
    ):
        with pytest.raises(JudgeError, match=f"another judge.*differs in {field};"):
            VerdictStore.open(path, other)


def test_a_file_without_a_verdict_binds_nobody(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fill(path, count=0)
    other = identify("judge-2", "elsewhere", plain_json=True)
    with VerdictStore.open(path, other) as store:
        assert not store.verdicts.scopes
    stored = read_verdict_file(path)
    assert stored is not None
    assert stored.identity == other


def test_refused_verdicts(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fill(path)
    with VerdictStore.open(path, JUDGE) as store:
        for wrong, words in (
            (verdict(0), "second verdict"),
            (verdict(3, model="judge-1-b"), "verdicts of two models"),
            (verdict(9), "not an open sample"),
            (verdict(3, task="videommmu"), "not an open sample"),
        ):
            with pytest.raises(JudgeError, match=words):
                store.append(wrong)
        with pytest.raises(JudgeError, match="another question or reference"):
            store.find("mmvu", "s0", verdict(0).answer_hash, "other")
        store.append(verdict(3))
    twice = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*twice, twice[-1]]))
    with pytest.raises(JudgeError, match="line 7: second verdict"):
        read_verdict_file(path)


def test_scopes_grow_but_never_change_their_data(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fill(path)
    size = path.stat().st_size
    with VerdictStore.open(path, JUDGE) as store:
        store.declare("mmvu", "d1", ["s0"])
        assert path.stat().st_size == size
        store.declare("mmvu", "d1", ["s9"])
        with pytest.raises(JudgeError, match="annotation files d1 of mmvu, these are d2"):
            store.declare("mmvu", "d2", ["s0"])
    stored = read_verdict_file(path)
    assert stored is not None
    assert "s9" in stored.scopes["mmvu"].samples
    assert "s4" in stored.scopes["mmvu"].samples


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with VerdictStore.open(path, JUDGE), pytest.raises(JudgeError, match="being written by another process"):
        VerdictStore.open(path, JUDGE)
    VerdictStore.open(path, JUDGE).close()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="cannot write"):
        VerdictStore.open(tmp_path / "no" / "j", JUDGE)
