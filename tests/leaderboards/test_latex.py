"""The LaTeX document: every special character is escaped, every table has as many cells as its head."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vital_eval.leaderboards.board import build_board
from vital_eval.leaderboards.render import render_latex
from vital_eval.leaderboards.render_latex import latex_text

MakeRun = Callable[..., Path]

HOSTILE = "\\input{/etc/passwd} 50% $x_1^2$ & #1 ~ {y} \x1b[31m\u202e -- <a|b> `c' *"

ELEVEN = (
    *("activitynet_mr", "charades_sta", "longvideo_reason", "mmvu", "next_gqa", "rextime"),
    *("vidchapters", "video_mme", "videommmu", "vsi_bench", "vue_tr"),
)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("\\", r"\textbackslash{}"),
        ("{", r"\{"),
        ("}", r"\}"),
        ("$", r"\$"),
        ("&", r"\&"),
        ("#", r"\#"),
        ("_", r"\_"),
        ("%", r"\%"),
        ("~", r"\textasciitilde{}"),
        ("^", r"\textasciicircum{}"),
        ("-8.3", "$-$8.3"),
        ("Video-MME", "Video-MME"),
        ("run-7", "run-7"),
        ("---", "-{}-{}-"),
        ("[1, 2]", "{[}1, 2]"),
        ("*", "{*}"),
        ("", ""),
    ],
)
def test_specials(text: str, written: str) -> None:
    assert latex_text(text) == written


def _stripped(line: str) -> str:
    """Take away what is escaped, so that what is left acts."""
    return re.sub(r"\\[\\{}$&#_%]", "", line)


def test_every_row_has_the_cells_of_its_table_and_nothing_acts(make_run: MakeRun) -> None:
    page = render_latex(build_board([make_run(label=HOSTILE, tasks=ELEVEN, samples=4)]))
    assert "\x1b" not in page
    assert "\\input" not in page
    assert page.count(r"\begin{") == page.count(r"\end{")
    body = page.split(r"\begin{document}")[1]
    tables = re.findall(
        r"\\begin\{(?:tabular|longtable)\}\{((?:[lr]|p\{0\.2\\linewidth\})+)\}(.*?)\\end\{(?:tabular|longtable)\}",
        body,
        re.DOTALL,
    )
    assert len(tables) > 5
    for alignment, inside in tables:
        columns = len(re.sub(r"\{[^}]*\}", "", alignment))
        rows = [line for line in inside.splitlines() if line.endswith(r" \\")]
        assert len(rows) > 1
        for line in rows:
            assert _stripped(line[:-2]).count("&") == columns - 1, line
    depth = 0
    for character in re.sub(r"\\[{}]", "", body):
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    comments = [line for line in body.splitlines() if "%" in re.sub(r"\\%", "", line)]
    assert all(line.endswith("{!}{%") for line in comments)


def test_eleven_benchmarks_are_split(make_run: MakeRun) -> None:
    page = render_latex(build_board([make_run(tasks=ELEVEN, samples=4)]))
    heads = [line for line in page.splitlines() if line.startswith("checkpoint & mode & ActivityNet")]
    assert heads
    assert all(line.count("&") == 7 for line in heads)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_it_compiles(make_run: MakeRun, tmp_path: Path) -> None:
    page = render_latex(build_board([make_run(label=HOSTILE, tasks=ELEVEN, samples=4)]))
    (tmp_path / "board.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "board.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
