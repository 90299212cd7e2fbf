"""What ``compare`` shows, as tables, pages and data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vital_eval.atomic import write_atomically
from vital_eval.errors import RunLogError

from .comparison import Comparison
from .further import comparison_header, comparison_texts, short_comparison_table
from .render_csv import comparisons_csv
from .render_latex import render_latex_tables
from .render_markdown import markdown_tables, markdown_text
from .run_comparison import RunComparison, Section
from .tables import TextTable, clean, text_table

TITLE = "vital-eval compare"

NOTE = (
    "A minus B in points over the samples that count on both sides, with the 95 % interval clustered by video. p: "
    "sign-flip permutation test by video; over c videos that differ it cannot fall below 2 to the power of 1 - c. Holm "
    "p: adjusted over the benchmarks of the table, the pooled line apart; the verdict on A is Holm p below 0.05. MDE: "
    "smallest difference that would be found in four of five cases, in points. Dropped: samples that count on one "
    "side only. Only one side right: counted where scores are 0 or 1 (McNemar's table)."
)


def comparison_tables(found: RunComparison) -> tuple[TextTable, ...]:
    """Return one table per pair of modes, with everything."""
    return tuple(
        text_table(
            _title(section),
            NOTE,
            ("benchmark", "metric", *comparison_header("A", "B", "Holm")),
            [(one.title, one.metric, *comparison_texts(one)) for one in section.comparisons],
            2,
        )
        for section in found.sections
    )


def terminal_comparison_tables(found: RunComparison) -> tuple[TextTable, ...]:
    """Return the tables as far as a terminal has room for them."""
    return tuple(
        short_comparison_table(_title(section), NOTE, section.comparisons, ("A", "B")) for section in found.sections
    )


def _title(section: Section) -> str:
    return clean(f"A: {section.one}; B: {section.other}")


def comparison_markdown(found: RunComparison, command: str) -> str:
    """Return the page as GitHub-flavoured Markdown."""
    lines = [f"# {TITLE}", "", f"Written by `{clean(command).replace('`', chr(39))}`."]
    lines += ["", *(f"- {markdown_text(clean(remark))}" for remark in found.remarks)] if found.remarks else []
    return "\n".join([*lines, *markdown_tables(comparison_tables(found))]) + "\n"


def comparison_latex(found: RunComparison, command: str) -> str:
    """Return the tables as a LaTeX document."""
    return render_latex_tables(TITLE, command, found.remarks, comparison_tables(found))


def comparison_csv(found: RunComparison) -> str:
    """Return one line per comparison; numbers are percent or points with full precision."""
    return comparisons_csv([(f"{one.one} minus {one.other}, Holm", one.comparisons) for one in found.sections])


def comparison_json(found: RunComparison, command: str) -> str:
    """Return everything as strict JSON; scores and differences are on the scale of [0, 1]."""
    data = {
        "command": command,
        "remarks": list(found.remarks),
        "sections": [_section(section) for section in found.sections],
    }
    return json.dumps(data, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def write_comparison(found: RunComparison, command: str, folder: Path) -> tuple[Path, ...]:
    """Write ``compare.md``, ``compare.csv``, ``compare.tex`` and ``compare.json``, each atomically.

    Raises:
        RunLogError: if they cannot be written.
    """
    pages = {
        "compare.md": comparison_markdown(found, command),
        "compare.csv": comparison_csv(found),
        "compare.tex": comparison_latex(found, command),
        "compare.json": comparison_json(found, command),
    }
    return tuple(write_page(folder / name, text) for name, text in pages.items())


def write_page(path: Path, text: str) -> Path:
    """Write one file atomically; its folder is made if it does not exist.

    Raises:
        RunLogError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise RunLogError(f"cannot write {path}: {error.strerror}") from error
    return path


def _section(section: Section) -> dict[str, Any]:
    return {"a": section.one, "b": section.other, "comparisons": [_comparison(one) for one in section.comparisons]}


def _comparison(one: Comparison) -> dict[str, Any]:
    names: Sequence[str] = ("task", "title", "metric", "p", "exact", "adjusted", "verdict", "detectable")
    data = {name: getattr(one, name) for name in names}
    data["a"], data["b"] = one.values or (None, None)
    data["difference"] = None if one.difference is None else dataclasses.asdict(one.difference)
    data |= {"dropped": one.dropped, "only_a_right": one.only_one, "only_b_right": one.only_other, "note": one.note}
    return data
