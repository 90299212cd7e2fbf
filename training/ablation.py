"""What every stage brought: the ablation table of VITAL in miniature, paired, from the stages' runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vital_eval.leaderboards.comparison import within_task
from vital_eval.leaderboards.sides import read_runs
from vital_eval.protocol import Mode
from vital_eval.statistics.means import Estimate, nested_weights, paired_difference
from vital_eval.statistics.permutation import sign_flip
from vital_eval.summary import Item, estimate_items

from .recipes import StageRecipe


@dataclass(frozen=True, slots=True)
class AblationRow:
    """One checkpoint.

    Attributes:
        name: stage, or ``base``.
        mode: how it was asked.
        against: what the difference is to; ``""`` for the base.
        score: mean of the headline metrics over the benchmarks, every benchmark with equal weight.
        difference: paired over the same samples; ``None`` for the base.
        p: of a sign-flip permutation test by video, not adjusted.
    """

    name: str
    mode: Mode
    against: str
    score: Estimate
    difference: Estimate | None
    p: float | None


def ablation(stages: Sequence[StageRecipe], out: Path) -> tuple[AblationRow, ...]:
    """Compare every stage with the one it started from.

    The base is compared in the mode of the stage, so that a stage's gain is not that of another way of asking; a tool
    stage that starts from a text stage is compared with that stage as it was scored.

    Args:
        stages: stages that were trained and scored below ``out``.
        out: output folder of the training.
    """
    reading = read_runs([out / name / "run" for name in ("base", *(stage.name for stage in stages))])
    sides: dict[tuple[str, Mode], dict[str, dict[str, Item]]] = {}
    for side in reading.sides:
        name = side.run.split("/")[0]
        sides.setdefault((name, side.entry.protocol.mode), {})[side.entry.task] = {
            identity: within_task(side.entry.task, item) for identity, item in side.items.items()
        }
    rows = [
        AblationRow("base", mode, "", _score(items), None, None)
        for (name, mode), items in sides.items()
        if name == "base"
    ]
    modes = {stage.name: stage.mode for stage in stages}
    for stage in stages:
        own = sides[stage.name, stage.mode]
        start = stage.init or "base"
        other = sides[start, modes.get(start, stage.mode)]
        difference, p = _difference(own, other)
        rows.append(AblationRow(stage.name, stage.mode, start, _score(own), difference, p))
    return tuple(rows)


def _score(by_task: dict[str, dict[str, Item]]) -> Estimate:
    return estimate_items([item for inside in by_task.values() for item in inside.values()])


def _difference(one: dict[str, dict[str, Item]], other: dict[str, dict[str, Item]]) -> tuple[Estimate, float | None]:
    pairs = [
        (item, other[task][name])
        for task, inside in one.items()
        if task in other
        for name, item in inside.items()
        if name in other[task]
    ]
    paths = [a.path for a, _ in pairs]
    weights = nested_weights(paths)
    clusters = [a.cluster for a, _ in pairs]
    values = [a.value for a, _ in pairs], [b.value for _, b in pairs]
    found = paired_difference(*values, weights, clusters, paths)
    test = sign_flip([a.value - b.value for a, b in pairs], weights, clusters)
    return found, test.p
