"""What a stage was trained from, kept beside it: what lies on something else is not taken for it.

A checkpoint does not say which checkpoint, records and settings made it. Without this file, a stage whose start was
trained again, or whose records were exchanged, would go on or count as trained, and its gain would be compared with a
checkpoint that it never came from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vital_eval.atomic import write_atomically
from vital_eval.errors import VitalError

from .dgrpo import DgrpoStage
from .mtvr.records import MtvrRecord, records_hash
from .recipes import StageRecipe

ORIGIN = "origin.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """What decides a stage's weights.

    Attributes:
        start: fingerprint of the checkpoint that it starts from.
        records: hash of the records that it is trained on, in their order, rehearsed ones included.
        settings: hash of the recipe's settings, those left out that only share out the work.
        length: steps or epochs.
        seed: of the order of records and problems.
    """

    start: str
    records: str
    settings: str
    length: str
    seed: int


def origin_of(stage: StageRecipe, start: str, records: Sequence[Sequence[MtvrRecord]], seed: int) -> Origin:
    """Return the origin of a stage.

    Args:
        stage: the recipe.
        start: fingerprint of the checkpoint that it starts from.
        records: those of the stage, then of everything that it rehearses.
        seed: of the order of records and problems.
    """
    train = stage.train
    settings = {"train": train.identity(), "rehearsed": [dataclasses.asdict(again) for again in stage.rehearsed]}
    text = json.dumps(settings, sort_keys=True, default=str)
    return Origin(
        start=start,
        records="-".join(records_hash(part) for part in records),
        settings=hashlib.sha256(text.encode()).hexdigest()[:16],
        length=f"{train.steps} steps" if train.steps else f"{train.epochs} epochs",
        seed=seed,
    )


def require_origin(stage: StageRecipe, origin: Origin, folder: Path, *, begun: bool, finished: bool) -> None:
    """Write down what a stage is trained from, or refuse a folder in which it was trained from something else.

    Args:
        stage: the recipe.
        origin: as it would be trained now.
        folder: of the stage.
        begun: whether there is a saved state or a checkpoint.
        finished: whether there is a checkpoint. A reinforced stage that is not finished may be made longer.

    Raises:
        VitalError: naming what differs, or if the file cannot be read or written.
    """
    path = folder / ORIGIN
    mend = f"remove {folder} to train the stage again, or give back what it was trained from"
    if begun:
        try:
            known = Origin(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise VitalError(f"{folder} holds a stage of unknown origin: {ORIGIN} is missing", mend) from error
        except (OSError, ValueError, TypeError) as error:
            raise VitalError(f"cannot read {path}: {error}", mend) from error
        free = {"length"} if isinstance(stage.train, DgrpoStage) and not finished else set[str]()
        differing = [
            field.name
            for field in dataclasses.fields(Origin)
            if field.name not in free and getattr(known, field.name) != getattr(origin, field.name)
        ]
        if differing:
            what = {"start": f"the checkpoint of {stage.init or 'the base'}"}
            names = ", ".join(what.get(name, name) for name in differing)
            raise VitalError(f"{folder} holds {stage.name} trained from something else: {names} differ", mend)
        if finished:
            return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(dataclasses.asdict(origin), indent=1) + "\n")
    except OSError as error:
        raise VitalError(f"cannot write {path}: {error.strerror}", "free space or choose another folder") from error
