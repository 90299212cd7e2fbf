"""What every stage brought: the ablation table of VITAL in miniature, paired, from the stages' runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

BASE = "base"

#: Task to sample to headline score of one checkpoint in one mode.
ScoredItems = Mapping[str, Mapping[str, Item]]


def run_folder(out: Path, checkpoint: str, mode: Mode) -> Path:
    """Return where a checkpoint's run lies: the base has a run a mode, a stage a run in its own.

    Args:
        out: output folder of the training.
        checkpoint: name of a stage, or :data:`BASE`.
        mode: how it was asked.
    """
    return out / checkpoint / (f"run-{mode}" if checkpoint == BASE else "run")


@dataclass(frozen=True, slots=True)
class Scored:
    """One checkpoint in one mode.

    Attributes:
        name: stage, or ``base``.
        mode: how it was asked.
        items: what it scored.
        notes: what a reader of its figures must know.
        owed: episodes that are owed, or failed by the machine.
    """

    name: str
    mode: Mode
    items: ScoredItems
    notes: tuple[str, ...]
    owed: int


@dataclass(frozen=True, slots=True)
class AblationRow:
    """One checkpoint.

    Attributes:
        name: stage, or ``base``.
        mode: how it was asked.
        against: what the difference is to; ``""`` for the base, and where that was not scored.
        score: mean of the headline metrics over the benchmarks, every benchmark with equal weight; ``None`` while
            episodes are owed.
        difference: paired over the same samples; ``None`` where there is none.
        p: of a sign-flip permutation test by video, not adjusted.
        notes: what a reader of these figures must know.
        owed: episodes that are owed, or failed by the machine.
    """

    name: str
    mode: Mode
    against: str
    score: Estimate | None
    difference: Estimate | None
    p: float | None
    notes: tuple[str, ...]
    owed: int


def ablation(stages: Sequence[StageRecipe], out: Path) -> tuple[AblationRow, ...]:
    """Compare every stage with the one it started from.

    The base is compared in the mode of the stage, so that a stage's gain is not that of another way of asking; a tool
    stage that starts from a text stage is compared with that stage as it was scored.

    Args:
        stages: stages that were trained and scored below ``out``; one that they start from may be missing there, and
            the stage is then compared with nothing.
        out: output folder of the training.
    """
    bases = [read_scored(out, BASE, mode) for mode in dict.fromkeys(stage.mode for stage in stages)]
    based = {base.mode: base for base in bases if base is not None}
    scored = {stage.name: read_scored(out, stage.name, stage.mode) for stage in stages}
    rows = [_row(base, None) for base in based.values()]
    for stage in stages:
        own = scored[stage.name]
        if own is None:
            raise DataError(f"{run_folder(out, stage.name, stage.mode)} is missing", "score the stage first")
        if not stage.init:
            start = based.get(stage.mode)
        else:
            # A stage that is trained alone starts from one of an earlier call.
            start = scored[stage.init] if stage.init in scored else read_scored(out, stage.init, stage.mode)
        rows.append(_row(own, start))
    return tuple(rows)


def _row(own: Scored, start: Scored | None) -> AblationRow:
    score = None if own.owed else _score(own.items)
    notes = list(own.notes)
    if own.owed or start is None or start.owed:
        if start is not None and start.owed:
            notes.append(f"{own.name}: not compared, because episodes of {start.name} are owed")
        against = "" if start is None else start.name
        return AblationRow(own.name, own.mode, against, score, None, None, tuple(notes), own.owed)
    found = compare_checkpoints(own.items, start.items)
    alone = _count(own.items) + _count(start.items) - 2 * found.difference.n
    if alone:
        notes.append(
            f"{own.name}: compared with {start.name} over the {found.difference.n} samples that both answered; "
            f"{alone} were asked of one of them only"
        )
    return AblationRow(own.name, own.mode, start.name, score, found.difference, found.test.p, tuple(notes), own.owed)


def read_scored(out: Path, checkpoint: str, mode: Mode) -> Scored | None:
    """Read a checkpoint's run below the output folder of a training.

    Args:
        out: output folder.
        checkpoint: name of a stage, or :data:`BASE`.
        mode: of the base's run; a stage's own run says its mode itself.

    Returns:
        ``None`` if it was not scored.
    """
    folder = run_folder(out, checkpoint, mode)
    if not folder.is_dir():
        return None
    notes = []
    items: dict[str, dict[str, Item]] = {}
    owed = 0
    for side in read_runs([folder]).sides:
        task = side.entry.task
        mode = side.entry.protocol.mode
        items[task] = {identity: within_task(task, item) for identity, item in side.items.items()}
        owed += side.cell.missing
        if side.manifest.limit is not None:
            notes.append(f"limited to {side.manifest.limit} samples a benchmark: a trial, not a result")
        if side.cell.missing:
            notes.append(f"{checkpoint}: {side.cell.missing} episodes of {task} are owed or failed by the machine")
        if side.cell.tools is not None and side.cell.tools.invalid:
            notes.append(f"{checkpoint}: {task}: {side.cell.tools.verdict}")
    return Scored(checkpoint, mode, items, tuple(notes), owed)


def compare_checkpoints(one: ScoredItems, other: ScoredItems) -> PairedTest:
    """Compare two checkpoints over the samples that both answered, headline metrics with equal weight.

    Raises:
        DataError: if they share no sample.
    """
    pairs = [
        (item, other[task][name])
        for task, inside in one.items()
        if task in other
        for name, item in inside.items()
        if name in other[task]
    ]
    if not pairs:
        raise DataError("two checkpoints were scored on different samples", "score them on the same benchmarks")
    return paired_test(pairs)


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


def _count(by_task: ScoredItems) -> int:
    return sum(len(items) for items in by_task.values())


def _score(by_task: ScoredItems) -> Estimate:
    return estimate_items([item for inside in by_task.values() for item in inside.values()])
