"""The files of a board."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vital_eval.atomic import write_atomically
from vital_eval.errors import RunLogError

from .board import Board
from .plots import write_plots
from .render_csv import render_csv, render_metrics_csv, render_pairs_csv, render_parts_csv
from .render_html import render_html
from .render_latex import render_latex
from .render_markdown import render_markdown
from .sides import Side


def write_board(board: Board, folder: Path, sides: Sequence[Side] = (), *, plots: bool = True) -> tuple[Path, ...]:
    """Write a board into ``folder``, every file atomically.

    ``board.md``, ``board.html`` and ``board.tex`` show everything; ``board.csv`` holds the cells, ``pairs.csv`` the
    comparisons, ``parts.csv`` the break-downs and ``metrics.csv`` every metric, not only the headline.

    Args:
        board: what to write.
        folder: made if it does not exist; other files in it are left alone.
        sides: what the board was made from: for pictures and ``metrics.csv``, which are not written without.
        plots: draw the pictures.

    Returns:
        The paths of the files.

    Raises:
        RunLogError: if they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = write_plots(board, sides, folder) if sides and plots else ()
        drawings = [path for path in pictures if path.suffix == ".svg"]
        pages = {
            "board.md": render_markdown(board, [path.relative_to(folder).as_posix() for path in drawings]),
            "board.csv": render_csv(board),
            "board.html": render_html(board, drawings),
            "board.tex": render_latex(board),
            "pairs.csv": render_pairs_csv(board),
            "parts.csv": render_parts_csv(board),
        }
        if sides:
            pages["metrics.csv"] = render_metrics_csv(sides)
        for name, text in pages.items():
            write_atomically(folder / name, text)
    except OSError as error:
        raise RunLogError(f"cannot write a board into {folder}: {error.strerror}") from error
    return (*(folder / name for name in pages), *pictures)
