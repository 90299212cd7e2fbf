"""A world is written once, and a broken-off one is finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from vital_eval.nano import once
from vital_eval.nano.once import write_world_once


def test_a_world_is_written_once_and_finished_if_it_was_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[Path, int, int]] = []
    said: list[str] = []

    def broken(root: Path, seed: int, per_task: int) -> None:
        raise KeyboardInterrupt

    def write(root: Path, seed: int, per_task: int) -> None:
        (root / "charades_sta").mkdir()
        written.append((root, seed, per_task))

    folder = tmp_path / "new" / "world"
    monkeypatch.setattr(once, "write_world", broken)
    with pytest.raises(KeyboardInterrupt):
        write_world_once(folder, 7, 2)
    monkeypatch.setattr(once, "write_world", write)
    for _ in range(2):
        assert write_world_once(folder, 7, 2, lambda: said.append("writing")) == folder
    assert written == [(folder, 7, 2)]
    assert said == ["writing"]
    assert sorted(path.name for path in folder.iterdir()) == ["charades_sta", "complete"]
