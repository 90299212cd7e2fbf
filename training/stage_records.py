"""Reads what a stage is trained on from a folder with the MTVR folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vital_eval.errors import DataError

from .mtvr.files import read_cot, read_rl, read_tool_cot
from .mtvr.records import CotRecord, Form, RlRecord, ToolCotRecord
from .recipes import Rehearsal, StageRecipe

#: What a stage is trained on.
StageRecord = CotRecord | RlRecord | ToolCotRecord


def read_stage(stage: StageRecipe, data: Path) -> tuple[StageRecord, ...]:
    """Read the records of a stage, those that it rehearses left out.

    Args:
        stage: which form and files.
        data: holds a folder a form.

    Raises:
        DataError: if a file is missing or not in the documented form, or there are no records.
    """
    return _read(data, stage.form, stage.files, stage.name)


def read_rehearsal(rehearsal: Rehearsal, data: Path, stage: str) -> tuple[StageRecord, ...]:
    """Read the records that a stage rehearses: one in so many of its form's files.

    Raises:
        DataError: see :func:`read_stage`.
    """
    return _read(data, rehearsal.form, (), stage)[:: rehearsal.every]


def _read(data: Path, form: Form, files: Sequence[str], stage: str) -> tuple[StageRecord, ...]:
    folder = data / form.value
    if not folder.is_dir():
        raise DataError(
            f"{folder} does not exist", "see docs/training_data.md for the folders, or `vital-eval data nano`"
        )
    paths = [folder / f"{stem}.json" for stem in files] or sorted(folder.glob("*.json"))
    records: list[StageRecord] = []
    for path in paths:
        if form is Form.COT:
            records += read_cot(path)
        elif form is Form.TOOL_COT:
            records += read_tool_cot(path)
        else:
            records += read_rl(path)
    if not records:
        raise DataError(f"{folder} holds no records for stage {stage}", "see docs/training_data.md")
    return tuple(records)
