"""The supervised data set: masks, positions and pixels, in verl's collator and in the model's forward."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from vital_eval.errors import DataError, ProtocolError
from vital_eval.training.mtvr.records import Media, ToolCotRecord
from vital_eval.training.verl_plugin.rows import sft_rows, write_rows
from vital_eval.training.verl_plugin.sft_dataset import VitalSFTDataset

from .support import make_job

CALL = {"name": "get_video_clip_frame", "arguments": {"start_time": 2.0, "end_time": 5.0}}
RECORD = ToolCotRecord(
    id="a",
    text="When is it bright?",
    media=Media("video", "long.mp4"),
    duration=20.0,
    data_source="./data/vidchapter_cutreward",
    turns=(
        f"<think>closer</think><tool_call>{json.dumps(CALL)}</tool_call>",
        "<think>seen</think><answer>2.00 to 5.00</answer>",
    ),
    tool_params=(2.0, 5.0),
    answer=(2.0, 5.0),
)


@dataclasses.dataclass
class Maker:
    """Makes data sets of stage 3."""

    folder: Path
    checkpoint: Path
    media: Path

    def __call__(self, *records: ToolCotRecord, **changes: Any) -> VitalSFTDataset:
        """Write the records and open them."""
        job = make_job(3, self.checkpoint, self.media, self.folder)
        write_rows(job.train[0], sft_rows(records))
        config = {"pad_mode": "no_padding", "truncation": "error", "max_length": 4096} | changes
        vital = {**job.viewing(), "checkpoint": str(self.checkpoint)}
        tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)
        return VitalSFTDataset([str(job.train[0])], tokenizer, {**config, "vital": vital})


@pytest.fixture
def make(tmp_path: Path, plain_checkpoint: Path, media: Path) -> Maker:
    return Maker(tmp_path, plain_checkpoint, media)


def test_both_turns_are_trained_and_nothing_else(make: Maker) -> None:
    dataset = make(RECORD)
    item = dataset[0]
    tokenizer = AutoTokenizer.from_pretrained(make.checkpoint)
    trained = item["input_ids"][item["loss_mask"].bool()]
    assert tokenizer.decode(trained) == "<|im_end|>".join([*RECORD.turns, ""])
    pad = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert pad not in trained
    inputs = item["multi_modal_inputs"]
    assert int((item["input_ids"] == pad).sum()) == int(inputs["video_grid_thw"].prod(dim=1).sum()) // 4
    # verl's own data set gives 0.083 for any video.
    assert inputs["second_per_grid_ts"].tolist() == pytest.approx([7.9, 6 / 7])
    assert item["position_ids"].shape == (4, len(item["input_ids"]))
    assert all(torch.equal(item[key], dataset[0][key]) for key in ("input_ids", "position_ids", "loss_mask"))


def test_the_loss_depends_on_the_videos(make: Maker) -> None:
    item = make(RECORD)[0]
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(make.checkpoint).eval()

    def loss(pixels: torch.Tensor) -> float:
        with torch.no_grad():
            logits = model(
                input_ids=item["input_ids"][None],
                position_ids=item["position_ids"][:, None],
                pixel_values_videos=pixels,
                video_grid_thw=item["multi_modal_inputs"]["video_grid_thw"],
            ).logits[0, :-1]
        kept = item["loss_mask"][1:].bool()
        return float(torch.nn.functional.cross_entropy(logits[kept], item["input_ids"][1:][kept]))

    pixels = item["multi_modal_inputs"]["pixel_values_videos"]
    assert loss(pixels) != pytest.approx(loss(torch.zeros_like(pixels)), abs=1e-4)
    assert loss(pixels) == loss(pixels.clone())


def test_verls_collator_takes_two_rows_of_unlike_length(make: Maker) -> None:
    pytest.importorskip("verl", reason="verl is installed in an environment of its own (tox -e verl)")
    from verl.utils.dataset.dataset_utils import DatasetPadMode, SFTTensorCollator
    from verl.utils.model import extract_multi_modal_inputs

    short = dataclasses.replace(RECORD, id="b", media=Media("video", "short.mp4"), duration=8.0)
    dataset = make(RECORD, short)
    items = [dataset[0], dataset[1]]
    assert len(items[0]["input_ids"]) != len(items[1]["input_ids"])
    batch = SFTTensorCollator(DatasetPadMode.NO_PADDING)(items)
    assert [len(row) for row in batch["input_ids"].unbind()] == [len(item["input_ids"]) for item in items]
    inputs = extract_multi_modal_inputs(list(batch["multi_modal_inputs"]))
    assert inputs["video_grid_thw"].shape == (4, 3)
    assert len(inputs["second_per_grid_ts"]) == 4


def test_a_call_that_is_refused_is_an_error_and_not_a_lesson(make: Maker) -> None:
    call = {**CALL, "arguments": {"start_time": 5, "end_time": 2}}
    wrong = (f"<think>closer</think><tool_call>{json.dumps(call)}</tool_call>", RECORD.turns[1])
    with pytest.raises(DataError, match="not carried out"):
        make(dataclasses.replace(RECORD, turns=wrong))[0]


def test_a_missing_video_and_a_row_that_is_too_long_are_errors(make: Maker) -> None:
    with pytest.raises(DataError, match=r"no video at .*gone\.mp4"):
        make(dataclasses.replace(RECORD, media=Media("video", "gone.mp4")))[0]
    with pytest.raises(DataError, match="more than 50"):
        make(RECORD, max_length=50)[0]
    with pytest.raises(ProtocolError, match="no_padding"):
        make(RECORD, truncation="right")
