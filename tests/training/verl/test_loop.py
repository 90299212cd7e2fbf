"""The agent loop in verl's own worker against a scripted server: what the model is shown, what is trained, parity."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("verl", reason="verl is installed in an environment of its own (tox -e verl)")

import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopWorker
from verl.utils.tokenizer import hf_processor

from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.engines.encode import Encoded, Encoder
from vital_eval.episode import Attempt, Footage
from vital_eval.training.mtvr.records import Media, RlRecord
from vital_eval.training.problems import problems_of_records
from vital_eval.training.rollouts import Teacher, roll_out
from vital_eval.training.verl_plugin.agent_loop import SplitRewardOutput
from vital_eval.training.verl_plugin.frames import Viewing, viewing
from vital_eval.training.verl_plugin.launch import composed
from vital_eval.training.verl_plugin.rl_dataset import VitalRLDataset
from vital_eval.training.verl_plugin.rows import Fitting, offered, rl_rows, write_rows

from .support import ScriptedServer, make_job


def call(start: object, end: object, name: str = "get_video_clip_frame") -> str:
    body = json.dumps({"name": name, "arguments": {"start_time": start, "end_time": end}})
    return f"<think>closer</think><tool_call>{body}</tool_call>"


#: The template of Qwen2.5-VL-7B-Instruct, which has no tools block and writes every role as it is named.
QWEN_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ANSWER = "<think>seen</think><answer>2.00 to 5.00</answer>"
RECORD = RlRecord(
    id="a",
    text="When is it bright?",
    media=Media("video", "long.mp4"),
    duration=20.0,
    data_source="./data/charades",
    solution=(2.0, 5.0),
)


@dataclass
class Played:
    """A rollout of verl's, and the same turns as an episode of the harness."""

    worker: AgentLoopWorker
    server: ScriptedServer
    output: Any
    harness: Encoded
    view: Viewing

    @property
    def ids(self) -> list[int]:
        """Return prompt and response without padding."""
        return self._real(self.output.input_ids[0])

    def _real(self, row: torch.Tensor) -> list[int]:
        return row[self.output.attention_mask[0].bool()].tolist()

    @property
    def trained(self) -> list[int]:
        """Return 1 on every token of ``ids`` that is trained."""
        width = self.output.prompt_ids.shape[1]
        mask = torch.cat([torch.zeros(1, width, dtype=torch.long), self.output.response_mask], dim=1)
        return self._real(mask[0])

    @property
    def positions(self) -> np.ndarray:
        """Return the positions of ``ids``, shape (4, tokens)."""
        return self.output.position_ids[0][:, self.output.attention_mask[0].bool()].numpy()


@dataclass
class Stage:
    """Plays a stage in a folder of its own."""

    folder: Path
    checkpoint: Path
    media: Path
    number: int = 4

    def __call__(self, turns: list[str], agent: str = "vital", extra: dict[str, str] | None = None) -> Played:
        """Play the turns; see :class:`Played`."""
        job = make_job(self.number, self.checkpoint, self.media, self.folder, extra)
        view = viewing(job.viewing())
        rows = rl_rows([RECORD], view.protocol, Fitting(3072, len, view.source.probe, 28)).rows
        write_rows(job.train[0], rows)
        config = composed(job)
        server = ScriptedServer(AutoTokenizer.from_pretrained(self.checkpoint), turns)
        worker = AgentLoopWorker(config, server)
        row = VitalRLDataset([str(job.train[0])], worker.tokenizer, config.data, worker.processor)[0]
        row["agent_name"] = agent
        trajectory = {"step": 0, "sample_index": 0, "rollout_n": 0, "validate": False}
        output = asyncio.run(worker._run_agent_loop({"temperature": 1.0}, trajectory, **row))
        return Played(worker, server, output, self._harness(view, server, turns), view)

    def _harness(self, view: Viewing, server: ScriptedServer, turns: list[str]) -> Encoded:
        tokenizer, problem = server.tokenizer, problems_of_records([RECORD])[0]
        checkpoint = open_checkpoint(self.checkpoint)
        attempt = Attempt(problem.sample, problem.kind, problem.protocol(view.protocol), offered(view.protocol))

        def speak(text: str) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

        async def open_video(video: str) -> Footage:
            return view.footage(video)

        info = EngineInfo("teacher", "", "", FrameGeometry(28, 2))
        (rollout,) = asyncio.run(roll_out([attempt], Teacher(info, speak, {attempt.episode: turns}), open_video))
        assert rollout.conversation is not None
        pad, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|video_pad|>", "<|im_end|>"))
        return Encoder(checkpoint, tokenizer, pad, end).encode(rollout.conversation, open_turn=False)


