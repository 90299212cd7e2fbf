"""What watching the video adds over the question alone, where a benchmark reports that gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vital_eval.statistics.gains import relative_gain
from vital_eval.statistics.means import Estimate

from .lines import Line
from .rules import is_blind, obstacle, same_checkpoint
from .sides import Side


@dataclass(frozen=True, slots=True)
class Gain:
    """Relative gain of one row over the blind row of the same checkpoint.

    Attributes:
        label: checkpoint.
        mode: of the row that sees the video.
        title: benchmark.
        metric: whose gain it is.
        before: score without the video, in [0, 1].
        after: score with it.
        gain: (after - before) / (1 - before); ``None`` if the two may not be compared.
        note: why there is none.
    """

    label: str
    mode: str
    title: str
    metric: str
    before: float | None
    after: float | None
    gain: Estimate | None
    note: str = ""


def gains_of(lines: Sequence[Line], metrics: Mapping[str, str], titles: Mapping[str, str]) -> tuple[Gain, ...]:
    """Return the gain of every row that has a blind sibling.

    Args:
        lines: measured rows.
        metrics: task to the metric whose gain its benchmark reports; tasks without one are left out.
        titles: task to printed title.
    """
    found = []
    for task, metric in metrics.items():
        sides = [(line, line.parts[task]) for line in lines if task in line.parts]
        for line, after in sides:
            blind = next((b for _, b in sides if is_blind(b.cell.mode) and same_checkpoint(after, b)), None)
            if blind is not None and not is_blind(after.cell.mode) and metric in after.entry.metrics:
                found.append(_gain(line, after, blind, titles[task], metric))
    return tuple(found)


def _gain(line: Line, after: Side, before: Side, title: str, metric: str) -> Gain:
    reason = obstacle(after, before, strict=True)
    if reason:
        return Gain(line.shown, line.mode.value, title, metric, None, None, None, f"not compared: {reason}")
    a, b = after.items_of(metric), before.items_of(metric)
    shared = [name for name in a if name in b]
    gain = relative_gain(
        [a[name].value for name in shared], [b[name].value for name in shared], [a[name].cluster for name in shared]
    )
    scores = before.cell.metrics[metric].value, after.cell.metrics[metric].value
    return Gain(line.shown, line.mode.value, title, metric, *scores, gain)
