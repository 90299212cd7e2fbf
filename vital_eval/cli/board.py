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
    parser.add_argument("--no-plots", action="store_true", help="draw no pictures")
    parser.add_argument(
        "--training-data",
        type=Path,
        metavar="FILE",
        help="which checkpoints were trained on data of which benchmarks (JSON), beside the package's own register",
    )


def execute(args: argparse.Namespace) -> int:
    """Build, write and print the board."""
    make_board(tuple(args.runs), args.out, plots=not args.no_plots, training_data=args.training_data)
    return 0


def make_board(runs: tuple[Path, ...], out: Path, *, plots: bool = True, training_data: Path | None = None) -> None:
    """Write the board's files below ``out``, print the board and where the files are.

    Raises:
        VitalError: if a run cannot be read or runs do not compare.
    """
    from vital_eval.leaderboards.board import make_board as board_of
    from vital_eval.leaderboards.render import print_board, render_terminal
    from vital_eval.leaderboards.sides import read_runs
    from vital_eval.leaderboards.training_data import read_register
    from vital_eval.leaderboards.write import write_board

    reading = read_runs(runs)
    board = board_of(reading, register=read_register(training_data))
    files = write_board(board, out, reading.sides, plots=plots)
    if sys.stdout.isatty():
        print_board(board)
    else:
        say(render_terminal(board))
    say()
    for path in files:
        say(str(path))
