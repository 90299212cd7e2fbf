"""verl's supervised data set, encoded by the harness (``data.custom_cls`` of the SFT trainer).

verl's own loses the frame rate (0.083 s per temporal patch whatever the video). Here each row is an episode of the
harness in which a teacher speaks, so questions, clips, tool replies, pixels and positions are those of evaluation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from vital_eval.conversation import clips_of
from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.engines.encode import Encoder, Tokenizer
from vital_eval.engines.pixels import seconds_per_patch
from vital_eval.episode import Attempt, Footage
from vital_eval.errors import DataError, ProtocolError
from vital_eval.training.rollouts import Teacher, failed, roll_out

from .frames import TEMPORAL_PATCH, viewing
from .rows import offered, question_of


class VitalSFTDataset(Dataset[dict[str, Any]]):
    """Rows that :func:`~.rows.sft_rows` wrote.

    Args:
        parquet_files: one or several files.
        tokenizer: the checkpoint's.
        config: ``data`` of the run's configuration; ``vital`` in it names protocol, media and checkpoint.
        processor: not used: pixels and positions are computed by the harness, to the same numbers.
        max_samples: use the first so many rows; all if negative.

    Raises:
        ProtocolError: if the rows are to be padded or cut: a cut video no longer fits its pixels.
        DataError: if there is no row.
    """

    def __init__(
        self,
        parquet_files: str | Sequence[str],
        tokenizer: Tokenizer,
        config: Mapping[str, Any],
        processor: object = None,
        max_samples: int = -1,
    ) -> None:
        import pyarrow.parquet as pq

        del processor
        if config["pad_mode"] != "no_padding" or config["truncation"] != "error":
            raise ProtocolError(
                f"pad_mode {config['pad_mode']} with truncation {config['truncation']}",
                "use pad_mode no_padding and truncation error",
            )
        files = [parquet_files] if isinstance(parquet_files, str) else list(parquet_files)
        rows = [row for file in files for row in pq.read_table(Path(file)).to_pylist()]
        self._rows = rows if max_samples < 0 else rows[:max_samples]
        if not self._rows:
            raise DataError(f"no rows in {', '.join(files)}", "write them with the prepare command")
        self._viewing = viewing(config["vital"])
        self._tools = offered(self._viewing.protocol)
        self._max_length = int(config["max_length"])
        checkpoint = open_checkpoint(Path(config["vital"]["checkpoint"]))
        self._tokenizer = tokenizer
        self._encoder = Encoder(
            checkpoint,
            tokenizer,
            int(tokenizer.convert_tokens_to_ids("<|video_pad|>")),
            int(tokenizer.convert_tokens_to_ids("<|im_end|>")),
        )
        geometry = FrameGeometry(self._viewing.spatial_factor, TEMPORAL_PATCH)
        self._info = EngineInfo("teacher", checkpoint.folder.name, checkpoint.fingerprint, geometry)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Encode one row.

        Returns:
            ``input_ids`` of shape (length,), ``position_ids`` (4, length), ``loss_mask`` (length,), 1 on what the model
            is to say, its end of turn included, and ``multi_modal_inputs``.

        Raises:
            DataError: if the solution cannot be played (a call that is refused, say) or is too long.
        """
        row = self._rows[index]
        problem = question_of(row)
        attempt = Attempt(problem.sample, problem.kind, problem.protocol(self._viewing.protocol), self._tools)
        teacher = Teacher(self._info, self._speak, {attempt.episode: row["turns"]})
        (rollout,) = asyncio.run(roll_out([attempt], teacher, self._open))
        if rollout.conversation is None or failed(rollout):
            raise DataError(f"row {row['id']} cannot be played: {rollout.trajectory.error}", "leave it out")
        said = [turn.text for turn in rollout.trajectory.turns]
        if said != row["turns"] or any(not call.succeeded for call in rollout.trajectory.tool_calls):
            raise DataError(f"the calls of row {row['id']} are not carried out as written", "leave it out")
        encoded = self._encoder.encode(rollout.conversation, open_turn=False)
        if len(encoded.ids) > self._max_length:
            raise DataError(
                f"row {row['id']} has {len(encoded.ids)} tokens, more than {self._max_length}", "raise max_length"
            )
        step = [seconds_per_patch(clip, TEMPORAL_PATCH) for clip in clips_of(rollout.conversation)]
        return {
            "input_ids": torch.from_numpy(encoded.ids),
            "position_ids": torch.from_numpy(encoded.positions),
            "loss_mask": torch.from_numpy(encoded.is_sampled).long(),
            "multi_modal_inputs": {
                "pixel_values_videos": torch.from_numpy(encoded.patches),
                "video_grid_thw": torch.tensor(encoded.grids, dtype=torch.long),
                "second_per_grid_ts": torch.tensor(step),
            },
        }

    def _speak(self, text: str) -> tuple[int, ...]:
        return (*self._tokenizer(text, add_special_tokens=False)["input_ids"], self._encoder.end_id)

    async def _open(self, video: str) -> Footage:
        return await asyncio.to_thread(self._viewing.footage, video)
