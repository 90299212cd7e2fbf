"""The file of lines behind runs, verdicts and rolls: whole lines stay, torn ones go, damage is named."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vital_eval.line_file import LineFile, disk_is_full, whole_lines


class DamagedError(Exception):
    """What the reader of a test makes of damage."""


def damaged(number: int, error: ValueError) -> DamagedError:
    return DamagedError(f"line {number}: {error}")


def contents(data: bytes) -> list[object]:
    return [content for _, content, _ in whole_lines(data, damaged)]


def test_wherever_a_file_is_cut_its_whole_lines_are_read_with_their_ends() -> None:
    lines = [b'{"a":1}\n', b'"\xc3\xa9 \xe2\x80\xa8"\n', b"[]\n"]
    whole = b"".join(lines)
    for size in range(len(whole) + 1):
        found = list(whole_lines(whole[:size], damaged))
        count = whole[:size].count(b"\n")
        assert [content for _, content, _ in found] == [{"a": 1}, "é \u2028", []][:count]
        assert [number for number, _, _ in found] == [1, 2, 3][:count]
        assert [end for _, _, end in found] == [len(b"".join(lines[: number + 1])) for number in range(count)]


@pytest.mark.parametrize("torn", [b"\0\0\0\n", b"\xff\n", b'{"b"\n', b"\n", b"NaN\n", b'{"b"'])
def test_a_last_line_that_is_not_json_is_torn_and_any_other_is_damage(torn: bytes) -> None:
    assert contents(b"1\n" + torn) == [1]
    assert contents(torn) == []
    with pytest.raises(DamagedError, match=r"^line 2: "):
        contents(b"1\n" + torn.rstrip(b"\n") + b"\n" + b"2\n")
    # What follows was begun after it, so it was not the last one.
    with pytest.raises(DamagedError, match=r"^line 2: "):
        contents(b"1\n" + torn.rstrip(b"\n") + b"\n" + b"2")


def test_both_ways_to_append_write_the_same_and_begin_cuts_the_tail(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b'{"old":1}\n{"to')
    lines = LineFile(path)
    lines.begin(10, {"head": "\u2028"})
    lines.append({"a": 1.5})
    lines.append_line(b'{"a":1.5}\n')
    with pytest.raises(ValueError, match="not JSON compliant"):
        lines.append({"a": float("nan")})
    lines.close()
    lines.close()
    with pytest.raises(ValueError, match="is closed"):
        lines.append({})
    assert path.read_bytes() == b'{"old":1}\n{"head":"\\u2028"}\n{"a":1.5}\n{"a":1.5}\n'


def test_one_writer_unless_something_else_is_locked_for_it(tmp_path: Path) -> None:
    first = LineFile(tmp_path / "f")
    with pytest.raises(BlockingIOError):
        LineFile(tmp_path / "f")
    LineFile(tmp_path / "f", lock=False).close()
    first.close()
    LineFile(tmp_path / "f").close()


def test_what_cannot_be_cut_back_is_never_written_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    lines = LineFile(tmp_path / "f")
    lines.begin(0, {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space") as raised:
            lines.append({"b": 2})
        assert disk_is_full(raised.value)
        assert not lines.closed
        patch.setattr(os, "ftruncate", full)
        with pytest.raises(OSError, match="No space"):
            lines.append({"c": 3})
    assert lines.closed
    assert contents((tmp_path / "f").read_bytes()) == [{"a": 1}, {"c": 3}]
    assert not disk_is_full(OSError(errno.EIO, "Input/output error"))


_DYING = """
import os, pathlib, signal, sys
from vital_eval.line_file import LineFile
lines = LineFile(pathlib.Path(sys.argv[1]))
lines.begin(0, {"a": 1})
write = os.write
def half(file, data):
    write(file, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = half
lines.append({"torn": "x" * 50})
"""


def test_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "f"
    done = subprocess.run([sys.executable, "-P", "-c", _DYING, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    data = path.read_bytes()
    assert data.startswith(b'{"a":1}\n{"torn":"xx')
    ((_, content, end),) = whole_lines(data, damaged)
    assert (content, end) == ({"a": 1}, 8)
    lines = LineFile(path)  # The dead writer holds nothing.
    lines.begin(end, None)
    lines.append({"b": 2})
    lines.close()
    assert path.read_bytes() == b'{"a":1}\n{"b":2}\n'
