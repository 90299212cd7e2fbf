"""A board in every form, under one name each."""

from __future__ import annotations

from .render_csv import render_csv
from .render_html import render_html
from .render_latex import render_latex
from .render_markdown import render_markdown
from .render_terminal import print_board, render_terminal

__all__ = ["print_board", "render_csv", "render_html", "render_latex", "render_markdown", "render_terminal"]