@pytest.fixture
def stage_4(tmp_path: Path, checkpoint: Path, media: Path) -> Stage:
    return Stage(tmp_path, checkpoint, media)


def test_the_second_turn_sees_both_videos_and_only_the_model_is_trained(stage_4: Stage) -> None:
    played = stage_4([call(2, 5), ANSWER])
    first, second = played.server.asked
    assert [len(asked["video_data"]) for asked in (first, second)] == [1, 2]
    clip, metadata = second["video_data"][1]
    assert clip.dtype == torch.uint8
    assert clip.shape[0] == 8
    assert metadata["fps"] == pytest.approx(7 / 3)
    assert second["prompt_ids"][: len(first["prompt_ids"])] == first["prompt_ids"]
    trained = [id_ for id_, kept in zip(played.ids, played.trained, strict=True) if kept]
    assert played.server.tokenizer.decode(trained) == call(2, 5) + ANSWER
    sampled = played.output.response_mask[0].bool()
    assert (played.output.response_logprobs[0] != 0).equal(sampled)
    assert played.output.extra_fields["assistant_turns"] == [call(2, 5), ANSWER]
    assert played.output.extra_fields["tool_rewards"] == [1.0]


@pytest.mark.parametrize(
    "turns",
    [
        [call(2, 5), ANSWER],
        [call(2, 5) + "<|im_end|>", ANSWER],
        [call(15, 21.5), call(0, 3), ANSWER],
        [call(5, 2), ANSWER],
        [call(2, 5, name="look"), ANSWER],
        ["<think>a</think><tool_call>{not json}</tool_call>", ANSWER],
        ["<think><tool_call>{}</tool_call></think><answer>2 to 5</answer>"],
        [ANSWER],
    ],
    ids=[
        "clip",
        "clip, turn ended by the model",
        "two clips, one clamped",
        "reversed",
        "unknown tool",
        "bad json",
        "call in a thought",
        "answer",
    ],
)
def test_verl_builds_token_for_token_what_evaluation_builds(stage_4: Stage, turns: list[str]) -> None:
    played = stage_4(turns)
    assert played.ids == played.harness.ids.tolist()
    assert played.trained == played.harness.is_sampled.astype(int).tolist()
    assert np.array_equal(played.positions, played.harness.positions)
    inputs = played.output.multi_modal_inputs
    assert torch.equal(inputs["video_grid_thw"], torch.tensor(played.harness.grids))
    assert inputs["pixel_values_videos"].numpy() == pytest.approx(played.harness.patches, abs=1e-5)


def test_so_it_does_under_the_published_checkpoints_own_template(tmp_path: Path, stage_4: Stage) -> None:
    copy = shutil.copytree(stage_4.checkpoint, tmp_path / "published")
    (copy / "chat_template.jinja").write_text(QWEN_TEMPLATE, encoding="utf-8")
    played = replace(stage_4, checkpoint=copy)([call(2, 5), call(9, 8), ANSWER])
    assert played.ids == played.harness.ids.tolist()
    assert played.trained == played.harness.is_sampled.astype(int).tolist()
    assert np.array_equal(played.positions, played.harness.positions)


def test_without_tools_a_rollout_is_one_turn(stage_4: Stage) -> None:
    for turn in (ANSWER, call(2, 5)):
        played = replace(stage_4, number=2)([turn])
        assert played.ids == played.harness.ids.tolist()
        assert played.trained == played.harness.is_sampled.astype(int).tolist()
        assert played.server.asked[0]["sampling_params"]["stop"] == ["</answer>"]
        assert played.output.extra_fields["tool_rewards"] == []


