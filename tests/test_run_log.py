"""Nothing finished is lost and nothing is done twice, whatever happens to the process, the disk or the file."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.errors import RunLogError
from vital_eval.manifest import Entry, Manifest
from vital_eval.outcome import Outcome
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.record import Record, record_to_line
from vital_eval.run_log import RunLog, read_run
from vital_eval.trajectory import StopReason, Trajectory

_PROTOCOL = preset("nano", Mode.COT, "moments")


def _manifest(count: int = 5, label: str = "nano") -> Manifest:
    samples = tuple((f"s{index}", f"v{index // 2}") for index in range(count))
    entry = Entry("moments", 1, "mIoU", {"mIoU": "iou"}, _PROTOCOL, "d1", samples)
    return Manifest(label, EngineInfo("hf", "nano-1", "f1", FrameGeometry(32, 2)), (entry,), "2026", "0.1.0")


def _record(index: int, outcome: Outcome = Outcome.ANSWERED, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "task": "moments",
        "mode": Mode.COT,
        "protocol": _PROTOCOL.hash,
        "sample_id": f"s{index}",
        "attempt": 0,
        "cluster": f"v{index // 2}",
        "outcome": outcome,
        "reason": "",
        "answer": None,
        "scores": {"iou": 0.5},
        "trajectory": Trajectory((), StopReason.ANSWERED, "line \u2028 \x00 end", (), 10.0),
    }
    return Record(**{**fields, **changes})


def _write(folder: Path, *records: Record) -> bytes:
    with RunLog.open(folder, _manifest()) as log:
        for record in records:
            log.append(record)
    return (folder / "records.jsonl").read_bytes()


def test_append_read_resume(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    _write(run, _record(0), _record(1))
    assert read_run(run) == (_manifest(), (_record(0), _record(1)))
    with RunLog.open(run, _manifest()) as log:
        assert log.done_keys() == {_record(0).key, _record(1).key}
        assert log.records == (_record(0), _record(1))
        log.append(_record(2))
    assert len(read_run(run)[1]) == 3


def test_neither_opening_nor_streaming_holds_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, count = 100_000, 60
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with RunLog.open(tmp_path, _manifest(count)) as log:
        for index in range(count):
            answer = chr(97 + index % 26) * size
            log.append(_record(index, trajectory=Trajectory((), StopReason.ANSWERED, answer, (), 1.0)))
    tracemalloc.start()
    try:
        with RunLog.open(tmp_path, _manifest(count)) as log:
            assert sum(1 for _ in log.stream()) == len(log.done_keys()) == count
            streamed = tracemalloc.get_traced_memory()[1]
            assert len(log.records) == count
            whole = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert streamed < 10 * size
    assert whole > count * size, "the control: records that are kept do show"


def test_an_empty_run_can_be_read(tmp_path: Path) -> None:
    _write(tmp_path)
    assert read_run(tmp_path)[1] == ()
    (tmp_path / "records.jsonl").unlink()
    assert read_run(tmp_path)[1] == ()


def test_truncated_at_every_byte_nothing_finished_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _write(tmp_path, *(_record(index) for index in range(4)))
    path = tmp_path / "records.jsonl"
    # Thousands of real fsyncs would take the better part of a minute and show nothing more.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        expected = tuple(_record(index) for index in range(whole[:length].count(b"\n")))
        assert read_run(tmp_path)[1] == expected
        assert path.stat().st_size == length, "reading changed the file"
        if length % 7 and b"\n" not in whole[length - 2 : length + 2]:
            continue  # Resuming goes through the same reader; every seventh byte and all line ends will do.
        with RunLog.open(tmp_path, _manifest()) as log:
            assert log.records == expected
            log.append(_record(4))
        assert read_run(tmp_path)[1] == (*expected, _record(4))


def test_a_last_line_that_is_not_json_is_owed_again(tmp_path: Path) -> None:
    whole = _write(tmp_path, _record(0))
    path = tmp_path / "records.jsonl"
    path.write_bytes(whole + b"\0\0\0\0\n")
    assert read_run(tmp_path)[1] == (_record(0),)
    RunLog.open(tmp_path, _manifest()).close()
    assert path.read_bytes() == whole


def test_damage_in_the_middle_is_named_by_line(tmp_path: Path) -> None:
    lines = _write(tmp_path, _record(0), _record(1), _record(2)).splitlines(keepends=True)
    path = tmp_path / "records.jsonl"
    path.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(RunLogError, match="line 2 is damaged"):
        read_run(tmp_path)
    with pytest.raises(RunLogError, match="line 2 is damaged"):
        RunLog.open(tmp_path, _manifest())
    path.write_bytes(lines[0] + b'{"task": 1}\n' + lines[2])
    with pytest.raises(RunLogError, match="line 2: not a record"):
        read_run(tmp_path)
    assert path.read_bytes().startswith(lines[0]), "a refused file must not be changed"


def test_infrastructure_failures_are_owed_and_superseded(tmp_path: Path) -> None:
    failed = _record(0, Outcome.INFRA_FAILED)
    _write(tmp_path, failed)
    with RunLog.open(tmp_path, _manifest()) as log:
        assert log.done_keys() == frozenset()
        log.append(failed)
        log.append(_record(0))
        assert log.done_keys() == {failed.key}
        with pytest.raises(RunLogError, match="second record"):
            log.append(_record(0))
        with pytest.raises(RunLogError, match="second record"):
            log.append(failed)
    assert read_run(tmp_path)[1] == (_record(0),)


def test_a_record_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    whole = _write(tmp_path, _record(0), _record(1))
    (tmp_path / "records.jsonl").write_bytes(whole + record_to_line(_record(0)).encode())
    with pytest.raises(RunLogError, match="line 3: second record of moments 's0'"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"task": "other"}, {"protocol": "x"}, {"sample_id": "s99"}, {"attempt": 1}], ids=lambda c: next(iter(c))
)
def test_records_that_are_not_owed_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with RunLog.open(tmp_path, _manifest()) as log, pytest.raises(RunLogError, match=r"not part|per sample"):
        log.append(_record(0, **changes))
    assert (tmp_path / "records.jsonl").read_bytes() == b""


def test_another_specification_is_refused_by_field(tmp_path: Path) -> None:
    _write(tmp_path, _record(0))
    with pytest.raises(RunLogError, match="differs in label"):
        RunLog.open(tmp_path, _manifest(label="other"))
    assert read_run(tmp_path) == (_manifest(), (_record(0),))


def test_a_strangers_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunLogError, match=r"thesis\.tex"):
        RunLog.open(tmp_path, _manifest())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_died_before_its_manifest_can_begin_again(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("process 1 on gone\n")
    (tmp_path / ".manifest.json.abc.tmp").write_text("{")
    _write(tmp_path, _record(0))
    assert len(read_run(tmp_path)[1]) == 1


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("")
    with pytest.raises(RunLogError, match="cannot use"):
        RunLog.open(path, _manifest())


def test_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    with RunLog.open(tmp_path, _manifest()) as log:
        with pytest.raises(RunLogError, match=f"being written by process {os.getpid()} on "):
            RunLog.open(tmp_path, _manifest())
        log.append(_record(0))
    RunLog.open(tmp_path, _manifest()).close()


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = RunLog.open(tmp_path, _manifest())
    log.close()
    log.close()
    with pytest.raises(RunLogError, match="closed"):
        log.append(_record(0))


def test_threads_may_share_the_log(tmp_path: Path) -> None:
    def append(log: RunLog, first: int) -> None:
        for index in range(first, first + 20):
            log.append(_record(index))

    with RunLog.open(tmp_path, _manifest(80)) as log:
        threads = [threading.Thread(target=append, args=(log, first)) for first in range(0, 80, 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {record.sample_id for record in read_run(tmp_path)[1]} == {f"s{index}" for index in range(80)}


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_whole_lines_and_clear_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real_write = os.write

    def half_a_write(descriptor: int, data: memoryview) -> int:
        if len(data) > 50:
            return real_write(descriptor, data[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_sync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunLog.open(tmp_path, _manifest()) as log:
        log.append(_record(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, call, half_a_write if call == "write" else no_sync)
            with pytest.raises(RunLogError, match=r"disk full while writing .*; free space and resume"):
                log.append(_record(1))
        assert (tmp_path / "records.jsonl").read_bytes() == record_to_line(_record(0)).encode()
        assert _record(1).key not in log.done_keys()
        log.append(_record(1))
    assert read_run(tmp_path)[1] == (_record(0), _record(1))


def test_if_not_even_cutting_back_works_the_log_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with RunLog.open(tmp_path, _manifest()) as log:
        log.append(_record(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            patch.setattr(os, "ftruncate", broken)
            with pytest.raises(RunLogError, match="Input/output error"):
                log.append(_record(1))
        with pytest.raises(RunLogError, match="closed"):
            log.append(_record(2))


def _fill_to_the_limit(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
    with RunLog.open(folder, _manifest(50)) as log:
        for index in range(50):
            log.append(_record(index))


def test_a_real_limit_of_the_kernel(tmp_path: Path) -> None:
    with RunLog.open(tmp_path, _manifest(50)):
        pass
    child = multiprocessing.get_context("fork").Process(target=_fill_to_the_limit, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == 1
    data = (tmp_path / "records.jsonl").read_bytes()
    assert data.endswith(b"\n")
    assert 1_000 < len(data) <= 2_000
    assert len(read_run(tmp_path)[1]) == data.count(b"\n")


def _say_and_sleep(started: Any) -> None:
    started.set()
    time.sleep(60)


def test_a_forked_child_does_not_keep_the_run(tmp_path: Path) -> None:
    log = RunLog.open(tmp_path, _manifest())
    forking = multiprocessing.get_context("fork")
    started = forking.Event()
    child = forking.Process(target=_say_and_sleep, args=(started,))
    child.start()
    try:
        # A busy machine may let the parent come this far before the child has run at all.
        assert started.wait(30)
        log.append(_record(0))
        log.close()
        with RunLog.open(tmp_path, _manifest()) as again:
            assert again.records == (_record(0),)
    finally:
        child.kill()
        child.join()


_WRITER = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("run_log_tests", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
with tests.RunLog.open(pathlib.Path(sys.argv[2]), tests._manifest(5000)) as log:
    done = log.done_keys()
    for index in range(5000):
        if tests._record(index).key not in done:
            log.append(tests._record(index))
            print(index, flush=True)
"""


def test_kill_9_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    said: list[int] = []
    for wanted in (5, 60, 25):
        writer = subprocess.Popen(
            [sys.executable, "-P", "-c", _WRITER, __file__, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        said += [int(writer.stdout.readline()) for _ in range(wanted)]
        writer.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        writer.wait()
        kept = [int(record.sample_id[1:]) for record in read_run(tmp_path)[1]]
        # What was reported as done is there; at most one finished line was not reported yet.
        assert set(said) <= set(kept)
        assert len(kept) == len(set(kept))
        assert kept == list(range(len(kept)))
    assert len(said) == len(set(said)), "an episode was run twice"
