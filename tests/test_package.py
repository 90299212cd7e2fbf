"""The wheel is whole and works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_IMPORTS = """
import importlib, pkgutil, sys, vital_eval
heavy = {"torch", "transformers", "pandas", "numpy"} & set(sys.modules)
assert not heavy, heavy
for name in ("tasks", "leaderboards", "training", "video", "engines", "nano", "cli", "metrics", "parsing", "cluster"):
    package = importlib.import_module(f"vital_eval.{name}")
    assert list(pkgutil.iter_modules(package.__path__)), name
from importlib.resources import files
from vital_eval.registry import Registries
registries = Registries()
assert len(registries.tasks.names()) == 11
for name in registries.tasks.names():
    assert registries.tasks.load(name)().name == name
assert registries.engines.load("hf") and registries.decoders.load("pyav")
assert (files("vital_eval.nano") / "checkpoint" / "model.safetensors").is_file()
assert (files("vital_eval") / "py.typed").is_file()
print(vital_eval.__file__)
"""


def _run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_everything_can_be_imported_from_anywhere(tmp_path: Path) -> None:
    place = Path(_run(["-c", _IMPORTS], tmp_path).strip()).resolve()
    if os.environ.get("TOX_ENV_NAME"):
        checkout = Path(__file__).resolve().parents[1]
        assert checkout / "vital_eval" not in place.parents, "tox must test the wheel, not the checkout"


@pytest.mark.parametrize("command", [["--version"], ["tasks"]])
def test_command_runs_away_from_the_checkout(tmp_path: Path, command: list[str]) -> None:
    assert _run(["-m", "vital_eval", *command], tmp_path)


def test_packaged_checkpoint_is_small() -> None:
    from importlib.resources import as_file, files

    with as_file(files("vital_eval.nano") / "checkpoint") as folder:
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000
