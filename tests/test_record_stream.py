"""Reading record by record agrees with reading all at once, on whole and on damaged logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_run_log import _manifest, _record, _write
from vital_eval.errors import RunLogError
from vital_eval.outcome import Outcome
from vital_eval.record_stream import stream_records
from vital_eval.run_log import read_run


def read_at_once(run: Path) -> object:
    try:
        return read_run(run)[1]
    except RunLogError as error:
        return error.problem


def streamed(run: Path) -> object:
    try:
        return tuple(stored.record for stored in stream_records(run, _manifest()))
    except RunLogError as error:
        return error.problem


def test_truncated_at_every_byte_both_readers_agree(tmp_path: Path) -> None:
    whole = _write(tmp_path, *(_record(index) for index in range(2)))
    path = tmp_path / "records.jsonl"
    for tail in (b"", b"\0\0\n"):
        for length in range(len(whole) + 1):
            path.write_bytes(whole[:length] + tail)
            assert streamed(tmp_path) == read_at_once(tmp_path)


def test_places_are_those_of_the_lines(tmp_path: Path) -> None:
    # A failed attempt and its answer are two lines.
    whole = _write(tmp_path, _record(1, Outcome.INFRA_FAILED), _record(0), _record(1))
    stored = list(stream_records(tmp_path, _manifest()))
    assert [one.number for one in stored] == [1, 2, 3]
    assert [whole[one.offset : one.offset + one.length] for one in stored] == whole.splitlines(keepends=True)


def test_no_log_yet_is_no_record(tmp_path: Path) -> None:
    assert list(stream_records(tmp_path, _manifest())) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"task": 1}', "line 2: not a record"),
        (b"[]", "line 2: not a record: not an object"),
        (b"{", "line 2 is damaged"),
    ],
)
def test_damage_is_named_by_line(tmp_path: Path, line: bytes, words: str) -> None:
    whole = _write(tmp_path, _record(0))
    (tmp_path / "records.jsonl").write_bytes(whole + line + b"\n" + whole)
    with pytest.raises(RunLogError, match=words):
        list(stream_records(tmp_path, _manifest()))


def test_a_record_of_another_run_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, _record(4))
    with pytest.raises(RunLogError, match="sample 's4' of task moments"):
        list(stream_records(tmp_path, _manifest(count=4)))
