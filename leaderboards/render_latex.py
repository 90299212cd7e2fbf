"""A board as a LaTeX document of booktabs tables, to be compiled or cut up for a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .board import Board, Row
from .further import further_tables
from .tables import (
    BASELINE_NOTE,
    INTERVAL_NOTE,
    TITLE,
    TextTable,
    cell_texts,
    clean,
    delta_text,
    detectable_text,
    mode_text,
    rank_text,
    remarks,
    size_text,
)

#: The ten characters that act, those that fonts print as others, and those that have names.
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "\u2013": r"\textendash{}",
    "\u0394": r"\ensuremath{\Delta}",
    "\u2020": r"\dag{}",
    "\u00b7": r"\textperiodcentered{}",
    "\ufffd": "?",
}

#: A sign, as against the hyphen of a name.
_MINUS = re.compile(r"(?<![\w-])-(?=\d)")

#: Benchmarks side by side before a board is split into several tables.
_COLUMNS = 6

#: Rows that fit a page; longer tables break across pages.
_PAGE = 35

#: Width of a column of sentences.
_SENTENCES = "p{0.2\\linewidth}"
_LONG_WORDS = ("remark", "errors", "setting", "source", "benchmarks")

_HEAD = r"""% Written by {command}
% Compile with pdflatex; with lualatex or xelatex where labels go beyond Latin letters.
\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage{textcomp}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage{longtable}
\setlength{\parindent}{0pt}
\begin{document}
"""


def render_latex(board: Board) -> str:
    """Return the document; every label, title and note is escaped.

    A board of more than six benchmarks is split into tables of six. A table that is wider than the page is made
    smaller, one that is longer than a page is broken.
    """
    parts = [_HEAD.replace("{command}", clean(board.command)), rf"\section*{{{latex_text(TITLE)}}}", ""]
    parts += [latex_text(INTERVAL_NOTE), ""]
    found = [latex_text(remark) for remark in remarks(board)]
    if found:
        parts += [r"\begin{itemize}", *(rf"\item {{}}{remark}" for remark in found), r"\end{itemize}", ""]
    for start in range(0, len(board.columns), _COLUMNS):
        parts += _scores(board, range(start, min(start + _COLUMNS, len(board.columns))))
    if any(row.mode is None for row in board.rows):
        parts += [latex_text(BASELINE_NOTE), ""]
    parts += latex_tables(further_tables(board))
    return "\n".join([*parts, r"\end{document}"]) + "\n"


def render_latex_tables(title: str, command: str, notes: Sequence[str], tables: Sequence[TextTable]) -> str:
    """Return a document of some tables.

    Args:
        title: heading.
        command: what writes it again.
        notes: sentences above the tables.
        tables: what to show.
    """
    head = [_HEAD.replace("{command}", clean(command)), rf"\section*{{{latex_text(title)}}}", ""]
    lines = [line for note in notes for line in (latex_text(clean(note)), "")]
    return "\n".join([*head, *lines, *latex_tables(tables), r"\end{document}"]) + "\n"


def latex_tables(tables: Sequence[TextTable]) -> list[str]:
    """Return lines that show tables under their titles; a note that the table before had is not said again."""
    lines: list[str] = []
    said = ""
    for table in tables:
        lines += [rf"\subsection*{{{latex_text(table.title)}}}"]
        if table.note != said:
            lines += [latex_text(table.note), ""]
        said = table.note
        lines += _long(table) if len(table.rows) > _PAGE else _short(table)
    return lines


def latex_text(text: str) -> str:
    """Escape a text so that it prints as it is and does nothing, wherever it stands."""
    escaped = "".join(_SPECIAL.get(character, character) for character in text)
    escaped = _MINUS.sub("$-$", escaped)
    while "--" in escaped:
        escaped = escaped.replace("--", "-{}-")
    # At the start of a row these would belong to the line end before it.
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped[:1] in ("[", "*") else escaped


def _scores(board: Board, columns: range) -> list[str]:
    lines = [[board.columns[i].title for i in columns], [board.columns[i].metric for i in columns]]
    lines += [[size_text(board.columns[i]) for i in columns], [detectable_text(board.columns[i]) for i in columns]]
    header = [f"{'checkpoint & mode' if index == 0 else ' & '} & {_cells(line)}" for index, line in enumerate(lines)]
    body: list[str] = []
    for index, row in enumerate(board.rows):
        if index and board.rows[index - 1].label != row.label and board.rows[index - 1].mode is not None:
            body.append(r"\midrule")
        body += _score_lines(row, columns)
    return _fitted("ll" + "r" * len(columns), [*(f"{line} \\\\" for line in header), r"\midrule", *body])


def _score_lines(row: Row, columns: range) -> list[str]:
    stacked = [(*cell_texts(row.cells[i]), rank_text(row.cells[i]), delta_text(row.cells[i])) for i in columns]
    lines = []
    for depth, texts in enumerate(zip(*stacked, strict=True)):
        if depth == 0:
            lines.append(f"{latex_text(clean(row.label))} & {mode_text(row)} & {_cells(texts)} \\\\")
        elif any(texts):
            small = " & ".join(rf"{{\scriptsize {latex_text(text)}}}" if text else "" for text in texts)
            lines.append(f" &  & {small} \\\\")
    return lines


def _short(table: TextTable) -> list[str]:
    header = f"{_cells(table.header)} \\\\"
    return _fitted(_alignment(table, "l"), [header, r"\midrule", *_rows(table)])


def _long(table: TextTable) -> list[str]:
    header = [f"{_cells(table.header)} \\\\", r"\midrule"]
    return [
        r"\begingroup\tiny\setlength{\tabcolsep}{3pt}",
        rf"\begin{{longtable}}{{{_alignment(table, 'l')}}}",
        r"\toprule",
        *header,
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
        *_rows(table),
        r"\end{longtable}",
        r"\endgroup",
        "",
    ]


def _fitted(alignment: str, lines: Sequence[str]) -> list[str]:
    return [
        r"\begin{center}\small",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{center}",
        "",
    ]


def _rows(table: TextTable) -> list[str]:
    return [f"{_cells(row)} \\\\" for row in table.rows]


def _alignment(table: TextTable, words: str) -> str:
    return "".join(
        _SENTENCES if name in _LONG_WORDS else words if table.holds_words(index) else "r"
        for index, name in enumerate(table.header)
    )


def _cells(texts: Sequence[str]) -> str:
    return " & ".join(latex_text(clean(text)) for text in texts)
