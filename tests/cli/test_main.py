"""The command line as a whole: quick help, lazy imports, clean errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from vital_eval.cli import main as cli
from vital_eval.cli.main import COMMANDS, main
from vital_eval.cli.output import printable, table

HEAVY = ("torch", "transformers", "pandas", "numpy", "av", "scipy", "pyarrow", "rich")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, json\nfrom vital_eval.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        f"print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    )
    assert json.loads(python(code).splitlines()[-1]) == []


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, json, vital_eval\nprint(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    assert json.loads(python(code)) == []


def test_help_is_quick() -> None:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-P", "-m", "vital_eval", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.3


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "--debug" in capsys.readouterr().out


def test_unknown_command_exits_2() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate"])
    assert stop.value.code == 2


def test_os_errors_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def execute(self, args: object) -> int:
            raise OSError(28, "No space left on device", "/data/x\x1b[31m")

    parser, _ = cli._parser(["tasks"])
    monkeypatch.setattr(cli, "_parser", lambda arguments: (parser, {"tasks": Broken()}))
    assert main(["tasks"]) == 1
    assert capsys.readouterr().err == "error: No space left on device: /data/x\\x1b[31m\n"


def test_tasks_lists_the_eleven(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("charades_sta", "vue_tr", "video_mme", "VSI-Bench"))


def test_an_old_encoding_stops_no_command() -> None:
    code = "from vital_eval.cli.main import main\nfrom vital_eval.cli.output import say\nmain(['tasks'])\nsay('\u2020')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.endswith("\\u2020\n")


def test_doctor_reports(capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    status = main(["doctor", "--data-root", str(empty), "--checkpoint", str(empty)])
    told = capsys.readouterr()
    assert status == 1
    assert "data charades_sta" in told.out
    assert "checkpoint" in told.out
    assert "torch" in told.out


def test_printable_keeps_text_and_tames_control_characters() -> None:
    assert printable("größer 視頻\n\tx") == "größer 視頻\n\tx"
    assert "\x1b" not in printable("\x1b[2J\x07\x00\u202e")


def test_table_aligns() -> None:
    assert table(("name", "n"), [("a", "5"), ("bcd", "12")]) == "name   n\na      5\nbcd   12"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "import os, sys, time; from vital_eval.cli.main import main; os.read(0, 1); sys.exit(main(['tasks']))"
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    child.stdin.write(b"x")
    child.stdin.close()
    assert child.stderr.read() == b""
    assert child.wait() in (0, 1)
    child.stderr.close()


def test_a_closed_output_is_no_traceback() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -P -m vital_eval tasks >&-', sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
