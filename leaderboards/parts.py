"""Headline figures taken apart by what is known about the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vital_eval.breakdowns import Part, break_down

from .sides import Side


@dataclass(frozen=True, slots=True)
class PartRow:
    """One row's figure over the samples that share one attribute value.

    Attributes:
        label: checkpoint.
        mode: how the model reasoned.
        title: benchmark.
        metric: headline metric.
        part: attribute, value and figure.
    """

    label: str
    mode: str
    title: str
    metric: str
    part: Part


def parts_of(rows: Sequence[tuple[str, Sequence[tuple[str, Side]]]]) -> tuple[PartRow, ...]:
    """Take the headline figure of every cell apart; cells without a number that may be read are left out.

    Args:
        rows: label and, per benchmark, its title and side.
    """
    return tuple(
        PartRow(label, side.cell.mode.value, title, side.entry.primary, part)
        for label, sides in rows
        for title, side in sides
        if side.readable
        for part in break_down(
            tuple(side.items.values()), {record.sample_id: record.attributes for record in side.records}
        )
    )
