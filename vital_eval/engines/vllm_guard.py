"""Ends vLLM's processes when the one that started them is gone: killed, it can no longer do so, and they would stay.

They carry a mark in their environment, and so does whatever they start. Run as a script, this file waits until its
standard input closes, which the operating system sees to, and ends every process that carries the mark. Linux only, as
vLLM is. It imports the standard library only, so that the waiting costs next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "VITAL_EVAL_ENGINE"
_PROC = Path("/proc")


class Guard:
    """A process that waits for the end of this one.

    Args:
        mark: value of the environment variable :data:`MARK` in the processes to be ended.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        # In a session of its own: Ctrl-C ends it no sooner than this process.
        self._process = subprocess.Popen(  # noqa: S603 - this file and a mark of our own
            [sys.executable, "-I", __file__, mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end(self, patience: float = 10.0) -> None:
        """Wait until the marked processes have ended by themselves, end the rest, and stop waiting."""
        deadline = time.monotonic() + patience
        while marked(self._mark) and time.monotonic() < deadline:
            time.sleep(0.05)
        end_marked(self._mark)
        self._process.communicate()


def marked(mark: str) -> tuple[int, ...]:
    """Return the ids of the living processes that carry a mark, this one apart."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for path in _PROC.iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            # Others' processes and those that have just ended cannot be read; one that has ended reads as empty.
            with contextlib.suppress(OSError):
                if wanted in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
    return tuple(found)


def end_marked(mark: str) -> None:
    """Kill the marked processes, and those they have started meanwhile."""
    for _ in range(50):
        living = marked(mark)
        if not living:
            return
        for process in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_marked(sys.argv[1])
