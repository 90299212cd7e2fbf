"""Pages show what the board holds, and text from outside stays text in every format."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vital_eval.errors import RunLogError
from vital_eval.leaderboards.board import Board, Cell, Status, build_board, make_board
from vital_eval.leaderboards.further import further_tables
from vital_eval.leaderboards.render import render_csv, render_html, render_latex, render_markdown, render_terminal
from vital_eval.leaderboards.render_csv import render_pairs_csv, render_parts_csv
from vital_eval.leaderboards.sides import read_runs
from vital_eval.leaderboards.tables import cell_texts, clean, interval, percent, points
from vital_eval.leaderboards.write import write_board
from vital_eval.protocol import Mode
from vital_eval.statistics.means import Estimate

MakeRun = Callable[..., Path]

HOSTILE = "=1+1|<script>alert(1)</script>`x`[link](javascript:x)\x1b[31m\u202e\ud800*b*"

ELEVEN = (
    *("activitynet_mr", "charades_sta", "longvideo_reason", "mmvu", "next_gqa", "rextime"),
    *("vidchapters", "video_mme", "videommmu", "vsi_bench", "vue_tr"),
)

BASELINES = {"mmvu": {"random": Estimate(0.25, 0.01, 0.2, 0.3, 12, 6)}}


def _board(make_run: MakeRun, **fields: object) -> Board:
    return build_board([make_run(baselines=BASELINES, **fields)])


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_number_forms() -> None:
    assert percent(0.12345) == "12.3"
    assert percent(None) == "\u2013"
    assert points(Estimate(-0.0001, 0, 0, 0, 9, 9)) == "0.0"
    assert points(Estimate(0.0123, 0, 0, 0, 9, 9)) == "+1.2"
    assert interval(0.0, 1.0) == "[0.0, 100.0]"
    assert interval(None, None) == "not estimable"
    assert cell_texts(Cell(None, None, None, 0, 0, Status.ABSENT)) == ("\u2013", "")
    assert cell_texts(Cell(None, None, None, 5, 2, Status.INCOMPLETE, (), "3 owed, 1 of them x")) == (
        "incomplete",
        "3 owed",
    )


def test_clean_takes_what_acts() -> None:
    assert clean("a\x1b[31m\u202eb\ud800\u2028c\n") == "a\ufffd[31m\ufffdb\ufffd\ufffdc\ufffd"
    assert clean("Größe 日本語 é") == "Größe 日本語 é"


def test_every_page_says_value_interval_n_and_command(make_run: MakeRun) -> None:
    board = _board(make_run)
    cell = board.rows[0].cells[0]
    shown, around = percent(cell.value), interval(cell.low, cell.high)
    for page in (render_markdown(board).replace("\\", ""), render_html(board), render_terminal(board, 160)):
        for wanted in (shown, around, "n 12 in 6", "vital-eval board run", "clustered", "random", "accuracy"):
            assert wanted in page


def test_incomplete_and_invalid_cells_have_words_for_numbers(make_run: MakeRun) -> None:
    incomplete = _board(make_run, name="a", leave_out=2)
    invalid = _board(make_run, name="b", tool_error="media-missing")
    for render in (render_markdown, render_html, lambda board: render_terminal(board, 160)):
        assert "incomplete" in render(incomplete)
        assert "2 owed" in render(incomplete)
        assert "INVALID" in render(invalid)
    rows = list(csv.DictReader(io.StringIO(render_csv(incomplete), newline="")))
    assert {row["percent"] for row in rows if row["kind"] == "measured"} == {""}


def test_hostile_labels_in_html(make_run: MakeRun) -> None:
    page = render_html(_board(make_run, label=HOSTILE))
    parser = _Tags()
    parser.feed(page)
    assert "script" not in parser.tags
    assert not {name for name, _ in parser.attributes} & {"style", "onclick", "href", "src"}
    assert "&lt;script&gt;" in page
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", page)


def test_html_stands_alone_under_its_own_policy(make_run: MakeRun) -> None:
    page = render_html(_board(make_run))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].replace("&#39;", "'").startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page


def test_hostile_labels_in_markdown(make_run: MakeRun) -> None:
    page = render_markdown(_board(make_run, label=HOSTILE))
    assert "<script" not in page
    assert "\x1b" not in page
    table = [line for line in page.splitlines() if line.startswith("| ")]
    first = table[: table.index(next(line for line in table if line.startswith("| random"))) + 1]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in first}) == 1
    assert r"\[link\](javascript" in page
    assert r"\`x\`" in page


def test_csv_is_tidy_and_no_formula(make_run: MakeRun) -> None:
    board = _board(make_run, label=HOSTILE)
    rows = list(csv.DictReader(io.StringIO(render_csv(board), newline="")))
    assert len(rows) == len(board.rows) * len(board.columns)
    for row in rows:
        for name, value in row.items():
            number = name.startswith(("percent", "delta"))
            assert not value.startswith(("=", "+", "-", "@")) or (number and float(value) < 0)
    assert rows[0]["checkpoint"].startswith("'=1+1|<script>")
    cell = board.rows[0].cells[0]
    assert cell.value is not None
    assert float(rows[0]["percent"]) == pytest.approx(100 * cell.value)
    assert (rows[0]["n"], rows[0]["clusters"], rows[0]["status"]) == ("12", "6", "ok")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 160, 220])
def test_terminal_fits_every_width(make_run: MakeRun, width: int) -> None:
    board = _board(make_run, label=HOSTILE, tasks=ELEVEN, samples=4)
    text = render_terminal(board, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    if width >= 80:
        for row in board.rows:
            for cell in row.cells:
                assert cell_texts(cell)[0] in text
                assert cell_texts(cell)[1] in text


def test_eleven_columns_fit_160_characters(make_run: MakeRun) -> None:
    text = render_terminal(_board(make_run, tasks=ELEVEN, samples=4), 160)
    assert max(line.count("n 4 in 2") for line in text.splitlines()) == 11
    assert max(line.count("MDE ") for line in text.splitlines()) == 11


def test_outcome_table_adds_up(make_run: MakeRun) -> None:
    tables = further_tables(_board(make_run, leave_out=2, infra=1))
    (outcomes,) = (table for table in tables if table.title == "Outcomes")
    for row in outcomes.rows:
        assert sum(int(text) for text in row[2:-1]) == int(row[-1]) == 36


def test_write_board_is_reproducible_and_keeps_other_files(make_run: MakeRun, tmp_path: Path) -> None:
    board = _board(make_run, label=HOSTILE)
    folder = tmp_path / "deep" / "pages"
    paths = write_board(board, folder)
    assert [path.name for path in paths] == [
        *("board.md", "board.csv", "board.html", "board.tex", "pairs.csv", "parts.csv")
    ]
    before = [path.read_bytes() for path in paths]
    (folder / "notes.txt").write_text("mine")
    write_board(board, folder)
    assert [path.read_bytes() for path in paths] == before
    assert {path.name for path in folder.iterdir()} == {"notes.txt", *(path.name for path in paths)}


def test_a_folder_that_cannot_be_written(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunLogError, match="cannot write a board"):
        write_board(_board(make_run), tmp_path / "file")


def test_a_board_without_baselines_tools_or_comparisons(make_run: MakeRun) -> None:
    board = build_board([make_run(modes=(Mode.DIRECT,), tasks=("mmvu",))])
    assert "Tool" not in {table.title.split()[0] for table in further_tables(board)}
    for page in (render_markdown(board), render_html(board), render_terminal(board, 80)):
        assert "vital-eval board run" in page


def test_boards_load_no_heavy_package() -> None:
    code = (
        "import sys, vital_eval.leaderboards.board, vital_eval.leaderboards.write, vital_eval.leaderboards.render;"
        "heavy = ('torch', 'transformers', 'pandas', 'av', 'matplotlib', 'scipy');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pictures_are_inside_the_page_and_linked_in_markdown(make_run: MakeRun, tmp_path: Path) -> None:
    reading = read_runs([make_run()])
    board = make_board(reading)
    write_board(board, tmp_path / "board", reading.sides)
    page = (tmp_path / "board" / "board.html").read_text()
    assert "img-src data:;" in page
    assert "script-src" not in page
    sources = re.findall(r'src="([^"]*)"', page)
    drawn = sorted(path.name for path in (tmp_path / "board").glob("*.svg"))
    assert drawn
    assert len(sources) == len(drawn)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (tmp_path / "board" / "board.md").read_text())
    assert sorted(links) == drawn


def test_long_tables_are_in_files_only(make_run: MakeRun) -> None:
    board = _board(make_run)
    text = render_terminal(board, 120)
    assert "Break-downs" in next(line for line in text.splitlines() if line.startswith("In the files only"))
    assert "nano, tool minus" not in text
    for page in (render_markdown(board), render_html(board), render_latex(board)):
        assert "All pairs" in page
        assert "length" in page
        assert "rank" in page
        assert "Reported elsewhere" in page
    parts = list(csv.DictReader(io.StringIO(render_parts_csv(board), newline="")))
    assert {row["value"] for row in parts} == {"short", "long"}
    pairs = list(csv.DictReader(io.StringIO(render_pairs_csv(board), newline="")))
    assert len(pairs) == len(board.comparisons) + len(board.pairs)


def test_numbers_of_others_stand_last_and_have_no_rank(make_run: MakeRun) -> None:
    titles = [table.title for table in further_tables(_board(make_run))]
    first = next(index for index, title in enumerate(titles) if title.startswith("Reported elsewhere"))
    assert all(title.startswith("Reported elsewhere") for title in titles[first:])


def test_metrics_csv_holds_every_metric_and_not_only_the_headline(make_run: MakeRun, tmp_path: Path) -> None:
    reading = read_runs([make_run(tasks=("rextime",))])
    paths = write_board(make_board(reading), tmp_path / "pages", reading.sides, plots=False)
    (path,) = (path for path in paths if path.name == "metrics.csv")
    rows = list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
    wanted = {(side.entry.protocol.mode.value, name) for side in reading.sides for name in side.cell.metrics}
    assert {(row["mode"], row["metric"]) for row in rows} == wanted
    (side,) = (side for side in reading.sides if side.entry.protocol.mode is Mode.TOOL)
    for row in rows:
        if row["mode"] == "tool" and row["percent"]:
            assert float(row["percent"]) == pytest.approx(100 * (side.cell.metrics[row["metric"]].value or 0))
