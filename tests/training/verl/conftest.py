"""Tiny checkpoints and two videos."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

if importlib.util.find_spec("verl") is not None:
    from . import shim  # noqa: F401 - before transformers looks for torchvision


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a random Qwen2.5-VL checkpoint with the processor that verl loads."""
    from .support import write_checkpoint_with_processor

    return write_checkpoint_with_processor(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def checkpoint_or_skip(request: pytest.FixtureRequest) -> Path:
    """Return :func:`checkpoint`; skips the test where verl is not installed."""
    pytest.importorskip("verl", reason="verl is installed in an environment of its own (tox -e verl)")
    found: Path = request.getfixturevalue("checkpoint")
    return found


@pytest.fixture(scope="session")
def plain_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a random Qwen2.5-VL checkpoint without a processor, which needs torchvision."""
    from ...engines.tiny import write_checkpoint  # noqa: TID252 - tests/ is not on the path

    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), "qwen2_5_vl")


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a video of 20 s and one of 8 s, 4 frames a second."""
    from .support import write_video

    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "long.mp4", seconds=20)
    write_video(folder / "short.mp4", seconds=8)
    return folder


@pytest.fixture(autouse=True)
def _forget_hydra() -> Iterator[None]:
    """Clear hydra between tests: it keeps one configuration a process."""
    yield
    if importlib.util.find_spec("hydra") is not None:
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
