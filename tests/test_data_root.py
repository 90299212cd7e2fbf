"""The data root: what is missing is named, what is read is hashed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.toy_world import TASK, write_data_root
from vital_eval.data_root import Shard, hash_files, parse_shard, read_task
from vital_eval.errors import DataError, VitalError
from vital_eval.registry import Registries
from vital_eval.task import Task


@pytest.fixture
def task() -> Task:
    loaded: Task = Registries().tasks.load(TASK)()
    return loaded


def test_a_task_is_read_with_its_hash(tmp_path: Path, task: Task) -> None:
    data = read_task(task, write_data_root(tmp_path, videos=2))
    assert len(data.samples) == 4
    assert data.videos.is_dir()
    assert data.data_hash == hash_files(data.folder, task.annotation_files())


def test_the_hash_follows_the_content(tmp_path: Path, task: Task) -> None:
    root = write_data_root(tmp_path, videos=1)
    before = read_task(task, root).data_hash
    path = root / TASK / "charades_test.json"
    path.write_text(path.read_text() + "\n")
    assert read_task(task, root).data_hash != before


def test_what_is_missing_is_named(tmp_path: Path, task: Task) -> None:
    with pytest.raises(DataError, match=r"data root .* does not exist"):
        read_task(task, tmp_path / "none")
    with pytest.raises(DataError, match=r"charades_sta has no folder .*put charades_test\.json and videos/ into"):
        read_task(task, tmp_path)
    (tmp_path / TASK).mkdir()
    with pytest.raises(DataError, match=r"charades_test\.json"):
        read_task(task, tmp_path)
    (tmp_path / TASK / "charades_test.json").write_text(json.dumps({}))
    with pytest.raises(DataError):
        read_task(task, tmp_path)
    with pytest.raises(DataError, match="cannot read"):
        hash_files(tmp_path, ["none"])


def test_shards_are_read() -> None:
    assert parse_shard("2/4") == Shard(2, 4)
    assert str(Shard(2, 4)) == "2/4"


@pytest.mark.parametrize("text", ["", "2", "0/4", "5/4", "a/b", "1/0", "-1/2", "1/2/3"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(VitalError):
        parse_shard(text)
