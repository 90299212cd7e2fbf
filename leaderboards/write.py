"""The files of a board."""

from __future__ import annotations

from pathlib import Path

from vital_eval.atomic import write_atomically
from vital_eval.errors import RunLogError

from .board import Board
from .render_csv import render_csv
from .render_html import render_html
from .render_markdown import render_markdown


def write_board(board: Board, folder: Path) -> tuple[Path, ...]:
    """Write ``board.md``, ``board.csv`` and ``board.html`` into ``folder``, each atomically.

    Args:
        board: what to write.
        folder: made if it does not exist; other files in it are left alone.

    Returns:
        The paths of the three files.

    Raises:
        RunLogError: if they cannot be written.
    """
    pages = {"board.md": render_markdown(board), "board.csv": render_csv(board), "board.html": render_html(board)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            write_atomically(folder / name, text)
    except OSError as error:
        raise RunLogError(f"cannot write a board into {folder}: {error.strerror}") from error
    return tuple(folder / name for name in pages)
