"""Traps 129 to 138: what a number means, and what is said about it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest

from tests.traps.worlds import PROTOCOL, entry, manifest, record, task, write_run
from vital_eval.cli.main import main
from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.errors import RunLogError
from vital_eval.leaderboards.board import Board, build_board, make_board
from vital_eval.leaderboards.cells import Kind
from vital_eval.leaderboards.comparison import compare
from vital_eval.leaderboards.published import PUBLISHED_TITLE, published_tables, read_published
from vital_eval.leaderboards.render_markdown import render_markdown
from vital_eval.leaderboards.sides import read_runs
from vital_eval.leaderboards.tables import INTERVAL_NOTE
from vital_eval.leaderboards.training_data import TrainedOn
from vital_eval.presets import preset
from vital_eval.protocol import Mode, Protocol
from vital_eval.record import Record
from vital_eval.registry import Registry
from vital_eval.run_log import RunLog, read_run
from vital_eval.statistics.means import estimate, nested_weights, paired_difference
from vital_eval.statistics.permutation import sign_flip
from vital_eval.statistics.ranks import rank_ranges
from vital_eval.summary import metric_items, summarise, write_summary

SAMPLES = tuple((f"s{index}", f"v{index // 2}") for index in range(24))
TOOL = preset("nano", Mode.TOOL, "moments")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    # Durability is tested with the run log itself.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def scores(seed: int, count: int = 24) -> list[float]:
    generator = random.Random(seed)  # noqa: S311
    return [round(generator.random(), 3) for _ in range(count)]


def records(values: Sequence[float], protocol: Protocol = PROTOCOL, **changes: object) -> list[Record]:
    same = {"protocol": protocol.hash, "mode": protocol.mode, **changes}
    return [record(index, value, **same) for index, value in enumerate(values)]


def run(folder: Path, values: Sequence[float], protocol: Protocol = PROTOCOL, fingerprint: str = "f1") -> Path:
    engine = EngineInfo("hf", f"model-{fingerprint}", fingerprint, FrameGeometry(32, 2))
    owed = manifest(entry(SAMPLES[: len(values)], protocol), label=fingerprint, engine=engine)
    return write_run(folder, owed, records(values, protocol))


def both_modes(folder: Path, text: Sequence[float], tool: Sequence[float]) -> Path:
    owed = manifest(entry(SAMPLES, PROTOCOL), entry(SAMPLES, TOOL))
    return write_run(folder, owed, [*records(text), *records(tool, TOOL, calls=("",))])


def measured(board: Board) -> list[str]:
    return [row.label for row in board.rows if row.kind is Kind.MEASURED]


def test_trap_129_value_and_error_are_on_one_scale(tmp_path: Path) -> None:
    values = [1.0, 1.0, 1.0, 0.0] * 6
    naive = f"{100 * fmean(values):.2f} \u00b1 {stdev(values) / math.sqrt(len(values)):.4f}"
    assert naive == "75.00 \u00b1 0.0903"
    clusters = [cluster for _, cluster in SAMPLES]
    whole, half = (
        estimate([factor * value for value in values], nested_weights([()] * 24), clusters) for factor in (1.0, 0.5)
    )
    assert whole.value is not None
    assert whole.se is not None
    assert half.value == pytest.approx(0.5 * whole.value)
    assert half.se == pytest.approx(0.5 * whole.se)
    text = render_markdown(build_board([run(tmp_path / "run", values)]))
    assert "75.0" in text
    assert f"{100 * (whole.low or 0):.1f}, {100 * (whole.high or 0):.1f}" in text


def test_trap_130_a_run_against_itself_shows_no_difference(tmp_path: Path) -> None:
    values = scores(1)
    stored = {"score": {"value": 0.75}}
    naive_other = [float(value) if isinstance(value, int | float) else 0.0 for value in stored.values()]
    assert 0.75 - fmean(naive_other) == 0.75  # The loader does not read the dictionary: +75 points against itself.
    one, other = (read_runs([run(tmp_path / name, values)]).sides[0] for name in ("a", "b"))
    found = compare("same", "moments", one, other)
    assert found.difference is not None
    assert (found.difference.value, found.p, found.verdict) == (0, 1, "no difference shown")
    # A shifted run is told apart, so the 0 above is no constant.
    worse = [value / 2 for value in values]
    shifted = compare("half", "moments", one, read_runs([run(tmp_path / "c", worse)]).sides[0])
    assert shifted.difference is not None
    assert shifted.difference.value == pytest.approx(fmean(values) / 2)
    assert shifted.p is not None
    assert shifted.p < 0.01


def test_trap_130_samples_are_paired_by_id(tmp_path: Path) -> None:
    values = scores(2)
    folder = run(tmp_path / "a", values)
    turned = write_run(tmp_path / "b", manifest(entry(SAMPLES[::-1])), records(values)[::-1])
    naive = [one - other for one, other in zip(values, values[::-1], strict=True)]
    assert any(naive)  # Paired by the row of the file, a run differs from itself.
    one, other = (read_runs([path]).sides[0] for path in (folder, turned))
    found = compare("same", "moments", one, other)
    assert found.difference is not None
    assert (found.difference.value, found.difference.se, found.p) == (0, 0, 1)


def test_trap_131_all_answers_to_a_sample_count(tmp_path: Path) -> None:
    values = {index: [1.0, 0.0, 0.5] for index in range(24)}
    naive_first = fmean(inside[0] for inside in values.values())
    assert naive_first == 1
    owed = manifest(entry(SAMPLES), attempts=3)
    made = [record(index, value, attempt=k) for index, inside in values.items() for k, value in enumerate(inside)]
    board = build_board([write_run(tmp_path / "run", owed, made)])
    cell = next(row for row in board.rows if row.kind is Kind.MEASURED).cells[0]
    assert cell.value == pytest.approx(0.5)
    (repeat,) = board.repeats
    assert (repeat.attempts, repeat.best.value) == (3, 1)
    assert repeat.spread is not None
    assert repeat.spread.within == pytest.approx(0.25)


def test_trap_132_every_metric_of_every_task_has_clustered_scores() -> None:
    def naive_stderr(metric: str, known: Sequence[str] = ("acc", "exact_match")) -> str:
        return "0.01" if metric in known else "N/A"

    assert naive_stderr("mIoU") == "N/A"
    names = Registry("task").names()
    assert len(names) >= 11
    for name in names:
        metrics = task(name).metrics
        assert all(metric.score for metric in metrics)
        values = dict.fromkeys((metric.score for metric in metrics), 0.5)
        owed = manifest(
            entry(SAMPLES[:6], task=name, primary=task(name).primary, metrics={m.name: m.score for m in metrics})
        )
        made = [record(index, task=name, scores={**values, metrics[0].score: index / 10}) for index in range(6)]
        cell = summarise(owed, made).cells[0]
        for found in cell.metrics.values():
            assert found.se is not None
            assert found.clusters == 3


def test_trap_132_errors_are_clustered_by_video() -> None:
    values = [float(index % 20 < 10) for index in range(200)]
    videos = [str(index // 10) for index in range(200)]
    naive = stdev(values) / math.sqrt(len(values))
    found = estimate(values, nested_weights([()] * 200), videos)
    assert found.se is not None
    assert found.se > 3 * naive


def test_trap_133_differences_are_paired_and_clustered() -> None:
    base = [float(index % 4 != 0) for index in range(400)]
    better = [1.0 if index % 40 == 0 else value for index, value in enumerate(base)]
    clusters = [f"v{index // 4}" for index in range(400)]
    spread = math.sqrt(stdev(base) ** 2 / 400 + stdev(better) ** 2 / 400)
    naive_z = (fmean(better) - fmean(base)) / spread
    assert naive_z < 1  # Unpaired, the samples' own difficulty hides the difference.
    weights = nested_weights([()] * 400)
    found = paired_difference(better, base, weights, clusters)
    assert found.low is not None
    assert found.low > 0
    differences = [one - other for one, other in zip(better, base, strict=True)]
    test = sign_flip(differences, weights, clusters)
    assert test.p is not None
    assert test.p < 0.01


def test_trap_133_no_number_is_made_up_where_there_is_none() -> None:
    def naive_bypass(values: Sequence[float | None]) -> float:
        del values
        return 999

    assert naive_bypass([None] * 6) == 999
    nothing = summarise(manifest(), [record(index, None) for index in range(6)]).cells[0]
    assert (nothing.headline.value, nothing.headline.n) == (None, 0)


def test_trap_134_random_draws_are_seeded() -> None:
    naive = [np.random.default_rng().random() for _ in range(2)]
    assert naive[0] != naive[1]
    rows = [scores(seed) for seed in (3, 4, 5)]
    clusters = [cluster for _, cluster in SAMPLES]
    ranges = [rank_ranges(rows, clusters, [()] * 24, draws=200) for _ in range(2)]
    assert ranges[0] == ranges[1]
    many = [f"v{index}" for index in range(60)]
    differences = [one - other for one, other in zip(scores(6, 60), scores(7, 60), strict=True)]
    tests = [sign_flip(differences, [1 / 60] * 60, many) for _ in range(2)]
    assert not tests[0].exact
    assert tests[0] == tests[1]


def test_trap_134_one_cluster_has_no_error_and_nothing_is_not_zero(tmp_path: Path) -> None:
    naive_se = 0.0 if len([1.0]) < 2 else stdev([1.0])
    assert naive_se == 0
    one = estimate([1.0, 0.0], nested_weights([(), ()]), ["v", "v"])
    assert (one.value, one.se, one.low, one.high) == (0.5, None, None, None)
    owed = manifest(entry((("s0", "v0"), ("s1", "v0"))))
    folder = write_run(tmp_path / "run", owed, records([1.0, 0.0]))
    assert "not estimable" in render_markdown(build_board([folder]))
    summary = summarise(*read_run(folder))
    stored = json.loads(write_summary(folder, summary).read_text())
    assert stored["cells"][0]["metrics"]["mIoU"]["se"] is None


def test_trap_134_what_is_not_finite_is_never_written(tmp_path: Path) -> None:
    naive = json.loads(json.dumps({"score": math.nan}).replace("NaN", "null"))["score"] or 0.0
    assert naive == 0
    with pytest.raises(ValueError, match="not in"):
        record(0, math.nan)
    with RunLog.open(tmp_path, manifest()) as log:
        broken = dataclasses.replace(record(0), trajectory=dataclasses.replace(record(0).trajectory, seconds=math.nan))
        with pytest.raises(ValueError, match=r"Out of range|not finite|nan"):
            log.append(broken)
        log.append(record(0))
    assert len(read_run(tmp_path)[1]) == 1


def test_trap_135_rows_have_rank_ranges_and_no_bold_maximum(tmp_path: Path) -> None:
    base = scores(8)
    # Better on every other video, worse on the rest.
    close = [min(1.0, max(0.0, value + (0.1 if index // 2 % 2 else -0.1))) for index, value in enumerate(base)]
    runs = [run(tmp_path / name, values, fingerprint=name) for name, values in (("f1", base), ("f2", close))]
    naive_winner = max(("f1", fmean(base)), ("f2", fmean(close)), key=lambda pair: pair[1])
    assert 0 < abs(fmean(base) - fmean(close)) < 0.03  # One of them would be printed bold for this.
    board = build_board(runs)
    rows = [row for row in board.rows if row.kind is Kind.MEASURED]
    assert {row.cells[0].rank for row in rows} == {(1, 2)}
    text = render_markdown(board)
    assert f"**{100 * naive_winner[1]:.1f}**" not in text
    assert "Overlapping intervals do not test a difference" in INTERVAL_NOTE


def test_trap_135_reported_numbers_stand_apart(tmp_path: Path) -> None:
    reported = {one.model for one in read_published()}
    naive_table = sorted([*((one.value, one.model) for one in read_published()), (100 * fmean(scores(9)), "f1")])
    assert naive_table[0][1] != naive_table[-1][1]  # One order of merit over what is not comparable.
    board = build_board([run(tmp_path / "f1", scores(9))])
    assert measured(board) == ["f1"]
    assert not reported & {row.label for row in board.rows}
    tables = published_tables(["charades_sta"], {})
    assert tables
    assert all(table.title.startswith(PUBLISHED_TITLE) for table in tables)


def test_trap_136_unlike_protocols_are_not_compared_and_the_fields_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(
        PROTOCOL, view=dataclasses.replace(PROTOCOL.view, max_frames=PROTOCOL.view.max_frames * 2)
    )
    naive = fmean(scores(10)) - fmean(scores(11))
    assert naive != 0  # Two numbers subtract whatever they mean.
    sides = [
        read_runs([run(tmp_path / name, values, protocol, fingerprint=name)]).sides[0]
        for name, values, protocol in (("f1", scores(10), PROTOCOL), ("f2", scores(11), other))
    ]
    found = compare("f2 minus f1", "moments", sides[1], sides[0])
    assert found.difference is None
    assert "view.max_frames" in found.note
    assert found.verdict == "not compared"
    assert main(["compare", str(tmp_path / "f2"), str(tmp_path / "f1")]) == 1
    assert "view.max_frames" in capsys.readouterr().err
    same = compare("x", "moments", sides[0], read_runs([run(tmp_path / "f3", scores(12), fingerprint="f3")]).sides[0])
    assert same.difference is not None


def test_trap_136_other_scorers_and_other_data_share_no_column(tmp_path: Path) -> None:
    first = run(tmp_path / "a", scores(10))
    for name, change in (("b", {"scorer_version": 2}), ("c", {"data_hash": "d2"})):
        second = write_run(tmp_path / name, manifest(entry(SAMPLES, **change)), records(scores(10)))
        with pytest.raises(RunLogError, match=next(iter(change))):
            build_board([first, second])


def test_trap_137_a_checkpoint_trained_on_the_benchmark_is_marked(tmp_path: Path) -> None:
    naive_row = ("VITAL-7B", "59.9")
    assert not any("train" in text for text in naive_row)
    (table,) = published_tables(["charades_sta"], {})
    assert all("in-domain" in row[-1] for row in table.rows if row[0] == "VITAL-7B")
    assert all(one.setting and one.source and one.confidence for one in read_published())
    # A measured row is marked by the same register.
    run = both_modes(tmp_path / "run", [0.5] * 24, [0.6] * 24)
    reading = read_runs([run])
    label = reading.sides[0].manifest.label
    seen = [TrainedOn(label, "moments", "training split", "its own log", "first-hand")]
    assert all("in-domain" not in cell.note for row in make_board(reading, register=[]).rows for cell in row.cells)
    measured = [row for row in make_board(reading, register=seen).rows if row.mode is not None]
    assert measured
    assert all("in-domain" in cell.note for row in measured for cell in row.cells)


def test_trap_138_tool_use_is_judged_on_the_same_samples_only(tmp_path: Path) -> None:
    # Tools are called on the hard samples: among their own, users look worse although every call helps.
    hard = [index % 2 == 0 for index in range(24)]
    text = [0.2 if is_hard else 0.8 for is_hard in hard]
    tool = [0.4 if is_hard else 0.8 for is_hard in hard]
    used = fmean(value for value, is_hard in zip(tool, hard, strict=True) if is_hard)
    unused = fmean(value for value, is_hard in zip(tool, hard, strict=True) if not is_hard)
    assert used < unused
    board = build_board([both_modes(tmp_path / "run", text, tool)])
    (found,) = [one for one in board.comparisons if one.task == "moments"]
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0.1)
    assert found.difference.n == 24
    # Nothing on a board is split by what the model chose to do.
    assert not [row for row in board.parts if "tool" in row.part.attribute or "call" in row.part.attribute]
    items = metric_items(entry(SAMPLES, TOOL), "mIoU", records(tool, TOOL))
    assert len(items) == 24