def test_controls_the_positions_of_transformers_and_of_verl_without_seconds_differ(
    stage_4: Stage, checkpoint: Path
) -> None:
    played = stage_4([call(2, 5), ANSWER])
    inputs = played.output.multi_modal_inputs
    seconds = inputs["second_per_grid_ts"].tolist()
    assert seconds == pytest.approx([7.9, 6 / 7])
    stock = hf_processor(str(checkpoint))
    ids = torch.tensor([played.ids])
    kinds = (ids == stock.video_token_id).int() * 2
    grids = {"video_grid_thw": inputs["video_grid_thw"], "mm_token_type_ids": kinds}
    mask = torch.ones_like(ids)
    right = played.harness.positions[1:]
    for given in ({}, {"second_per_grid_ts": inputs["second_per_grid_ts"]}):
        found, _ = stock.get_rope_index(input_ids=ids, attention_mask=mask, **grids, **given)
        assert not np.array_equal(found[:, 0].numpy(), right)
    # Even given the seconds, transformers shows all of the second clip at one time: 0.86 s are cut to 0.
    pads = np.flatnonzero(played.harness.is_visual)[-1]
    start = np.flatnonzero(~played.harness.is_visual[:pads])[-1] + 1
    assert len(set(found[0, 0, start : pads + 1].tolist())) == 1
    assert len(set(right[0, start : pads + 1].tolist())) == 4


def test_verls_own_loop_refuses_the_clip(stage_4: Stage) -> None:
    with pytest.raises(NotImplementedError, match="video"):
        stage_4([call(2, 5), ANSWER], "tool_agent", {"actor_rollout_ref.rollout.multi_turn.format": "hermes"})


def test_turns_stop_at_tags_have_their_own_limit_and_no_visual_tokens(stage_4: Stage) -> None:
    played = stage_4([call(2, 5), ANSWER])
    sampling = played.server.asked[1]["sampling_params"]
    assert sampling["stop"] == ["</tool_call>", "</answer>"]
    assert sampling["include_stop_str_in_output"] is True
    assert sampling["max_tokens"] == 1024
    pad = played.server.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert sampling["logit_bias"][pad] == -100


def test_the_last_turn_is_never_a_call(stage_4: Stage) -> None:
    played = stage_4([call(2, 5), call(6, 9), call(1, 4)])
    assert [len(asked["video_data"]) for asked in played.server.asked] == [1, 2, 3]
    assert played.output.extra_fields["tool_rewards"] == [1.0, 1.0]


def test_a_clip_that_does_not_fit_any_more_ends_the_rollout_whole(stage_4: Stage) -> None:
    spoken = call(2, 5)
    tokens = AutoTokenizer.from_pretrained(stage_4.checkpoint)(spoken, add_special_tokens=False)["input_ids"]
    played = stage_4([spoken, ANSWER], extra={"data.max_response_length": str(len(tokens) + 6)})
    assert len(played.server.asked) == 1
    assert played.output.multi_modal_inputs["video_grid_thw"].shape[0] == 1
    trained = [id_ for id_, kept in zip(played.ids, played.trained, strict=True) if kept]
    assert trained == tokens


def test_the_training_forward_sees_the_clip_of_the_tool(stage_4: Stage, checkpoint: Path) -> None:
    played = stage_4([call(2, 5), ANSWER])
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint).eval()
    inputs = dict(played.output.multi_modal_inputs)
    real = played.output.attention_mask.bool()[0]
    ids = played.output.input_ids[:, real]
    positions = played.output.position_ids[:, :, real].transpose(0, 1)

    def logits(changed: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = model(input_ids=ids, position_ids=positions, **changed).logits[0]
        return found

    before = logits(inputs)
    first = int(inputs["video_grid_thw"][0].prod())
    pixels = inputs["pixel_values_videos"].clone()
    pixels[first:] = pixels[first:].flip(0) * -1
    after = logits(inputs | {"pixel_values_videos": pixels})
    changed = (before - after).abs().amax(dim=-1) > 1e-5
    start = int(played.harness.is_visual.nonzero()[0][int(inputs["video_grid_thw"][0].prod()) // 4])
    assert not changed[:start].any()
    assert changed[start + 1 :].float().mean() > 0.5


def test_the_tasks_part_of_a_reward_travels_on_the_last_token() -> None:
    output = SplitRewardOutput(
        prompt_ids=[1],
        response_ids=[1, 2, 3],
        response_mask=[1, 1, 1],
        metrics=AgentLoopMetrics(),
        reward_score=1.75,
        extra_fields={"reward_extra_info": {"score": 1.75, "task": 0.25}},
    )
    assert output.as_dict()["rm_scores"].tolist() == [1.5, 0.0, 0.25]
    output.extra_fields = {}
    assert output.as_dict()["rm_scores"].tolist() == [0.0, 0.0, 1.75]
