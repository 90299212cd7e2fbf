"""Every comparison on a board, and the family each is tested in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vital_eval.protocol import Mode
from vital_eval.statistics.families import benjamini_hochberg, holm

from .cells import Column
from .comparison import Comparison, adjust, compare, compare_pooled
from .lines import Line


class Pairs:
    """Compares the rows of one board; what two tables show is worked out once.

    Args:
        lines: rows in the order of the board.
        columns: benchmarks of the board.
    """

    def __init__(self, lines: Sequence[Line], columns: Sequence[Column]):
        self._lines = lines
        self._columns = columns
        self._known: dict[tuple[int, int], Comparison] = {}

    def tool_against_text(self) -> tuple[Comparison, ...]:
        """Return tool minus text chain of thought per checkpoint and benchmark, and pooled.

        The benchmarks of one checkpoint are one family, adjusted by Holm's method.
        """
        found: list[Comparison] = []
        for tool in self._lines:
            for text in self._texts_of(tool) if tool.mode is Mode.TOOL else ():
                label = tool.shown if text.shown == text.label else f"{tool.shown} against {text.shown}"
                shared = self._shared(tool, text)
                inside = [self._compare(label, column, tool, text) for column in shared]
                sides = [(tool.parts[column.task], text.parts[column.task]) for column in shared]
                pooled = compare_pooled(label, sides, names=("tool", "cot"))
                found += adjust([*inside, pooled] if pooled is not None else inside, holm)
        return tuple(found)

    def against_text(self, line: Line) -> dict[str, Comparison]:
        """Return task to the difference of a row to the text chain of thought of the same checkpoint.

        The benchmarks of the row are one family, adjusted by Holm's method. Where there are several rows of text
        chain of thought, the first with which anything may be compared is taken.
        """
        if line.mode is Mode.COT:
            return {}
        for text in self._texts_of(line):
            inside = [self._compare(line.shown, column, line, text) for column in self._shared(line, text)]
            if any(one.difference is not None for one in inside):
                return {one.task: one for one in adjust(inside, holm)}
        return {}

    def all(self) -> tuple[Comparison, ...]:
        """Return all pairs of rows that may be compared, benchmark by benchmark, adjusted as one family.

        The adjustment is that of Benjamini and Hochberg. The later row is held against the earlier one.
        """
        found = [
            self._compare(f"{later.name} minus {earlier.name}", column, later, earlier)
            for column in self._columns
            for place, earlier in enumerate(self._lines)
            for later in self._lines[place + 1 :]
            if column.task in earlier.parts and column.task in later.parts
        ]
        return adjust([one for one in found if one.difference is not None], benjamini_hochberg)

    def _texts_of(self, line: Line) -> list[Line]:
        same = (line.label, line.engine.fingerprint)
        return [one for one in self._lines if one.mode is Mode.COT and (one.label, one.engine.fingerprint) == same]

    def _shared(self, one: Line, other: Line) -> list[Column]:
        return [column for column in self._columns if column.task in one.parts and column.task in other.parts]

    def _compare(self, label: str, column: Column, one: Line, other: Line) -> Comparison:
        a, b = one.parts[column.task], other.parts[column.task]
        key = (id(a), id(b))
        if key not in self._known:
            self._known[key] = compare(label, column.title, a, b, names=(one.name, other.name))
        return dataclasses.replace(self._known[key], label=label)


def detectable(comparisons: Sequence[Comparison], task: str) -> float | None:
    """Return the largest of the smallest detectable differences on one benchmark, ``None`` if there is none."""
    found = [one.detectable for one in comparisons if one.task == task]
    return max((value for value in found if value is not None), default=None)
