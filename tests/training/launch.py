"""Starts workers of tests in two processes, as users start a training."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

#: The tests' folder comes last, so that the installed package is what is imported.
_WORKER = """
import sys
sys.path.append(sys.argv[1])
from importlib import import_module
from pathlib import Path
getattr(import_module(sys.argv[2]), sys.argv[3])(Path(sys.argv[4]))
"""


#: Seconds for two processes to start and do their work.
PATIENCE = 600.0


def launch(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Have torchrun start Python with these arguments twice, and wait for the end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command += [sys.executable, "-P", *arguments]
    with subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            out, err = started.communicate(timeout=PATIENCE)
        except BaseException:
            # Asked, and not killed, torchrun ends its processes; else they would stay.
            started.terminate()
            started.communicate()
            raise
    return subprocess.CompletedProcess(command, started.returncode, out, err)


def work(worker: str, folder: Path, function: str = "main") -> subprocess.CompletedProcess[str]:
    """Call a function of a module beside this one in two processes, with the folder that it writes to."""
    tests = str(Path(__file__).parents[2])
    return launch(["-c", _WORKER, tests, f"{__package__}.{worker}", function, str(folder)])


def require_work(worker: str, folder: Path) -> Path:
    """Do so with ``main``, which must end well, and return the folder."""
    done = work(worker, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder
