"""Runs on a real Ray: several nodes on this machine, real processes, real kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from tests.toy_world import TASK, run_arguments, write_data_root
from vital_eval.cli.main import main
from vital_eval.manifest import differing
from vital_eval.nano.formats import write_world
from vital_eval.run_log import read_run

pytest.importorskip("ray", reason="the environment `ray` of tox has it")
from tests.cluster.ray_machines import (
    Cluster,
    actors,
    add_node,
    cluster_of,
    finish,
    living,
    start,
    stop_all,
    wait_until,
    with_descendants,
)

NANO = str(files("vital_eval.nano") / "checkpoint")
#: A worker takes two CPUs: one is for its decoding process.
SMALL = ("--decode-workers", "1", "--concurrency", "3")


@pytest.fixture(scope="module", autouse=True)
def _quietly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="module")
def cluster(_quietly: None) -> Iterator[Cluster]:
    """Two places for workers."""
    with cluster_of(cpus=4) as started:
        yield started


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """A test that fails must not leave its run behind, at the places of the next."""
    yield
    stop_all()


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_data_root(tmp_path, videos=8)
    return tmp_path


def lines_of(run: Path) -> int:
    records = run / "records.jsonl"
    return records.read_bytes().count(b"\n") if records.exists() else 0


def on(cluster: Cluster) -> tuple[str, ...]:
    return ("--ray", cluster.address, *SMALL)


def test_a_run_with_a_killed_worker_is_token_for_token_that_of_one_process(cluster: Cluster, tmp_path: Path) -> None:
    write_world(tmp_path / "world", seed=7, per_task=4)
    common = ["run", "--checkpoint", NANO, "--tasks", "charades_sta,next_gqa", "--preset", "nano"]
    common += ["--label", "nano", "--device", "cpu", "--dtype", "float32", "--batch-size", "4"]
    here = [*common, "--data-root", "world"]
    process = start([*here, "--out", "spread", *on(cluster)], tmp_path)
    wait_until(lambda: lines_of(tmp_path / "spread") >= 3, process=process)
    victim = min(actors())
    os.kill(victim, signal.SIGKILL)
    errors = finish(process)
    assert "was lost, what it had under way is owed again" in errors
    assert "Traceback" not in errors
    finish(start([*here, "--out", "alone", *SMALL], tmp_path))
    spread, alone = read_run(tmp_path / "spread"), read_run(tmp_path / "alone")
    assert differing(spread[0], alone[0]) == ()
    assert len(spread[1]) == lines_of(tmp_path / "spread") == len(alone[1]) >= 32
    texts = [
        {record.key: [turn.text for turn in record.trajectory.turns] for record in run[1]} for run in (spread, alone)
    ]
    assert texts[0] == texts[1]
    grades = [
        {record.key: (record.scores, record.trajectory.frame_times) for record in run[1]} for run in (spread, alone)
    ]
    assert grades[0] == grades[1]
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("spread", "alone")]
    assert summaries[0]["cells"] == summaries[1]["cells"]
    # The control: with the videos in another order the same comparison finds the difference.
    shutil.copytree(tmp_path / "world", tmp_path / "other")
    videos = sorted((tmp_path / "other" / "charades_sta" / "videos").iterdir())
    contents = [video.read_bytes() for video in videos]
    for video, content in zip(videos, contents[1:] + contents[:1], strict=True):
        video.write_bytes(content)
    finish(start([*common, "--data-root", "other", "--out", "control", *SMALL], tmp_path))
    control = {
        record.key: [turn.text for turn in record.trajectory.turns] for record in read_run(tmp_path / "control")[1]
    }
    assert control.keys() == texts[0].keys()
    assert control != texts[0]


def test_ctrl_c_leaves_nothing_behind_and_the_run_goes_on_without_ray(cluster: Cluster, world: Path) -> None:
    out = world / "run"
    process = start(run_arguments(world, out, *on(cluster), delay=0.2))
    wait_until(lambda: lines_of(out) >= 5, process=process)
    at_work = with_descendants(actors())
    assert len(at_work) >= 4, "two workers with a decoding process each"
    process.send_signal(signal.SIGINT)
    errors = finish(process, 130)
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors
    wait_until(lambda: not living(at_work), 30)
    assert 5 <= lines_of(out) < 64
    assert not (out / "summary.json").exists()
    assert main(run_arguments(world, out, *SMALL)) == 0
    assert len(read_run(out)[1]) == lines_of(out) == 64
    assert main(run_arguments(world, world / "alone", *SMALL)) == 0
    assert (out / "summary.json").read_bytes() == (world / "alone" / "summary.json").read_bytes()


def test_a_killed_driver_leaves_nothing_behind_and_its_run_can_be_resumed(cluster: Cluster, world: Path) -> None:
    out = world / "run"
    process = start(run_arguments(world, out, *on(cluster), delay=0.2))
    wait_until(lambda: lines_of(out) >= 3, process=process)
    at_work = with_descendants(actors())
    process.kill()
    process.communicate()
    wait_until(lambda: not living(at_work), 60)
    kept = lines_of(out)
    finish(start(run_arguments(world, out, *on(cluster), delay=0.0)))
    assert kept < len(read_run(out)[1]) == lines_of(out) == 64


def test_nodes_may_come_and_go(cluster: Cluster, world: Path) -> None:
    out = world / "run"
    process = start(run_arguments(world, out, *on(cluster), delay=3.0))
    wait_until(lambda: lines_of(out) >= 3, process=process)
    before = actors()
    node = add_node(cluster, cpus=2)
    wait_until(lambda: len(actors() - before) == 1)
    reached = lines_of(out)
    wait_until(lambda: lines_of(out) >= reached + 6, process=process)
    assert process.poll() is None, "too short a run to show anything"
    cluster.remove_node(node, allow_graceful=False)
    errors = finish(process)
    assert errors.count("is ready") >= 3
    assert len(read_run(out)[1]) == lines_of(out) == 64


def test_a_ray_of_its_own_starts_and_ends_with_the_run(world: Path) -> None:
    out = world / "run"
    arguments = run_arguments(world, out, "--ray", "local", "--ray-workers", "2", *SMALL)
    process = start(arguments)
    wait_until(lambda: process.poll() is not None or lines_of(out) >= 1)
    family = with_descendants({process.pid})
    if process.poll() not in (None, 0):
        _, errors = process.communicate()
        if "Ray did not start" in errors:
            pytest.skip("this machine is too busy for Ray to start within its 30 s")
        pytest.fail(errors)
    finish(process)
    wait_until(lambda: not living(family), 30)
    assert len(read_run(out)[1]) == 64


def test_a_task_from_a_plugin_file_travels(cluster: Cluster, world: Path) -> None:
    plugin = world / "my_task.py"
    plugin.write_text(
        "from vital_eval.tasks.charades_sta import CharadesSTA\n\n\n"
        "class Mine(CharadesSTA):\n    name = 'mine'\n\n\n"
        "def register(registries):\n    registries.tasks.add('mine', lambda: Mine)\n"
    )
    (world / "data" / TASK).rename(world / "data" / "mine")
    arguments = run_arguments(world, world / "run", "--plugin", str(plugin), "--modes", "tool", *on(cluster))
    arguments[arguments.index("--tasks") + 1] = "mine"
    finish(start(arguments))
    assert {record.task for record in read_run(world / "run")[1]} == {"mine"}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "nothing answers at 127.0.0.1:1"),
        ("ray://127.0.0.1:10001", "is no address of a Ray cluster"),
        ("elsewhere", "is no address of a Ray cluster"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(
    world: Path, capsys: pytest.CaptureFixture[str], address: str, words: str
) -> None:
    assert main(run_arguments(world, world / "run", "--ray", address)) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert words in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--decode-workers", "99"), "no node of the cluster has 100 CPUs and 0 GPUs, which a worker takes"),
        (("--ray-gpus", "1"), "no node of the cluster has 2 CPUs and 1 GPU"),
        (("--engine-option", "speed=9"), "engine 'toy' has no options of its own"),
        (("--checkpoint", "/no/checkpoint"), "/no/checkpoint"),
    ],
)
def test_what_a_worker_cannot_do_is_one_line(
    cluster: Cluster, world: Path, change: tuple[str, ...], words: str
) -> None:
    errors = finish(start([*run_arguments(world, world / "run", *on(cluster)), *change]), 1)
    assert errors.startswith("error: ")
    assert words in errors
    assert errors.count("\n") == 1
    assert not (world / "run").exists()
