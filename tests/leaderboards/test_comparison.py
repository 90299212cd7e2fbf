"""Pairs, their families and their refusals, on boards and in ``compare``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vital_eval.errors import ProtocolError, RunLogError
from vital_eval.judge.figures import JudgedFigure
from vital_eval.leaderboards.board import build_board
from vital_eval.leaderboards.cells import Kind, Row
from vital_eval.leaderboards.compare_tables import comparison_json, comparison_markdown, write_comparison
from vital_eval.leaderboards.further import further_tables
from vital_eval.leaderboards.judged import Judged
from vital_eval.leaderboards.run_comparison import Choice, compare_modes, compare_runs, parse_choice
from vital_eval.leaderboards.tables import TextTable, percent
from vital_eval.protocol import Mode, Protocol
from vital_eval.statistics.families import benjamini_hochberg, holm
from vital_eval.statistics.means import Estimate

MakeRun = Callable[..., Path]


def _seeded(protocol: Protocol) -> Protocol:
    return dataclasses.replace(protocol, sampling=dataclasses.replace(protocol.sampling, seed=7))


def _fewer_frames(protocol: Protocol) -> Protocol:
    return dataclasses.replace(protocol, view=dataclasses.replace(protocol.view, max_frames=8))


def _table(tables: tuple[TextTable, ...], title: str) -> TextTable:
    return next(table for table in tables if table.title.startswith(title))


def test_identical_runs_differ_by_nothing(make_run: MakeRun) -> None:
    one, two = make_run(name="one"), make_run(name="two", label="B", fingerprint="f2")
    found = compare_runs(Choice(one), Choice(two))
    assert [(section.one, section.other) for section in found.sections] == [
        (f"nano, {mode} (run one)", f"B, {mode} (run two)") for mode in ("direct", "cot", "tool")
    ]
    for section in found.sections:
        assert len(section.comparisons) == 4
        for pair in section.comparisons:
            assert pair.difference is not None
            assert (pair.difference.value, pair.p, pair.adjusted) == (0, 1, 1)
            assert pair.verdict == "no difference shown"
            assert pair.only_one in (None, 0)


def test_modes_of_one_run(make_run: MakeRun) -> None:
    run = make_run(tasks=("charades_sta", "mmvu", "rextime"), samples=40, lift=0.6)
    (section,) = compare_modes(run, Mode.TOOL, Mode.COT).sections
    (back,) = compare_modes(run, Mode.COT, Mode.TOOL).sections
    family = [pair for pair in section.comparisons if pair.task]
    assert [pair.adjusted for pair in family] == list(holm([pair.p for pair in family]))
    pooled = section.comparisons[-1]
    assert (pooled.task, pooled.adjusted) == ("", pooled.p)
    assert pooled.verdict == "better"
    for pair, other in zip(section.comparisons, back.comparisons, strict=True):
        assert pair.difference is not None
        assert other.difference is not None
        assert pair.difference.value == pytest.approx(-(other.difference.value or 0))
        assert (pair.p, pair.only_one) == (other.p, other.only_other)
    assert back.comparisons[-1].verdict == "worse"
    (accuracy,) = (pair for pair in family if pair.task == "mmvu")
    assert accuracy.only_one is not None
    assert accuracy.only_other is not None
    assert accuracy.difference is not None
    assert accuracy.difference.value == pytest.approx((accuracy.only_one - accuracy.only_other) / 40)
    assert accuracy.difference.se is not None
    assert accuracy.detectable == pytest.approx(2.8 * accuracy.difference.se, rel=0.01)
    assert family[0].only_one is None


def test_compare_agrees_with_the_board(make_run: MakeRun) -> None:
    run = make_run(samples=20)
    (section,) = compare_modes(run, Mode.TOOL, Mode.COT).sections
    board = build_board([run])
    for pair, shown in zip(section.comparisons, board.comparisons, strict=True):
        assert (pair.difference, pair.p, pair.adjusted) == (shown.difference, shown.p, shown.adjusted)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"change": _seeded}, "protocol.sampling.seed"),
        ({"data_hash": "d2"}, "data_hash"),
        ({"scorer_version": 2}, "scorer_version"),
        ({"attempts": 2}, "attempts"),
        ({"tool_hash": "h2"}, "tools.get_video_clip_frame"),
        ({"leave_out": 1}, "incomplete, 1 owed"),
        ({"tool_error": "media-missing"}, "INVALID"),
    ],
)
def test_unlike_runs_are_refused_by_name(make_run: MakeRun, fields: dict[str, object], named: str) -> None:
    one = make_run(name="one", modes=(Mode.TOOL,), tasks=("mmvu",), tool_hash="h1")
    two = make_run(
        name="two", modes=(Mode.TOOL,), tasks=("mmvu",), **{"tool_hash": "h1", "fingerprint": "f2", **fields}
    )
    with pytest.raises(RunLogError, match="may be compared") as caught:
        compare_runs(Choice(one), Choice(two))
    assert named in str(caught.value)


def test_one_refused_benchmark_is_a_row(make_run: MakeRun) -> None:
    def only_mmvu(protocol: Protocol) -> Protocol:
        return protocol if protocol.mode is Mode.COT else _seeded(protocol)

    one = make_run(name="one", modes=(Mode.COT, Mode.DIRECT))
    two = make_run(name="two", modes=(Mode.COT, Mode.DIRECT), fingerprint="f2", change=only_mmvu)
    found = compare_runs(Choice(one), Choice(two))
    refused, compared = found.sections
    assert {pair.verdict for pair in refused.comparisons} == {"not compared"}
    assert "protocol.sampling.seed" in refused.comparisons[0].note
    assert {pair.verdict for pair in compared.comparisons} == {"no difference shown"}
    page = comparison_markdown(found, "vital-eval compare one two")
    assert "protocol.sampling.seed" in page


def test_different_checkpoints_need_equal_protocols(make_run: MakeRun) -> None:
    one = make_run(name="one", tasks=("mmvu",), modes=(Mode.TOOL,))
    two = make_run(name="two", tasks=("mmvu",), modes=(Mode.COT,), fingerprint="f2")
    with pytest.raises(RunLogError, match=r"protocol.max_tool_calls, protocol.max_turns, protocol.mode"):
        compare_runs(Choice(one), Choice(two))
    same = make_run(name="three", tasks=("mmvu",), modes=(Mode.COT,))
    assert compare_runs(Choice(one), Choice(same)).sections[0].comparisons[0].difference is not None


def test_fields_can_be_allowed(make_run: MakeRun) -> None:
    one = make_run(name="one", tasks=("mmvu",))
    two = make_run(name="two", tasks=("mmvu",), fingerprint="f2", change=_fewer_frames)
    with pytest.raises(RunLogError, match=r"protocol.view.max_frames"):
        compare_runs(Choice(one), Choice(two))
    for field in ("view.max_frames", "view"):
        assert compare_runs(Choice(one), Choice(two), [field]).sections[0].comparisons[0].difference is not None
    with pytest.raises(ProtocolError, match=r"no field 'view.max_frame'"):
        compare_runs(Choice(one), Choice(two), ["view.max_frame"])


def test_engines_that_differ_are_remarked(make_run: MakeRun) -> None:
    one = make_run(name="one", details={"dtype": "float32"})
    two = make_run(name="two", details={"dtype": "bfloat16"})
    found = compare_runs(Choice(one), Choice(two))
    assert "The runs also differ in engine.details.dtype." in found.remarks


def test_samples_of_one_side_are_dropped(make_run: MakeRun) -> None:
    one = make_run(name="one", tasks=("mmvu",), samples=20, modes=(Mode.COT,))
    two = make_run(name="two", tasks=("mmvu",), samples=12, modes=(Mode.COT,), limit=12, fingerprint="f2")
    found = compare_runs(Choice(one), Choice(two))
    (pair,) = found.sections[0].comparisons
    assert pair.difference is not None
    assert (pair.difference.n, pair.dropped) == (12, 8)
    assert pair.values is not None
    assert pair.values[0] == pair.values[1]
    assert any("limited to 12" in remark for remark in found.remarks)


def test_tasks_of_one_side_are_named(make_run: MakeRun) -> None:
    one = make_run(name="one", tasks=("mmvu", "rextime"))
    two = make_run(name="two", tasks=("mmvu",), fingerprint="f2")
    assert "Only one holds ReXTime." in compare_runs(Choice(one), Choice(two)).remarks


def test_choices(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(name="one")
    assert parse_choice(str(run)) == Choice(run)
    assert parse_choice(f"{run}@cot") == Choice(run, Mode.COT)
    odd = tmp_path / "a@cot"
    odd.mkdir()
    assert parse_choice(str(odd)) == Choice(odd)
    with pytest.raises(RunLogError, match="no mode 'text'"):
        parse_choice(f"{run}@text")
    sections = compare_runs(Choice(run, Mode.TOOL), Choice(run, Mode.DIRECT)).sections
    assert [(one.one, one.other) for one in sections] == [("nano, tool (run one)", "nano, direct (run one)")]
    few = make_run(name="two", modes=(Mode.DIRECT, Mode.COT), fingerprint="f2")
    assert len(compare_runs(Choice(run), Choice(few)).sections) == 2
    assert len(compare_runs(Choice(run, Mode.COT), Choice(few)).sections) == 1
    with pytest.raises(RunLogError, match="holds no mode tool"):
        compare_runs(Choice(run, Mode.TOOL), Choice(few, Mode.TOOL))
    with pytest.raises(RunLogError, match="not clear what to compare"):
        compare_runs(Choice(run, Mode.TOOL), Choice(few))
    with pytest.raises(RunLogError, match="against itself"):
        compare_modes(run, Mode.COT, Mode.COT)


def test_blind_is_compared_whatever_it_does_not_see(make_run: MakeRun) -> None:
    def other_view(protocol: Protocol) -> Protocol:
        return _fewer_frames(protocol) if protocol.mode is Mode.BLIND else protocol

    run = make_run(tasks=("videommmu", "mmvu"), modes=(Mode.TOOL, Mode.COT, Mode.BLIND), change=other_view)
    board = build_board([run])
    assert [row.mode for row in board.rows] == [Mode.BLIND, Mode.COT, Mode.TOOL]
    assert "no video" in board.rows[0].badge
    assert board.rows[0].cells[0].delta is not None
    assert {gain.mode for gain in board.gains} == {"cot", "tool"}
    for gain in board.gains:
        assert gain.gain is not None
        assert gain.before is not None
        assert gain.after is not None
        assert gain.gain.value == pytest.approx((gain.after - gain.before) / (1 - gain.before))
    assert len(_table(further_tables(board), "Gain over").rows) == 2


def test_holm_on_the_board_is_taken_per_checkpoint(make_run: MakeRun) -> None:
    runs = [make_run(name="one", samples=30), make_run(name="two", label="B", fingerprint="f2", luck="x", samples=30)]
    board = build_board(runs)
    for label in ("nano", "B"):
        family = [pair for pair in board.comparisons if pair.label == label and pair.task]
        assert len(family) == 3
        assert [pair.adjusted for pair in family] == list(holm([pair.p for pair in family]))


def test_all_pairs_are_one_family_of_pairs_that_may_be_compared(make_run: MakeRun) -> None:
    runs = [make_run(name="one", samples=30), make_run(name="two", label="B", fingerprint="f2", luck="x", samples=30)]
    board = build_board(runs)
    # Three pairs within each checkpoint and three between them (mode by mode), on three benchmarks.
    assert len(board.pairs) == 9 * 3
    assert [pair.adjusted for pair in board.pairs] == list(benjamini_hochberg([pair.p for pair in board.pairs]))
    names = {(pair.one, pair.other) for pair in board.pairs}
    assert ("B, cot", "nano, cot") in names
    assert ("B, tool", "nano, cot") not in names
    assert ("nano, tool", "nano, direct") in names


def test_deltas_of_a_row_are_held_against_its_text_sibling(make_run: MakeRun) -> None:
    board = build_board([make_run(samples=20)])
    rows: dict[Mode | None, Row] = {row.mode: row for row in board.rows}
    assert all(cell.delta is None for cell in rows[Mode.COT].cells)
    for mode in (Mode.DIRECT, Mode.TOOL):
        deltas = [cell.delta for cell in rows[mode].cells]
        kept = [delta for delta in deltas if delta is not None]
        assert len(kept) == 3
        assert [delta.adjusted for delta in kept] == list(holm([delta.p for delta in kept]))
        for cell, text, delta in zip(rows[mode].cells, rows[Mode.COT].cells, kept, strict=True):
            assert delta.difference is not None
            assert delta.difference.value == pytest.approx((cell.value or 0) - (text.value or 0))


def test_equal_rows_share_their_ranks(make_run: MakeRun) -> None:
    runs = [make_run(name=name, label=name, fingerprint=name, modes=(Mode.COT,)) for name in ("a", "b", "c")]
    for row in build_board(runs).rows:
        assert {cell.rank for cell in row.cells} == {(1, 1)}


def test_a_clear_winner_is_first_and_unreadable_rows_have_no_rank(make_run: MakeRun) -> None:
    run = make_run(samples=40, lift=1.0, tasks=("charades_sta",))
    dead = make_run(name="dead", label="D", fingerprint="f2", samples=40, tasks=("charades_sta",), tool_error="x")
    rows = {(row.label, row.mode): row for row in build_board([run, dead]).rows if row.kind is Kind.MEASURED}
    assert rows["nano", Mode.TOOL].cells[0].rank == (1, 1)
    assert rows["D", Mode.TOOL].cells[0].rank is None
    ranks = [rows[label, mode].cells[0].rank for label in ("nano", "D") for mode in (Mode.DIRECT, Mode.COT)]
    assert all(rank is not None and rank[0] > 1 for rank in ranks)


def test_outcomes_that_do_not_add_up_are_refused(make_run: MakeRun) -> None:
    row = build_board([make_run()]).rows[0]
    assert sum(row.outcomes.values()) == row.attempts == 36
    with pytest.raises(ValueError, match="do not add up to 36"):
        dataclasses.replace(row, outcomes={**row.outcomes, "answered": 0})


def test_price_is_the_cost_of_all_over_what_scored(make_run: MakeRun) -> None:
    row = build_board([make_run(tasks=("mmvu", "charades_sta"))]).rows[-1]
    graded, plain = row.cells
    assert graded.price is not None
    assert plain.price is not None
    assert (graded.price.unit, plain.price.unit) == ("unit of score", "correct answer")
    assert plain.value is not None
    assert plain.price.frames == pytest.approx(4 * 12 / (plain.value * 12))
    assert graded.value is not None
    assert graded.price.seconds == pytest.approx(1.5 / graded.value)


def test_repeated_answers(make_run: MakeRun) -> None:
    board = build_board([make_run(tasks=("mmvu", "charades_sta"), attempts=3, letters=True, modes=(Mode.COT,))])
    grounding, choice = board.repeats
    assert (choice.attempts, choice.title) == (3, "MMVU")
    assert choice.mean.value is not None
    assert choice.best.value is not None
    assert choice.best.value > choice.mean.value
    assert choice.majority is not None
    assert choice.spread is not None
    assert len(_table(further_tables(board), "Repeated").rows) == 2
    # The letters of the made-up run say right or wrong, so the vote of three is known.
    assert grounding.mean.value is not None
    assert board.rows[0].cells[1].value == pytest.approx(choice.mean.value)


def test_parts_average_to_the_whole(make_run: MakeRun) -> None:
    board = build_board([make_run(tasks=("mmvu",), modes=(Mode.COT,))])
    short, long = board.parts
    assert (short.part.attribute, short.part.value, long.part.value) == ("length", "short", "long")
    assert board.rows[0].cells[0].value == pytest.approx(
        ((short.part.estimate.value or 0) + (long.part.estimate.value or 0)) / 2
    )


def test_columns_say_what_they_can_detect(make_run: MakeRun) -> None:
    board = build_board([make_run(tasks=("mmvu",))])
    (pair,) = board.comparisons
    assert board.columns[0].detectable == pair.detectable
    assert build_board([make_run(name="x", tasks=("mmvu",), modes=(Mode.COT,))]).columns[0].detectable is None


def test_files_of_a_comparison(make_run: MakeRun, tmp_path: Path) -> None:
    found = compare_modes(make_run(), Mode.TOOL, Mode.COT)
    paths = write_comparison(found, "vital-eval compare run", tmp_path / "out")
    assert [path.name for path in paths] == ["compare.md", "compare.csv", "compare.tex", "compare.json"]
    data = json.loads(comparison_json(found, "x"))
    first = data["sections"][0]["comparisons"][0]
    pair = found.sections[0].comparisons[0]
    assert pair.values is not None
    assert (first["a"], first["b"], first["p"]) == (*pair.values, pair.p)
    assert percent(pair.values[0]) in paths[0].read_text()


def test_judged_figures_stand_beside_the_rules_and_name_the_judge(make_run: MakeRun) -> None:
    board = build_board([make_run(tasks=("mmvu",), modes=(Mode.COT,))])
    assert not [table for table in further_tables(board) if table.title == "Judged"]
    rules, judged = Estimate(0.25, 0.1, 0.1, 0.4, 12, 6), Estimate(0.5, 0.1, 0.3, 0.7, 12, 6)
    whole = JudgedFigure("mmvu", Mode.COT, "h", "accuracy", rules, judged, "some judge", 9, 0, 0)
    waiting = dataclasses.replace(whole, judged=None, failed=2, owed=1)
    table = _table(
        further_tables(
            dataclasses.replace(board, judged=tuple(Judged("run", "nano", one) for one in (whole, waiting)))
        ),
        "Judged",
    )
    assert table.rows[0][:9] == (
        *("nano", "cot", "MMVU", "accuracy", "some judge"),
        *("25.0", "[10.0, 40.0]", "50.0", "[30.0, 70.0]"),
    )
    assert table.rows[1][7] == "\u2013"
    assert table.rows[1][-1] == "provisional, 1 owed; 2 answers have no verdict"
