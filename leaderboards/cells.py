"""What a board is made of: columns, rows and the cells where they meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from vital_eval.protocol import Mode
from vital_eval.summary import ToolHealth

from .comparison import Comparison
from .cost import Cost, Price


class Status(StrEnum):
    """Whether a cell has a number that may be read."""

    OK = "ok"
    INCOMPLETE = "incomplete"
    INVALID = "invalid"
    ABSENT = "absent"


class Kind(StrEnum):
    """Where a row's numbers come from."""

    MEASURED = "measured"
    BASELINE = "baseline"


@dataclass(frozen=True, slots=True)
class Column:
    """One benchmark.

    Attributes:
        task: registry name.
        title: name as printed.
        metric: name of the headline metric.
        n: samples, the same for every row.
        clusters: videos (VSI-Bench: scenes) among them.
        detectable: smallest difference that the board's comparisons on this benchmark would find in four of five
            cases (the largest among them), in [0, 1]; ``None`` if nothing is compared.
    """

    task: str
    title: str
    metric: str
    n: int
    clusters: int
    detectable: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One number, or the reason why there is none.

    Attributes:
        value: headline metric in [0, 1]; ``None`` unless the status is ok.
        low: lower end of its 95 % interval, ``None`` if it cannot be estimated.
        high: upper end, likewise.
        n: samples that count.
        clusters: clusters among them.
        status: see :class:`Status`.
        runs: names of the run folders it comes from.
        note: what a reader must know (why there is no number, limited run, tools never called).
        rank: best and worst rank among the measured rows of the column that its sampling error leaves open.
        delta: this row minus the text-only chain of thought of the same checkpoint; ``None`` for that row itself and
            where there is none. Holm's p is taken over the benchmarks of the row.
        price: what a point of score costs here; ``None`` unless the status is ok and something scored.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    status: Status
    runs: tuple[str, ...] = ()
    note: str = ""
    rank: tuple[int, int] | None = None
    delta: Comparison | None = None
    price: Price | None = None


ABSENT = Cell(None, None, None, 0, 0, Status.ABSENT)


@dataclass(frozen=True, slots=True)
class Row:
    """One checkpoint under one mode, or one baseline.

    Attributes:
        label: checkpoint or baseline name.
        badge: the protocol in a few words.
        kind: see :class:`Kind`.
        mode: mode of a measured row, ``None`` for a baseline.
        cells: one per column of the board.
        outcomes: every outcome to its number of attempts, over all columns; empty for a baseline.
        cost: mean cost of an attempt over all columns.
        tools: task title to tool health, for the tool mode.
        protocols: task title to protocol hash.
        attempts: attempts that the outcomes partition; 0 for a baseline.

    Raises:
        ValueError: if the outcomes do not add up to the attempts: a sample left the denominator unseen.
    """

    label: str
    badge: str
    kind: Kind
    mode: Mode | None
    cells: tuple[Cell, ...]
    outcomes: Mapping[str, int]
    cost: Cost | None
    tools: Mapping[str, ToolHealth]
    protocols: Mapping[str, str]
    attempts: int = 0

    def __post_init__(self) -> None:
        """Hold the partition together."""
        if sum(self.outcomes.values()) != self.attempts:
            raise ValueError(f"outcomes of {self.label} {dict(self.outcomes)} do not add up to {self.attempts}")
