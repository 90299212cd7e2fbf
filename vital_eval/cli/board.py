"""``vital-eval board``: a leaderboard from runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vital_eval.cli.output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the board's files")


def execute(args: argparse.Namespace) -> int:
    """Build, write and print the board."""
    make_board(tuple(args.runs), args.out)
    return 0


def make_board(runs: tuple[Path, ...], out: Path) -> None:
    """Write the board's files below ``out``, print the board and where the files are.

    Raises:
        VitalError: if a run cannot be read or runs do not compare.
    """
    from vital_eval.leaderboards.board import build_board
    from vital_eval.leaderboards.render import print_board, render_terminal
    from vital_eval.leaderboards.write import write_board

    board = build_board(runs)
    files = write_board(board, out)
    if sys.stdout.isatty():
        print_board(board)
    else:
        say(render_terminal(board))
    say()
    for path in files:
        say(str(path))
