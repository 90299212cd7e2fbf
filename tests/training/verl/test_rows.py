"""Rows that verl reads: what they ask, what is left out, and that reading one twice gives the same."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from vital_eval.errors import DataError
from vital_eval.training.mtvr.records import CotRecord, Media, RlRecord, ToolCotRecord
from vital_eval.training.verl_plugin.frames import Viewing, viewing
from vital_eval.training.verl_plugin.rows import Fitting, question_of, rl_rows, sft_rows, visual_tokens, write_rows
from vital_eval.training.verl_plugin.stages import STAGES

from .support import make_job

RECORD = RlRecord(
    id="a",
    text="When is it bright?\n",
    media=Media("video", "long.mp4"),
    duration=19.5,
    data_source="./data/vidchapter_cutreward",
    solution=(2.0, 5.0),
)


@pytest.fixture
def view(tmp_path: Path, media: Path) -> Viewing:
    return viewing(make_job(4, tmp_path, media, tmp_path).viewing())


def fitting(view: Viewing, tokens: int) -> Fitting:
    return Fitting(tokens, lambda text: len(text.split()), view.source.probe, view.spatial_factor)


def test_a_row_asks_in_the_protocols_words_and_names_its_video_for_the_tool(view: Viewing) -> None:
    (row,) = rl_rows([RECORD], view.protocol, fitting(view, 3072)).rows
    system, user = row["prompt"]
    assert system["role"] == "system"
    assert "get_video_clip_frame" in system["content"]
    assert user["content"].startswith("<video>The video is 19.50 seconds long.")
    assert user["content"].endswith("Question:\nWhen is it bright?\n")
    assert row["videos"] == [{"video": "long.mp4"}]
    assert json.loads(row["reward_model"]["ground_truth"]) == [2.0, 5.0]
    tools = row["extra_info"]["tools_kwargs"]
    assert tools == {"get_video_clip_frame": {"create_kwargs": {"video": "long.mp4"}}}
    (plain,) = rl_rows([RECORD], STAGES[2].protocol(), fitting(view, 3072)).rows
    assert "tools_kwargs" not in plain["extra_info"]
    assert "get_video_clip_frame" not in plain["prompt"][0]["content"]


def test_a_missing_duration_is_that_of_the_file(view: Viewing) -> None:
    unstated = dataclasses.replace(RECORD, duration=None)
    (row,) = rl_rows([unstated], view.protocol, fitting(view, 3072)).rows
    assert "The video is 20.00 seconds long." in row["prompt"][1]["content"]


def test_visual_tokens_are_those_of_the_decoded_clip(view: Viewing) -> None:
    for video in ("long.mp4", "short.mp4"):
        clip = view.whole(video)
        expected = -(-clip.count // 2) * (clip.frames.shape[1] // 28) * (clip.frames.shape[2] // 28)
        assert visual_tokens(view.source.probe(video), view.protocol.view, 28) == expected


def test_too_long_prompts_are_left_out_and_named(view: Viewing) -> None:
    wordy = dataclasses.replace(RECORD, id="b", text="word " * 500)
    found = rl_rows([RECORD, wordy], view.protocol, fitting(view, 400))
    assert [row["extra_info"]["id"] for row in found.rows] == ["a"]
    assert found.too_long == ("b",)
    with pytest.raises(DataError, match="none of 1 prompts"):
        rl_rows([wordy], view.protocol, fitting(view, 400))


@pytest.mark.parametrize("mark", ["<video>", "<image>", "<|video_pad|>", "<|im_end|>"])
def test_marks_in_a_question_are_refused(view: Viewing, mark: str) -> None:
    with pytest.raises(DataError, match="not read as text"):
        rl_rows([dataclasses.replace(RECORD, text=f"When {mark}?")], view.protocol, fitting(view, 3072))


def test_images_are_refused(view: Viewing) -> None:
    picture = dataclasses.replace(RECORD, media=Media("image", "a.png"))
    with pytest.raises(DataError, match="image"):
        rl_rows([picture], view.protocol, fitting(view, 3072))
    with pytest.raises(DataError, match="image"):
        sft_rows([CotRecord(id="a", text="What?", media=Media("image", "a.png"), solution="<answer>B</answer>")])


def test_supervised_rows_ask_as_reinforcement_asks() -> None:
    call = ToolCotRecord(
        id="a",
        text="When?",
        media=Media("video", "long.mp4"),
        duration=20.0,
        data_source="./data/vidchapter_cutreward",
        turns=("<think>a</think><tool_call>{}</tool_call>", "<think>b</think><answer>2 to 5</answer>"),
        tool_params=(1.0, 6.0),
        answer=(2.0, 5.0),
    )
    cot = CotRecord(
        id="b",
        text="When?",
        media=Media("video", "long.mp4"),
        data_source="charades",
        solution="<think>b</think><answer>2 to 5</answer>",
    )
    open_ = dataclasses.replace(cot, id="c", data_source=None)
    rows = sft_rows([call, cot, open_])
    assert [row["kind"] for row in rows] == ["span", "span", "open"]
    assert [len(row["turns"]) for row in rows] == [2, 1, 1]
    assert question_of(rows[1]).sample.duration is None
    with pytest.raises(DataError, match="not a span"):
        sft_rows([dataclasses.replace(cot, solution="<think>b</think><answer>later</answer>")])


def test_verl_reads_the_file_and_a_second_reading_is_equal(
    tmp_path: Path, checkpoint_or_skip: Path, media: Path
) -> None:
    from omegaconf import OmegaConf
    from transformers import AutoTokenizer
    from verl.utils.dataset.rl_dataset import get_dataset_class
    from verl.utils.tokenizer import hf_processor

    job = make_job(4, checkpoint_or_skip, media, tmp_path)
    view = viewing(job.viewing())
    records = [RECORD, dataclasses.replace(RECORD, id="b", media=Media("video", "short.mp4"), duration=8.0)]
    write_rows(job.train[0], rl_rows(records, view.protocol, fitting(view, 3072)).rows)
    module = "pkg://vital_eval.training.verl_plugin.rl_dataset"
    config = OmegaConf.create(
        {
            "custom_cls": {"path": module, "name": "VitalRLDataset"},
            "filter_overlong_prompts": False,
            "cache_dir": str(tmp_path / "cache"),
            "vital": job.viewing(),
        }
    )
    tokenizer, processor = AutoTokenizer.from_pretrained(checkpoint_or_skip), hf_processor(str(checkpoint_or_skip))
    dataset = get_dataset_class(config)([str(job.train[0])], tokenizer, config, processor)
    first, again = dataset[1], dataset[1]
    assert first["raw_prompt"] == again["raw_prompt"]
    assert first["raw_prompt"][1]["content"][0] == {"type": "video", "video": "short.mp4"}
    assert first["tools_kwargs"]["get_video_clip_frame"]["create_kwargs"] == {"video": "short.mp4"}

    async def read() -> Any:
        return await dataset.process_multi_modal_info(first["raw_prompt"], 14, config)

    images, videos, sounds = asyncio.run(read())
    clip = view.whole("short.mp4")
    assert images is None
    assert sounds is None
    assert videos[0][0].permute(0, 2, 3, 1).numpy().tolist() == clip.frames.tolist()
