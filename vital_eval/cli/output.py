"""How commands talk: results on standard output, trouble on standard error, never a raw control character."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vital_eval.statistics.means import Estimate

EXIT_ERROR = 1
EXIT_USAGE = 2
#: The run ended, but samples are owed; or predictions were scored that do not answer every question once.
EXIT_OWED = 3
EXIT_INTERRUPTED = 130


def say(text: str = "") -> None:
    """Write a line, or several, to standard output; nowhere if that was closed before the start."""
    if sys.stdout is not None:
        sys.stdout.write(printable(text) + "\n")


def complain(text: str) -> None:
    """Write one line to standard error; nowhere if that was closed before the start."""
    if sys.stderr is not None:
        sys.stderr.write(" ".join(printable(text).split()) + "\n")


def printable(text: str) -> str:
    """Return the text with control characters, which could drive a terminal, written as escapes."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1] for character in text
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a plain table; columns that hold only numbers are right-aligned."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    numeric = [len(lines) > 1 and all(_is_number(line[column]) for line in lines[1:]) for column in range(len(head))]
    laid = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join(laid)


def percent_text(value: float | None, digits: int = 1) -> str:
    """Write a score in [0, 1] as percent, ``-`` if there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def interval_text(low: float | None, high: float | None, digits: int = 1, missing: str = "-") -> str:
    """Write an interval on the scale of :func:`percent_text`, ``missing`` if it cannot be estimated."""
    if low is None or high is None:
        return missing
    return f"[{percent_text(low, digits)}, {percent_text(high, digits)}]"


def figure_text(estimate: Estimate) -> str:
    """Write a score with its interval, without one where it cannot be estimated."""
    return f"{percent_text(estimate.value)} {interval_text(estimate.low, estimate.high, missing='')}".rstrip()


def _is_number(text: str) -> bool:
    return text in ("", "-") or text.replace(".", "", 1).replace("-", "", 1).isdigit()
