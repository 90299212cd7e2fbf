"""The driver: every episode is kept once, whatever happens to workers and nodes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.cluster.pretence import INFO, PretendCluster, PretendWorker, node, plan_of
from tests.toy_world import write_data_root
from vital_eval.cluster.crew import MOST_LOST_IN_A_ROW, Crew, Patience
from vital_eval.cluster.desk import MOST_LOSSES
from vital_eval.cluster.places import ClusterError, Needs
from vital_eval.cluster.worker import Trouble
from vital_eval.errors import VitalError
from vital_eval.outcome import Outcome
from vital_eval.plan import RunPlan, make_manifest
from vital_eval.progress import Silent, Tally
from vital_eval.record import Key, Record
from vital_eval.run_log import RunLog, read_run
from vital_eval.settings import Settings

HASTY = Patience(look=0.005, again=0.005, tell=0.05, give_up=0.5)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    """Sixty-four episodes."""
    return plan_of(write_data_root(tmp_path_factory.mktemp("world"), videos=8))


class Run:
    """One run on a pretended cluster; ``told`` is what the user would read."""

    def __init__(
        self, plan: RunPlan, out: Path, cluster: PretendCluster, most: int | None = None, concurrency: int = 4
    ) -> None:
        self.plan, self.out, self.cluster, self.most = plan, out, cluster, most
        self.settings = Settings(concurrency=concurrency)
        self.told: list[str] = []

    def go(self, meanwhile: Callable[[], Awaitable[None]] | None = None) -> tuple[Tally, tuple[Record, ...]]:
        """Play it all, while something else happens."""

        async def play() -> Tally:
            crew = Crew(self.cluster, self.plan, Needs(1, 0), self.settings, self.told.append, self.most, HASTY)
            other = None if meanwhile is None else asyncio.ensure_future(meanwhile())
            try:
                async with asyncio.timeout(30):
                    info = await crew.open()
                    with RunLog.open(self.out, make_manifest(self.plan, info, "toy")) as log:
                        return await crew.play(log, Silent())
            finally:
                if other is not None:
                    other.cancel()
                await crew.close()

        tally = asyncio.run(play())
        return tally, read_run(self.out)[1]


def test_a_run_spreads_and_is_whole(plan: RunPlan, tmp_path: Path) -> None:
    cluster = PretendCluster(plan, node("a", 2), node("b", 1))
    tally, records = Run(plan, tmp_path / "run", cluster).go()
    assert tally.owed == 0
    assert len(records) == plan.episodes == 64
    assert Counter(cluster.handed).most_common(1)[0][1] == 1
    assert len(cluster.hired) == 3
    assert min(len(worker.played) for worker in cluster.hired) > 8, "everyone had a fair part"
    assert max(worker.most_under_way for worker in cluster.hired) <= 8
    assert all(worker.ended for worker in cluster.hired)
    assert cluster.closed


@pytest.mark.parametrize("workers", [1, 2])
def test_one_episode_at_a_time_is_enough(plan: RunPlan, tmp_path: Path, workers: int) -> None:
    cluster = PretendCluster(plan, node("a", workers))
    tally, _ = Run(plan, tmp_path / "run", cluster, concurrency=1).go()
    assert tally.owed == 0
    assert max(worker.most_under_way for worker in cluster.hired) <= 2


def test_the_number_of_workers_can_be_bounded(plan: RunPlan, tmp_path: Path) -> None:
    cluster = PretendCluster(plan, node("a", 4), node("b", 4))
    Run(plan, tmp_path / "run", cluster, most=3).go()
    assert sorted(worker.place.node.name for worker in cluster.hired) == ["a", "a", "b"]


def test_what_is_finished_is_not_played_again(plan: RunPlan, tmp_path: Path) -> None:
    kept = 0

    def stops_the_run(worker: PretendWorker, key: Key) -> None:
        nonlocal kept
        kept += 1
        if kept > 10:
            raise RuntimeError("the driver's machine goes down")

    broken = PretendCluster(plan, node("a", 2), habit=stops_the_run)
    with pytest.raises(RuntimeError, match="goes down"):
        Run(plan, tmp_path / "run", broken).go()
    assert broken.closed
    assert all(worker.ended for worker in broken.hired)
    done = {record.key for record in read_run(tmp_path / "run")[1]}
    assert 0 < len(done) <= 10
    cluster = PretendCluster(plan, node("a", 2))
    tally, records = Run(plan, tmp_path / "run", cluster).go()
    assert (tally.resumed, tally.owed) == (len(done), 0)
    assert not done & set(cluster.handed)
    assert len(records) == 64


def test_a_lost_worker_is_replaced_and_its_episodes_are_played_again(plan: RunPlan, tmp_path: Path) -> None:
    def dies_once(worker: PretendWorker, key: Key) -> None:
        if len(worker.cluster.hired) == 2 and len(worker.played) == 5:
            worker.lose()

    cluster = PretendCluster(plan, node("a"), node("b"), habit=dies_once)
    run = Run(plan, tmp_path / "run", cluster)
    tally, records = run.go()
    assert tally.owed == 0
    assert len(records) == 64
    assert len(cluster.hired) >= 3
    assert any("was lost, what it had under way is owed again" in line for line in run.told)
    played = [key for worker in cluster.hired for key in worker.played]
    assert len(played) == len(set(played)) == 64, "a record that came is never played again"
    assert len(cluster.handed) > 64


def test_a_node_that_goes_takes_its_worker_with_it_and_one_that_comes_brings_one(plan: RunPlan, tmp_path: Path) -> None:
    cluster = PretendCluster(plan, node("a"))

    async def weather() -> None:
        while sum(len(worker.played) for worker in cluster.hired) < 8:
            await asyncio.sleep(0.001)
        cluster.machines[:] = [node("b")]

    tally, _ = Run(plan, tmp_path / "run", cluster).go(weather)
    assert tally.owed == 0
    assert [worker.place.node.name for worker in cluster.hired] == ["a", "b"]
    assert all(worker.played for worker in cluster.hired)


def test_a_node_that_joins_gets_work(plan: RunPlan, tmp_path: Path) -> None:
    cluster = PretendCluster(plan, node("a"))

    async def help_comes() -> None:
        while not cluster.hired or len(cluster.hired[0].played) < 4:
            await asyncio.sleep(0.001)
        cluster.machines.append(node("b", 2))

    Run(plan, tmp_path / "run", cluster).go(help_comes)
    assert [worker.place.node.name for worker in cluster.hired] == ["a", "b", "b"]
    assert all(worker.played for worker in cluster.hired)


def test_an_episode_that_kills_worker_after_worker_is_given_up(plan: RunPlan, tmp_path: Path) -> None:
    killer = next(key for key, _ in plan.jobs(plan.tasks[0]))

    def dies_of_it(worker: PretendWorker, key: Key) -> None:
        if key == killer:
            worker.lose()

    cluster = PretendCluster(plan, node("a"), node("b"), habit=dies_of_it)
    tally, records = Run(plan, tmp_path / "run", cluster).go()
    failed = {record.key: record for record in records if record.outcome is Outcome.INFRA_FAILED}
    assert killer in failed
    assert len(failed) <= 2, "at most one innocent shares the last worker with it"
    assert f"lost each of the {MOST_LOSSES} times" in failed[killer].trajectory.error
    assert tally.owed == len(failed)
    assert len(records) == 64


def test_workers_that_die_at_start_end_the_run_with_a_reason(plan: RunPlan, tmp_path: Path) -> None:
    cluster = PretendCluster(plan, node("a"))
    cluster.prepare = PretendWorker.lose
    with pytest.raises(ClusterError, match=f"lost {MOST_LOST_IN_A_ROW} times in a row.*killed by a test"):
        Run(plan, tmp_path / "run", cluster).go()
    assert len(cluster.hired) == MOST_LOST_IN_A_ROW
    assert not (tmp_path / "run").exists()


def test_one_bad_node_does_not_end_the_run(plan: RunPlan, tmp_path: Path) -> None:
    cluster = PretendCluster(plan, node("a"), node("bad"))

    def prepare(worker: PretendWorker) -> None:
        if worker.place.node.name == "bad":
            worker.lose()

    def slowly(worker: PretendWorker, key: Key) -> None:
        if len(cluster.hired) <= MOST_LOST_IN_A_ROW and len(worker.played) > 40:
            worker.lose()

    cluster.prepare, cluster.habit = prepare, slowly
    tally, _ = Run(plan, tmp_path / "run", cluster).go()
    assert tally.owed == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fingerprint": "e" * 64}, "fingerprint"),
        ({"details": {"dtype": "bfloat16"}}, r"dtype \(float32 and bfloat16\)"),
    ],
)
def test_another_engine_is_refused(plan: RunPlan, tmp_path: Path, change: dict[str, object], words: str) -> None:
    cluster = PretendCluster(plan, node("a"), node("b"))

    def prepare(worker: PretendWorker) -> None:
        if worker.place.node.name == "b":
            worker.info = dataclasses.replace(INFO, **change)  # type: ignore[arg-type]

    cluster.prepare = prepare
    with pytest.raises(ClusterError, match=f"engine is not that of the other workers.*{words}"):
        Run(plan, tmp_path / "run", cluster).go()


def test_a_node_that_comes_later_with_another_engine_is_left_out(plan: RunPlan, tmp_path: Path) -> None:
    cluster = PretendCluster(plan, node("a"))

    def prepare(worker: PretendWorker) -> None:
        if worker.place.node.name == "b":
            worker.info = dataclasses.replace(INFO, fingerprint="e" * 64)

    async def help_comes() -> None:
        while not cluster.hired or not cluster.hired[0].played:
            await asyncio.sleep(0.001)
        cluster.machines.append(node("b"))

    cluster.prepare = prepare
    run = Run(plan, tmp_path / "run", cluster)
    tally, _ = run.go(help_comes)
    assert tally.owed == 0
    assert [worker.place.node.name for worker in cluster.hired] == ["a", "b"]
    assert not cluster.hired[1].played
    assert any("the run goes on without it" in line for line in run.told)


def test_other_versions_and_missing_folders_are_one_line_before_anything_is_written(
    plan: RunPlan, tmp_path: Path
) -> None:
    def old(worker: PretendWorker) -> None:
        worker.told = {"vital-eval": "0.0.1"}

    def bare(worker: PretendWorker) -> None:
        worker.info = Trouble("/data/x does not exist there", "mount it")

    for prepare, words in ((old, "worker 1 on a: it has vital-eval 0.0.1"), (bare, "worker 1 on a: /data/x does not")):
        cluster = PretendCluster(plan, node("a"))
        cluster.prepare = prepare
        with pytest.raises(ClusterError, match=words):
            Run(plan, tmp_path / "run", cluster).go()
        assert not (tmp_path / "run").exists()
        assert all(worker.ended for worker in cluster.hired)


def test_a_cluster_without_room_is_one_line(plan: RunPlan, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"no node of the cluster has 1 CPU and 0 GPUs.*the best has 0\.5 CPUs"):
        Run(plan, tmp_path / "run", PretendCluster(plan, node("a", 0.5))).go()


def test_a_cluster_that_empties_is_waited_for_and_then_given_up(plan: RunPlan, tmp_path: Path) -> None:
    cluster = PretendCluster(plan, node("a"))

    async def storm() -> None:
        while not cluster.hired or len(cluster.hired[0].played) < 4:
            await asyncio.sleep(0.001)
        cluster.machines.clear()

    run = Run(plan, tmp_path / "run", cluster)
    with pytest.raises(ClusterError, match="no worker could be started"):
        run.go(storm)
    assert "no worker runs; waiting for a node with 1 CPU and 0 GPUs to spare" in run.told
    assert 4 <= len(read_run(tmp_path / "run")[1]) < 64


def test_a_bug_in_a_task_ends_the_run_with_its_name(plan: RunPlan, tmp_path: Path) -> None:
    cluster = PretendCluster(plan, node("a"))
    cluster.record = lambda key: Trouble("task x cannot grade", "a bug")  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(VitalError, match="task x cannot grade; a bug"):
        Run(plan, tmp_path / "run", cluster).go()
    assert read_run(tmp_path / "run")[1] == ()


def test_a_node_that_was_left_out_ends_no_run_while_the_others_are_away(plan: RunPlan, tmp_path: Path) -> None:
    cluster = PretendCluster(plan, node("a"))

    def prepare(worker: PretendWorker) -> None:
        if worker.place.node.name == "b":
            worker.info = dataclasses.replace(INFO, fingerprint="e" * 64)

    async def weather() -> None:
        while not cluster.hired or not cluster.hired[0].played:
            await asyncio.sleep(0.001)
        cluster.machines.append(node("b"))
        while len(cluster.hired) < 2:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        cluster.machines[:] = [machine for machine in cluster.machines if machine.name != "a"]
        await asyncio.sleep(0.1)
        cluster.machines.append(node("c"))

    cluster.prepare = prepare
    run = Run(plan, tmp_path / "run", cluster, concurrency=1)
    tally, _ = run.go(weather)
    assert tally.owed == 0
    assert any("goes on without it" in line for line in run.told)
    assert any(worker.place.node.name == "c" for worker in cluster.hired)
