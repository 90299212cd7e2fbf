"""Annotation files for the tests: small ones, and the real ones where this machine has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vital_eval.registry import Registry
from vital_eval.sample import Sample
from vital_eval.task import Task

from .official_forms import WRITERS

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def official() -> Callable[[str], Path]:
    """Return the folder of a task's real annotation files; skips the test where there is none."""

    def folder(name: str) -> Path:
        path = Path(os.environ.get("VITAL_SHARED", _ROOT.parent / "shared")) / "data" / name
        if not path.is_dir():
            pytest.skip(f"real annotation files not found at {path}; set VITAL_SHARED")
        return path

    return folder


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], tuple[Task, tuple[Sample, ...]]]:
    """Return a task and the samples of its small annotation files."""

    def loaded(name: str) -> tuple[Task, tuple[Sample, ...]]:
        WRITERS[name](tmp_path)
        task: Task = Registry("task").load(name)()
        return task, task.samples(tmp_path)

    return loaded
