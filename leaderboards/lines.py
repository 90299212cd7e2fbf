"""Which sides make up one row: same checkpoint, engine and recipe, one side per benchmark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from vital_eval.engine import EngineInfo
from vital_eval.protocol import Mode, Protocol, differing_fields

from .rules import MODE_ORDER
from .sides import Side

#: What one recipe may set for each benchmark; protocols that differ in more are rows of their own.
_PER_TASK_FIELDS = {"view.max_frames", "view.max_pixels"}


@dataclass(slots=True)
class Line:
    """A measured row while its sides are being gathered.

    Attributes:
        label: checkpoint name.
        engine: who answered.
        protocol: that of the first side.
        parts: task to side.
        shown: the label as the board shows it, told apart from labels that would read the same.
    """

    label: str
    engine: EngineInfo
    protocol: Protocol
    parts: dict[str, Side]
    shown: str

    @property
    def mode(self) -> Mode:
        """How the model reasoned."""
        return self.protocol.mode

    @property
    def name(self) -> str:
        """Label and mode."""
        return f"{self.shown}, {self.mode.value}"


def gather_lines(sides: Sequence[Side]) -> list[Line]:
    """Gather sides into rows, in the order of the board: checkpoints as given, modes within them."""
    lines: list[Line] = []
    for side in sides:
        label, engine, protocol = side.manifest.label, side.manifest.engine, side.entry.protocol
        for line in lines:
            if (
                (line.label, line.engine, line.protocol.name) == (label, engine, protocol.name)
                and set(differing_fields(line.protocol, protocol)) <= _PER_TASK_FIELDS
                and side.entry.task not in line.parts
            ):
                line.parts[side.entry.task] = side
                break
        else:
            lines.append(Line(label, engine, protocol, {side.entry.task: side}, label))
    order = list(dict.fromkeys((line.label, line.engine.fingerprint) for line in lines))
    _tell_apart(lines)
    shown = list(dict.fromkeys(line.shown for line in lines))
    lines.sort(
        key=lambda line: (
            order.index((line.label, line.engine.fingerprint)),
            shown.index(line.shown),
            MODE_ORDER.index(line.mode.value),
        )
    )
    return lines


def _tell_apart(lines: Sequence[Line]) -> None:
    """Rename lines that would read the same (another recipe, run or checkpoint) by what tells them apart."""
    alike: defaultdict[tuple[str, Mode], list[Line]] = defaultdict(list)
    for line in lines:
        alike[line.label, line.mode].append(line)
    for inside in alike.values():
        if len(inside) > 1:
            marks = [(line.protocol.name, _run_names(line), f"protocol {line.protocol.hash}") for line in inside]
            kinds = [kind for kind in zip(*marks, strict=True) if len(set(kind)) == len(inside)]
            chosen = kinds[0] if kinds else [" · ".join(mark) for mark in marks]
            for line, words in zip(inside, chosen, strict=True):
                line.shown = f"{line.label} · {words}"


def _run_names(line: Line) -> str:
    return f"run {', '.join(sorted({part.run for part in line.parts.values()}))}"
