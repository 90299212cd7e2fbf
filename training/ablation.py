"""What every stage brought: the ablation table of VITAL in miniature, paired, from the stages' runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from vital_eval.errors import DataError
from vital_eval.leaderboards.comparison import PairedTest, paired_test, within_task
from vital_eval.leaderboards.sides import read_runs
from vital_eval.protocol import Mode
from vital_eval.statistics.means import Estimate
from vital_eval.summary import Item, estimate_items

from .recipes import StageRecipe

#: Task to sample to headline score of one checkpoint in one mode.
ScoredItems = dict[str, dict[str, Item]]


@dataclass(frozen=True, slots=True)
class AblationRow:
    """One checkpoint.

    Attributes:
        name: stage, or ``base``.
        mode: how it was asked.
        against: what the difference is to; ``""`` for the base, and where that was not scored.
        score: mean of the headline metrics over the benchmarks, every benchmark with equal weight.
        difference: paired over the same samples; ``None`` where there is none.
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
        stages: stages that were trained and scored below ``out``; one that they start from may be missing there, and
            the stage is then compared with nothing.
        out: output folder of the training.
    """
    names = tuple(stage.name for stage in stages)
    # A stage that is trained alone starts from one of an earlier call.
    earlier = {stage.init for stage in stages if stage.init and (out / stage.init / "run").is_dir()} - set(names)
    sides = scored_sides(out, ("base", *sorted(earlier), *names))
    rows = [
        AblationRow("base", mode, "", _score(items), None, None)
        for (name, mode), items in sides.items()
        if name == "base"
    ]
    modes = {name: mode for name, mode in sides if name != "base"}
    for stage in stages:
        own = sides[stage.name, stage.mode]
        start = stage.init or "base"
        other = sides.get((start, modes.get(start, stage.mode)))
        if other is None:
            rows.append(AblationRow(stage.name, stage.mode, "", _score(own), None, None))
            continue
        found = compare_checkpoints(own, other)
        rows.append(AblationRow(stage.name, stage.mode, start, _score(own), found.difference, found.test.p))
    return tuple(rows)


def scored_sides(out: Path, checkpoints: Sequence[str]) -> dict[tuple[str, Mode], ScoredItems]:
    """Read the runs of checkpoints below the output folder of a training.

    Args:
        out: output folder.
        checkpoints: names of stages, and ``base``.

    Returns:
        Checkpoint and mode to what it scored.
    """
    sides: dict[tuple[str, Mode], ScoredItems] = {}
    for name in checkpoints:
        for side in read_runs(sorted((out / name).glob("run*"))).sides:
            sides.setdefault((name, side.entry.protocol.mode), {})[side.entry.task] = {
                identity: within_task(side.entry.task, item) for identity, item in side.items.items()
            }
    return sides


def compare_checkpoints(one: ScoredItems, other: ScoredItems) -> PairedTest:
    """Compare two checkpoints over the samples that both answered, headline metrics with equal weight."""
    return paired_test(
        [
            (item, other[task][name])
            for task, inside in one.items()
            if task in other
            for name, item in inside.items()
            if name in other[task]
        ]
    )


def mean_of_seeds(trainings: Sequence[ScoredItems]) -> ScoredItems:
    """Return what several trainings scored on average, sample by sample.

    A paired interval over these means holds for these very seeds; it says nothing about other ones.

    Args:
        trainings: the same checkpoint of each training, scored on the same samples.

    Raises:
        DataError: if they were not scored on the same samples.
    """
    first, *rest = trainings
    for other in rest:
        if {task: set(items) for task, items in other.items()} != {task: set(items) for task, items in first.items()}:
            raise DataError("the trainings were scored on different samples", "score them on the same world")
    return {
        task: {
            name: item._replace(value=fmean(training[task][name].value for training in trainings))
            for name, item in items.items()
        }
        for task, items in first.items()
    }


def _score(by_task: ScoredItems) -> Estimate:
    return estimate_items([item for inside in by_task.values() for item in inside.values()])
