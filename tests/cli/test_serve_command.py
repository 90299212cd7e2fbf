"""``vital-eval serve`` as a process: it says where it is, answers, and ends without a trace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from importlib.resources import files

import pytest

from vital_eval.cli.main import main

NANO = str(files("vital_eval.nano") / "checkpoint")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(end: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "vital_eval", "serve", NANO, "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    address = line.split()[2].rstrip(",")
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address.removesuffix("/v1") + "/health", timeout=60) as reply:  # noqa: S310
        assert json.load(reply) == {"status": "ok"}
    process.send_signal(end)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors == "ended\n"


def test_a_folder_that_is_no_checkpoint_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
