"""Reads what a stage is trained on from a folder with the MTVR folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vital_eval.errors import DataError

from .mtvr.checks import CheckReport, check_records
from .mtvr.files import read_cot, read_rl, read_tool_cot
from .mtvr.records import CotRecord, Form, RlRecord, ToolCotRecord
from .recipes import Rehearsal, StageRecipe

#: What a stage is trained on.
StageRecord = CotRecord | RlRecord | ToolCotRecord

#: A stage that would train on less of its records than this has something wrong with its data.
LEAST_KEPT = 0.5


@dataclass(frozen=True, slots=True)
class StageRecords:
    """The sound records of a stage.

    Attributes:
        records: in the order of the files.
        notes: a line for every file with faulty records: how many are left out, and why.
    """

    records: tuple[StageRecord, ...]
    notes: tuple[str, ...] = ()


def read_stage(stage: StageRecipe, data: Path) -> StageRecords:
    """Read the records of a stage, those that it rehearses left out.

    Records with a fault (:func:`~.mtvr.checks.check_records`: a span outside its video, an unknown data source) are
    left out; videos are not looked for here.

    Args:
        stage: which form and files.
        data: holds a folder a form.

    Raises:
        DataError: if a file is missing or not in the documented form, there are no records, or more than half of them
            are faulty.
    """
    return _read(data, stage.form, stage.files, stage.name)


def read_rehearsal(rehearsal: Rehearsal, data: Path, stage: str) -> StageRecords:
    """Read the records that a stage rehearses: one in so many of its form's files.

    Raises:
        DataError: see :func:`read_stage`.
    """
    found = _read(data, rehearsal.form, (), stage)
    return StageRecords(found.records[:: rehearsal.every], found.notes)


def _read(data: Path, form: Form, files: Sequence[str], stage: str) -> StageRecords:
    folder = data / form.value
    if not folder.is_dir():
        raise DataError(
            f"{folder} does not exist", "see docs/training_data.md for the folders, or `vital-eval data nano`"
        )
    paths = [folder / f"{stem}.json" for stem in files] or sorted(folder.glob("*.json"))
    records: list[StageRecord] = []
    notes: list[str] = []
    total = 0
    for path in paths:
        report = _checked(path, form)
        if report is not None:
            total += report.total
            records += report.kept
            if report.counts:
                notes.append(f"{path}: {report.summary()}")
    if not records:
        raise DataError(f"{folder} holds no records for stage {stage}", "see docs/training_data.md")
    if len(records) < LEAST_KEPT * total:
        raise DataError(
            f"stage {stage}: only {len(records)} of {total} records are sound; {notes[0]}",
            "mend them (`vital-eval data check` names every one)",
        )
    return StageRecords(tuple(records), tuple(notes))


def _checked(
    path: Path, form: Form
) -> CheckReport[CotRecord] | CheckReport[ToolCotRecord] | CheckReport[RlRecord] | None:
    if form is Form.COT:
        cot = read_cot(path)
        return check_records(cot, None) if cot else None
    if form is Form.TOOL_COT:
        tool_cot = read_tool_cot(path)
        return check_records(tool_cot, None) if tool_cot else None
    rl = read_rl(path)
    return check_records(rl, None) if rl else None
