"""The ablation table of a training: every stage against the one it started from, as boards compare."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from vital_eval.errors import DataError
from vital_eval.leaderboards.comparison import paired_test
from vital_eval.protocol import Mode
from vital_eval.statistics.permutation import sign_flip
from vital_eval.summary import Item
from vital_eval.training.ablation import ablation, compare_checkpoints, mean_of_seeds
from vital_eval.training.recipes import recipe


def test_a_stage_is_paired_with_what_it_started_from(make_run: Callable[..., Path], tmp_path: Path) -> None:
    stages = {stage.name: stage for stage in recipe("nano").stages}
    first, second = stages["1-sft"], stages["2-dgrpo"]
    tasks = ("charades_sta", "mmvu")
    for run, luck, mark in (("base/run-cot", "", "f0"), ("1-sft/run", "a", "f1"), ("2-dgrpo/run", "b", "f2")):
        make_run(name=f"out/{run}", tasks=tasks, modes=(Mode.COT,), samples=20, luck=luck, fingerprint=mark)
    rows = ablation((first, second), tmp_path / "out")
    assert [(row.name, row.against) for row in rows] == [
        ("base", ""),
        (first.name, "base"),
        (second.name, first.name),
    ]
    assert (rows[0].difference, rows[0].p) == (None, None)
    for earlier, row in pairwise(rows):
        assert row.difference is not None
        assert row.p is not None
        assert earlier.score.value is not None
        assert row.score.value is not None
        # All samples are shared, so the difference of the means is the mean of the differences.
        assert row.difference.value == pytest.approx(row.score.value - earlier.score.value)
        assert row.difference.value != 0
        assert row.difference.n == 40
    # Trained alone, as by an own call, the second is compared with the same.
    assert ablation((second,), tmp_path / "out") == (rows[0], rows[2])
    shutil.rmtree(tmp_path / "out" / first.name)
    base, alone = ablation((second,), tmp_path / "out")
    assert (alone.against, alone.difference, alone.score) == ("", None, rows[2].score)
    assert base == rows[0]


def test_only_the_runs_of_the_training_itself_are_read(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """Copies, and what an earlier layout left, must not stand in for a stage's own run."""
    stage = next(stage for stage in recipe("nano").stages if stage.name == "1-sft")
    for name, luck in (("base/run-cot", ""), ("1-sft/run", "a")):
        make_run(name=f"out/{name}", modes=(Mode.COT,), samples=20, luck=luck)
    rows = ablation((stage,), tmp_path / "out")
    for name in ("base/run", "base/run-zold", "1-sft/run-copy"):
        make_run(name=f"out/{name}", modes=(Mode.COT,), samples=20, luck="other")
    (tmp_path / "out" / "base" / "run-empty").mkdir()
    (tmp_path / "out" / "base" / "run.txt").write_text("")
    assert ablation((stage,), tmp_path / "out") == rows


def test_what_is_owed_is_no_wrong_answer(make_run: Callable[..., Path], tmp_path: Path) -> None:
    stages = {stage.name: stage for stage in recipe("nano").stages}
    for name, luck in (("base/run-cot", ""), ("1-sft/run", "a"), ("2-dgrpo/run", "b")):
        make_run(name=f"out/{name}", modes=(Mode.COT,), samples=20, luck=luck)
    log = tmp_path / "out" / "1-sft" / "run" / "records.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-3]))
    rows = {row.name: row for row in ablation((stages["1-sft"], stages["2-dgrpo"]), tmp_path / "out")}
    assert rows["1-sft"].owed == 3
    assert (rows["1-sft"].score, rows["1-sft"].difference) == (None, None)
    assert any("3 episodes of" in note for note in rows["1-sft"].notes)
    assert rows["2-dgrpo"].score is not None
    assert rows["2-dgrpo"].difference is None
    assert any("not compared" in note for note in rows["2-dgrpo"].notes)
    log.write_text("".join(lines))
    assert all(row.owed == 0 for row in ablation((stages["1-sft"], stages["2-dgrpo"]), tmp_path / "out"))


def test_samples_of_one_side_only_are_named(make_run: Callable[..., Path], tmp_path: Path) -> None:
    stage = next(stage for stage in recipe("nano").stages if stage.name == "1-sft")
    make_run(name="out/base/run-cot", modes=(Mode.COT,), tasks=("mmvu",), samples=20)
    make_run(name="out/1-sft/run", modes=(Mode.COT,), tasks=("mmvu",), samples=12, luck="a")
    base, row = ablation((stage,), tmp_path / "out")
    assert base.notes == ()
    assert row.difference is not None
    assert row.difference.n == 12
    assert any("over the 12 samples that both answered; 8 were asked of one" in note for note in row.notes)


def test_pairs_weigh_their_strata_equally() -> None:
    def item(task: str, number: int, value: float) -> Item:
        return Item(f"s{number}", f"{task}/v{number // 2}", value, (task,))

    a = [item("a", n, 1.0) for n in range(4)] + [item("b", n, 0.5) for n in range(8)]
    b = [item("a", n, float(n % 2)) for n in range(4)] + [item("b", n, 0.75) for n in range(8)]
    found = paired_test(list(zip(a, b, strict=True)))
    assert found.values == pytest.approx(((1.0 + 0.5) / 2, (0.5 + 0.75) / 2))
    assert found.difference.value == pytest.approx(0.125)
    weights = [1 / 8] * 4 + [1 / 16] * 8
    differences = [one.value - other.value for one, other in zip(a, b, strict=True)]
    assert found.test == sign_flip(differences, weights, [one.cluster for one in a])


def test_seeds_are_averaged_sample_by_sample() -> None:
    def scores(*values: float) -> dict[str, dict[str, Item]]:
        return {"a": {f"s{n}": Item(f"s{n}", f"v{n}", value, ("a",)) for n, value in enumerate(values)}}

    mean = mean_of_seeds([scores(0.0, 1.0, 0.5), scores(1.0, 1.0, 0.0)])
    assert [item.value for item in mean["a"].values()] == [0.5, 1.0, 0.25]
    assert compare_checkpoints(mean, scores(0.5, 0.5, 0.5)).difference.value == pytest.approx(1.75 / 3 - 0.5)
    with pytest.raises(DataError, match="different samples"):
        mean_of_seeds([scores(0.0, 1.0), scores(0.0)])
