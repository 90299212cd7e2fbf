"""Several answers per sample: what the best, the most frequent and the average answer is worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from vital_eval.record import Record
from vital_eval.statistics.attempts import Spread, best_of, majority, spread
from vital_eval.statistics.means import Estimate
from vital_eval.summary import Item, estimate_items

from .sides import Side


@dataclass(frozen=True, slots=True)
class Repeat:
    """Figures of one row and benchmark over K answers per sample.

    Attributes:
        label: checkpoint.
        mode: how the model reasoned.
        title: benchmark.
        metric: headline metric.
        attempts: K.
        mean: mean over the answers (the headline).
        best: pass@K: score of the best of K answers.
        majority: maj@K: score of the answer given most often; ``None`` where answers are not alike or unlike, but
            near or far (spans).
        spread: variance between and within samples; ``None`` with fewer than two samples.
    """

    label: str
    mode: str
    title: str
    metric: str
    attempts: int
    mean: Estimate
    best: Estimate
    majority: Estimate | None
    spread: Spread | None


def repeat_of(label: str, title: str, side: Side) -> Repeat | None:
    """Return the figures of one side, ``None`` if it answered once or is not complete."""
    if side.cell.attempts < 2 or not side.readable:
        return None
    score = side.entry.metrics[side.entry.primary]
    by_sample: defaultdict[str, list[Record]] = defaultdict(list)
    for record in side.records:
        if record.scores[score] is not None:
            by_sample[record.sample_id].append(record)
    scores = {name: [record.scores[score] or 0.0 for record in inside] for name, inside in by_sample.items()}
    votes = {name: [_vote(record) for record in inside] for name, inside in by_sample.items()}
    best = {name: best_of(values, len(values)) for name, values in scores.items()}
    most = None
    if not any(record.answer is not None and record.answer.spans for record in side.records):
        most = {name: majority(votes[name], values) for name, values in scores.items()}
    return Repeat(
        label=label,
        mode=side.cell.mode.value,
        title=title,
        metric=side.entry.primary,
        attempts=side.cell.attempts,
        mean=side.cell.headline,
        best=_estimate(side, best),
        majority=None if most is None else _estimate(side, most),
        spread=spread([scores[name] for name in side.items]),
    )


def _estimate(side: Side, values: dict[str, float]) -> Estimate:
    return estimate_items([Item(i.sample_id, i.cluster, values[i.sample_id], i.path) for i in side.items.values()])


def _vote(record: Record) -> str | None:
    """Return the answer in a form in which equal answers are equal; ``None`` for no usable answer."""
    answer = record.answer
    if answer is None:
        return None
    if answer.letter is not None:
        return answer.letter
    if answer.number is not None:
        return repr(float(answer.number))
    return " ".join(answer.text.casefold().split())


def repeats_of(rows: Sequence[tuple[str, Sequence[tuple[str, Side]]]]) -> tuple[Repeat, ...]:
    """Return the figures of all rows.

    Args:
        rows: label and, per benchmark, its title and side.
    """
    found = [repeat_of(label, title, side) for label, sides in rows for title, side in sides]
    return tuple(one for one in found if one is not None)
