"""Cells, rows, columns and comparisons come out of logs, and what cannot be compared says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from vital_eval.errors import RunLogError
from vital_eval.leaderboards.board import Cell, Kind, Row, Status, build_board
from vital_eval.leaderboards.comparison import POOLED_TITLE
from vital_eval.protocol import Mode, Protocol
from vital_eval.statistics.means import Estimate

MakeRun = Callable[..., Path]

_BASELINES = {
    "charades_sta": {
        "random": Estimate(0.1, 0.01, 0.08, 0.12, 12, 6),
        "whole video": Estimate(0.3, 0.1, 0.1, 0.5, 12, 6),
    },
    "mmvu": {"random": Estimate(0.25, 0.0, 0.2, 0.3, 12, 6)},
}


def _only(rows: tuple[Row, ...], mode: Mode) -> Row:
    (row,) = (row for row in rows if row.mode is mode)
    return row


def test_rows_and_columns(make_run: MakeRun) -> None:
    one = make_run(name="one", label="A", baselines=_BASELINES, tasks=("rextime", "mmvu", "charades_sta"))
    two = make_run(name="two", label="B", fingerprint="f2", baselines=_BASELINES, tasks=("charades_sta", "mmvu"))
    board = build_board([one, two])
    assert [column.task for column in board.columns] == ["charades_sta", "mmvu", "rextime"]
    assert [(row.label, row.mode) for row in board.rows] == [
        *(("A", mode) for mode in (Mode.DIRECT, Mode.COT, Mode.TOOL)),
        *(("B", mode) for mode in (Mode.DIRECT, Mode.COT, Mode.TOOL)),
        ("whole video", None),
        ("random", None),
    ]
    assert [cell.status for cell in board.rows[3].cells] == [Status.OK, Status.OK, Status.ABSENT]
    random_row = board.rows[-1]
    assert random_row.kind is Kind.BASELINE
    assert random_row.cells[0] == Cell(0.1, 0.08, 0.12, 12, 6, Status.OK, ("one", "two"))
    assert random_row.cells[2].status is Status.ABSENT
    assert board.command == "vital-eval board one two --out board"
    assert (board.columns[0].n, board.columns[0].clusters, board.columns[0].metric) == (12, 6, "mIoU")


def test_tasks_of_one_checkpoint_may_lie_in_several_runs(make_run: MakeRun) -> None:
    runs = [make_run(name=task, tasks=(task,)) for task in ("charades_sta", "mmvu")]
    board = build_board(runs)
    assert len(board.rows) == 3
    assert [cell.runs for cell in board.rows[0].cells] == [("charades_sta",), ("mmvu",)]


def test_recipes_that_share_a_name_share_no_row(make_run: MakeRun) -> None:
    def sampled(protocol: Protocol) -> Protocol:
        return dataclasses.replace(protocol, sampling=dataclasses.replace(protocol.sampling, temperature=1.0))

    one = make_run(name="one", tasks=("charades_sta",), modes=(Mode.COT,))
    two = make_run(name="two", tasks=("charades_sta", "mmvu"), modes=(Mode.COT,), change=sampled)
    rows = build_board([one, two]).rows
    assert [[cell.runs for cell in row.cells] for row in rows] == [[("one",), ()], [("two",), ("two",)]]
    assert ["greedy" in row.badge for row in rows] == [True, False]


def test_a_shard_says_so_in_its_cell(make_run: MakeRun) -> None:
    assert "shard 1/2" in build_board([make_run(shard="1/2")]).rows[0].cells[0].note


def test_an_incomplete_cell_has_no_number(make_run: MakeRun) -> None:
    cell = build_board([make_run(leave_out=3, infra=1)]).rows[0].cells[0]
    assert (cell.status, cell.value, cell.low) == (Status.INCOMPLETE, None, None)
    assert cell.note == "4 owed, 1 of them after a failure of the machinery"


def test_dead_tools_take_the_number_away(make_run: MakeRun) -> None:
    board = build_board([make_run(tool_error="media-unreadable")])
    cell = _only(board.rows, Mode.TOOL).cells[0]
    assert (cell.status, cell.value) == (Status.INVALID, None)
    assert "12 of 12 tool calls failed" in cell.note
    assert all(one.difference is None and "INVALID" in one.note for one in board.comparisons)
    assert _only(board.rows, Mode.COT).cells[0].status is Status.OK


def test_unused_tools_and_limits_are_said(make_run: MakeRun) -> None:
    board = build_board([make_run(calls=False, limit=12)])
    cell = _only(board.rows, Mode.TOOL).cells[0]
    assert cell.status is Status.OK
    assert "never called" in cell.note
    assert "limited to 12 samples" in cell.note
    assert "never called" in board.comparisons[0].note
    assert "never called" in board.comparisons[-1].note
    assert "limited to 12" in board.notes[0]


def test_outcomes_add_up_over_columns(make_run: MakeRun) -> None:
    for row in build_board([make_run(leave_out=2)]).rows:
        assert sum(row.outcomes.values()) == 3 * 12
        assert row.outcomes["owed"] == 3 * 2


def test_cost_counts_frames_of_tool_calls_and_no_token_twice(make_run: MakeRun) -> None:
    board = build_board([make_run()])
    tool, text = _only(board.rows, Mode.TOOL).cost, _only(board.rows, Mode.COT).cost
    assert tool is not None
    assert text is not None
    assert (tool.frames, text.frames) == (4, 2)
    assert (tool.visual_tokens, tool.new_tokens, tool.turns, tool.seconds) == (24, 24, 2, 1.5)


def test_comparisons_are_paired_and_pooled(make_run: MakeRun) -> None:
    board = build_board([make_run()])
    assert [one.title for one in board.comparisons][-1] == POOLED_TITLE
    first, pooled = board.comparisons[0].difference, board.comparisons[-1].difference
    assert first is not None
    assert pooled is not None
    assert (first.n, first.clusters) == (12, 6)
    tool, text = (_only(board.rows, mode).cells[0].value for mode in (Mode.TOOL, Mode.COT))
    assert tool is not None
    assert text is not None
    assert first.value == pytest.approx(tool - text)
    assert (pooled.n, pooled.clusters) == (24, 12)
    rextime = board.comparisons[2].difference
    assert rextime is not None
    assert rextime.value is not None
    assert pooled.value == pytest.approx((tool - text + rextime.value) / 2)


def test_protocols_that_differ_in_more_are_not_compared(make_run: MakeRun) -> None:
    def fewer_frames(protocol: Protocol) -> Protocol:
        if protocol.mode is not Mode.TOOL:
            return protocol
        sampling = dataclasses.replace(protocol.sampling, seed=7)
        return dataclasses.replace(protocol, view=dataclasses.replace(protocol.view, max_frames=8), sampling=sampling)

    board = build_board([make_run(change=fewer_frames)])
    assert {one.difference for one in board.comparisons} == {None}
    assert board.comparisons[0].note == (
        "not compared: they also differ in protocol.sampling.seed, protocol.view.max_frames"
    )


def test_engines_that_differ_are_not_compared(make_run: MakeRun) -> None:
    one = make_run(name="one", modes=(Mode.COT,), details={"dtype": "float32"})
    two = make_run(name="two", modes=(Mode.TOOL,), details={"dtype": "bfloat16"})
    assert build_board([one, two]).comparisons[0].note == "not compared: they also differ in engine.details.dtype"


def test_incomplete_runs_are_not_compared(make_run: MakeRun) -> None:
    assert "incomplete, 1 owed" in build_board([make_run(leave_out=1)]).comparisons[0].note


@pytest.mark.parametrize(("fields", "named"), [({"samples": 10}, "samples"), ({"data_hash": "d2"}, "data_hash")])
def test_different_samples_share_no_column(make_run: MakeRun, fields: dict[str, object], named: str) -> None:
    one, two = make_run(name="one"), make_run(name="two", label="B", **fields)
    with pytest.raises(RunLogError, match=f"task charades_sta: they differ in {named}"):
        build_board([one, two])


def test_baselines_that_disagree_are_refused(make_run: MakeRun) -> None:
    other = {"mmvu": {"random": Estimate(0.5, 0.0, 0.2, 0.6, 12, 6)}}
    one, two = make_run(name="one", baselines=_BASELINES), make_run(name="two", label="B", baselines=other)
    with pytest.raises(RunLogError, match="one and two disagree on the baseline 'random' of task mmvu"):
        build_board([one, two])


def test_rows_that_read_the_same_are_told_apart_by_run(make_run: MakeRun) -> None:
    board = build_board([make_run(name="one"), make_run(name="two")])
    assert [row.label for row in board.rows] == ["nano · run one"] * 3 + ["nano · run two"] * 3
    assert len({(one.label, one.title) for one in board.comparisons}) == len(board.comparisons) == 4 * 4


def test_recipes_of_one_run_are_told_apart(make_run: MakeRun) -> None:
    def seeded(protocol: Protocol) -> Protocol:
        return dataclasses.replace(protocol, sampling=dataclasses.replace(protocol.sampling, seed=7))

    run = make_run(name="one", modes=(Mode.COT,), and_also=seeded)
    labels = [row.label for row in build_board([run]).rows]
    assert len(labels) == len(set(labels)) == 2
    assert all(label.startswith("nano · protocol ") for label in labels)


def test_runs_of_one_name_keep_their_folders(make_run: MakeRun) -> None:
    board = build_board([make_run(name="monday/run"), make_run(name="tuesday/run", label="B")])
    assert board.runs == ("monday/run", "tuesday/run")
    assert board.command == "vital-eval board monday/run tuesday/run --out board"


def test_the_summary_file_is_not_believed(make_run: MakeRun) -> None:
    run = make_run()
    before = build_board([run])
    (run / "summary.json").unlink()
    assert build_board([run]) == before


def test_the_same_run_twice_counts_once(make_run: MakeRun) -> None:
    run = make_run()
    assert build_board([run, run]) == build_board([run])


def test_no_runs() -> None:
    with pytest.raises(RunLogError, match="no run"):
        build_board([])


def test_titles_may_be_given_and_unknown_tasks_keep_their_name(make_run: MakeRun) -> None:
    run = make_run(tasks=("a_plugin",))
    assert build_board([run]).columns[0].title == "a_plugin"
    assert build_board([run], {"a_plugin": "A plugin"}).columns[0].title == "A plugin"
