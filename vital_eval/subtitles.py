"""Subtitle files (SubRip) and the lines of them that are on screen in the frames a model sees.

Subtitles are other people's words on their way into a prompt: size and length are bounded, and whatever looks like a
tag is taken out, so that no text can pass for one of the model's control tokens or for an answer.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Files above this many bytes are refused; three hours of dialogue take about 300 kB.
MAX_FILE_BYTES = 4 * 2**20
#: What one subtitle may hold.
MAX_LINE_CHARACTERS = 500
#: What all subtitles of one question may hold.
MAX_TEXT_CHARACTERS = 100_000

_CLOCK = r"(\d{1,3}):([0-5]?\d):([0-5]?\d)[,.](\d{1,3})"
_TIMING = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?")
# Linear on any text; marks that are left over go as well, so that removed tags cannot form a new one.
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}|[<>]")


class SubtitleError(Exception):
    """A subtitle file cannot be used; the question is asked without.

    Args:
        code: ``subtitles-missing`` or ``subtitles-unreadable``, counted in the record.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class SubtitleLine:
    """One subtitle: on screen from ``start`` to ``end``, in seconds of the video."""

    start: float
    end: float
    text: str


def read_subtitles(folder: Path, name: str) -> tuple[SubtitleLine, ...]:
    """Read a subtitle file below a folder.

    Args:
        folder: nothing outside it is opened, links included.
        name: path below it.

    Raises:
        SubtitleError: if the file is missing, outside the folder, too large or not readable.
    """
    try:
        path = (folder / name).resolve(strict=True)
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise SubtitleError("subtitles-missing")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SubtitleError("subtitles-unreadable")
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        lines = parse_srt(text)
        if text.strip() and not lines:
            raise SubtitleError("subtitles-unreadable")  # another format or encoding
        return lines
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SubtitleError("subtitles-missing") from error
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name, a loop of links, no permission
        raise SubtitleError("subtitles-unreadable") from error


def parse_srt(text: str) -> tuple[SubtitleLine, ...]:
    """Read the subtitles of a SubRip text in order of time; what is not in the form is passed over.

    Tags and control characters are taken out, the rows of one subtitle are joined, and empty ones are dropped.
    """
    found: list[SubtitleLine] = []
    timing: re.Match[str] | None = None
    rows: list[str] = []
    for row in (*text.splitlines(), ""):
        following = _TIMING.fullmatch(row)
        if following is None and row.strip():
            rows.append(row)
            continue
        if timing is not None:
            # Some files leave out the empty line; then the next number is the last row.
            said = rows[:-1] if following is not None and rows and rows[-1].strip().isdigit() else rows
            found += _line(timing, said)
        timing, rows = following, []
    return tuple(sorted(found, key=lambda line: (line.start, line.end)))


def on_screen(lines: Iterable[SubtitleLine], times: Sequence[float]) -> tuple[SubtitleLine, ...]:
    """Return the subtitles that are on screen at the time of at least one frame.

    Args:
        lines: subtitles.
        times: times of the frames shown, in seconds, increasing.
    """
    first_after = ((line, bisect_left(times, line.start)) for line in lines)
    return tuple(line for line, place in first_after if place < len(times) and times[place] <= line.end)


def write_lines(lines: Iterable[SubtitleLine]) -> tuple[str, bool]:
    """Write subtitles one a line with their seconds.

    Returns:
        The text, and whether it holds all of them; it never holds more than :data:`MAX_TEXT_CHARACTERS`.
    """
    written: list[str] = []
    room = MAX_TEXT_CHARACTERS
    for line in lines:
        text = f"[{line.start:.1f} to {line.end:.1f}] {line.text}"
        room -= len(text) + 1
        if room < 0:
            return "\n".join(written), False
        written.append(text)
    return "\n".join(written), True


def _line(timing: re.Match[str], rows: Sequence[str]) -> tuple[SubtitleLine, ...]:
    numbers = timing.groups()
    start, end = _seconds(numbers[:4]), _seconds(numbers[4:])
    plain = _TAG.sub("", " ".join(rows))
    text = " ".join("".join(mark if mark.isprintable() else " " for mark in plain).split())[:MAX_LINE_CHARACTERS]
    return (SubtitleLine(start, end, text),) if text and start < end else ()


def _seconds(clock: Sequence[str]) -> float:
    hours, minutes, seconds, fraction = clock
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds) + int(fraction.ljust(3, "0")) / 1000
