"""Write the rows that a stage reads: ``python -m vital_eval.training.verl_plugin.prepare --stage 4 ...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.errors import VitalError
from vital_eval.training.mtvr.checks import check_records
from vital_eval.training.mtvr.files import read_cot, read_rl, read_tool_cot
from vital_eval.training.mtvr.records import MtvrRecord
from vital_eval.video.pyav_decoder import PyAVDecoder
from vital_eval.video.source import ClipSource

from .rows import Fitting, Row, rl_rows, sft_rows, write_rows
from .stages import STAGES, Stage, stage_settings

_READERS: Mapping[int, Any] = {1: read_cot, 2: read_rl, 3: read_tool_cot, 4: read_rl}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and write one parquet file.

    Returns:
        The exit status: 0, or 2 for data that cannot be trained on.
    """
    given = _parser().parse_args(arguments)
    try:
        _prepare(given)
    except VitalError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _prepare(given: argparse.Namespace) -> None:
    stage = STAGES[given.stage]
    kept: list[MtvrRecord] = []
    for path in given.records:
        records = _READERS[stage.number](path, given.data_source)
        videos = [record for record in records if record.media.kind == "video"]
        if len(videos) < len(records):
            sys.stdout.write(f"{path}: {len(records) - len(videos)} record(s) show an image and are left out\n")
        report = check_records(videos, given.media_root)
        sys.stdout.write(f"{path}: {report.summary()}\n")
        kept += report.kept
    rows = _rows(stage, kept, given)
    write_rows(given.output, rows)
    sys.stdout.write(f"{given.output}: {len(rows)} rows\n")


def _rows(stage: Stage, records: Sequence[Any], given: argparse.Namespace) -> Sequence[Row]:
    if not stage.reinforced:
        return sft_rows(records)
    from transformers import AutoTokenizer

    pixels = open_checkpoint(given.model).pixels
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    fitting = Fitting(
        max_tokens=int(stage_settings(stage)["data.max_prompt_length"]),
        count=lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
        probe=ClipSource(given.media_root, PyAVDecoder()).probe,
        spatial_factor=pixels.patch * pixels.merge,
    )
    found = rl_rows(records, stage.protocol(), fitting)
    if found.too_long:
        sys.stdout.write(f"{len(found.too_long)} prompts are too long, such as that of {found.too_long[0]}\n")
    return found.rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vital_eval.training.verl_plugin.prepare", description=__doc__)
    parser.add_argument("--stage", type=int, choices=sorted(STAGES), required=True)
    parser.add_argument("--records", type=Path, nargs="+", required=True, help="files of MTVR")
    parser.add_argument("--media-root", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder, to measure prompts")
    parser.add_argument("--data-source", default=None, help="of records that name none")
    parser.add_argument("--output", type=Path, required=True, help="parquet file to write")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
