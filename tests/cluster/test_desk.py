"""The driver's queue: everything is handed out, nothing twice at a time, and nobody hoards."""

from __future__ import annotations

import random

import pytest

from tests.cluster.pretence import plan_of
from tests.toy_world import write_data_root
from vital_eval.cluster.desk import MOST_LOSSES, Desk
from vital_eval.player import Job, jobs_of


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[list[Job]]:
    """Six videos with eight episodes each."""
    plan = plan_of(write_data_root(tmp_path_factory.mktemp("world"), videos=6))
    found: dict[str, list[Job]] = {}
    for job in jobs_of(plan):
        found.setdefault(job.attempt.sample.video, []).append(job)
    return list(found.values())


def videos(portion: tuple[Job, ...]) -> set[str]:
    return {job.attempt.sample.video for job in portion}


def test_a_worker_stays_with_its_video(groups: list[list[Job]]) -> None:
    desk = Desk(groups)
    first = desk.take("a", 3, 2)
    other = desk.take("b", 3, 2)
    assert len(first) == len(other) == 3
    assert not videos(first) & videos(other)
    assert videos(desk.take("a", 5, 2)) == videos(first)
    assert videos(desk.take("a", 5, 2)) not in (videos(first), videos(other))


def test_portions_shrink_and_the_rest_of_a_video_is_shared(groups: list[list[Job]]) -> None:
    desk = Desk(groups[:1])
    assert len(desk.take("a", 100, 2)) == 2
    assert len(desk.take("b", 100, 2)) == 1
    left = desk.waiting
    taken = [desk.take("b", 1, 2) for _ in range(left)]
    assert all(len(portion) == 1 for portion in taken), "b finishes what a has begun"
    assert desk.take("b", 1, 2) == ()
    assert not desk.finished


@pytest.mark.parametrize("seed", range(20))
def test_under_losses_everything_ends_once(groups: list[list[Job]], seed: int) -> None:
    """Workers take, finish and die at random; nobody ever has what another has."""
    dice = random.Random(seed)  # noqa: S311
    desk = Desk(groups)
    wanted = {job.key for group in groups for job in group}
    under_way: dict[str, list[Job]] = {}
    ended: list[object] = []
    while not desk.finished:
        name = f"w{dice.randrange(4)}"
        mine = under_way.setdefault(name, [])
        chance = dice.random()
        if chance < 0.03:
            ended += [job.key for job in mine if not desk.lose(job)]
            desk.dismiss(name)
            mine.clear()
        elif chance < 0.5 and mine:
            job = mine.pop(dice.randrange(len(mine)))
            desk.finish(job)
            ended.append(job.key)
        else:
            mine += desk.take(name, dice.randint(1, 6), 4)
        held = [job.key for jobs in under_way.values() for job in jobs]
        assert len(held) == len(set(held))
        assert desk.waiting == len(wanted) - len(held) - len(ended)
    assert len(ended) == len(set(ended))
    assert set(ended) == wanted


def test_one_that_kills_its_worker_is_found_and_given_up(groups: list[list[Job]]) -> None:
    desk = Desk(groups)
    killer = groups[0][1].key
    deaths, given_up = 0, []
    under_way: list[Job] = []
    while not desk.finished:
        portion = desk.take("a", 8, 1)
        under_way += portion
        if portion and not any(job.key == killer for job in under_way):
            continue
        if any(job.key == killer for job in under_way):
            deaths += 1
            given_up += [job.key for job in under_way if not desk.lose(job)]
            desk.dismiss("a")
        else:
            for job in under_way:
                desk.finish(job)
        under_way = []
    assert deaths == MOST_LOSSES
    assert given_up == [killer]
