"""A run judged over a real connection, on a board: both figures, and who judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.judge.open_run import make_run, read_data, write_data_root, write_run
from tests.judge.server import MODEL, serve
from vital_eval.cli.main import main
from vital_eval.leaderboards.board import build_board
from vital_eval.leaderboards.render_markdown import render_markdown
from vital_eval.protocol import Mode


def test_both_figures_stand_on_the_board(tmp_path: Path) -> None:
    data_root = write_data_root(tmp_path)
    run = write_run(tmp_path / "run", *make_run(read_data(data_root), modes=(Mode.COT,)))
    assert build_board([run]).judged == ()
    with serve() as server:
        options = ["--judge-endpoint", server.url, "--judge-model", "judge-1"]
        assert main(["judge", str(run), "--data-root", str(data_root), *options]) == 0
    board = build_board([run])
    (opened,) = [one.figure for one in board.judged if one.figure.metric == "Open exact match"]
    # Two of ten are right by the rules, three more by the judge.
    assert opened.rules.value == pytest.approx(0.2)
    assert opened.judged is not None
    assert opened.judged.value == pytest.approx(0.5)
    page = render_markdown(board)
    assert MODEL in page
    # The main table keeps the rules' figure.
    assert board.rows[0].cells[0].value == 0.0
