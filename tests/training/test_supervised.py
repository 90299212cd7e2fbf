"""Supervised training: what is said is trained and nothing else, the video is seen, and a killed stage goes on."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.training.lessons import ANSWER, call, cot, play, shaded, showing, stage, tool_cot, train
from tests.training.nano_policy import footage, nano_engine, problem, protocol
from vital_eval.conversation import AssistantTurn, Conversation, Message, TextPart, VideoPart
from vital_eval.engines.hf import HFEngine
from vital_eval.episode import Footage
from vital_eval.errors import DataError, MediaError, ProtocolError, VitalError
from vital_eval.footage import Videos
from vital_eval.prompts import render_user
from vital_eval.protocol import Mode
from vital_eval.training.collate import collate, micro_batches, token_losses
from vital_eval.training.dgrpo import attempt_of
from vital_eval.training.mtvr.files import form_of, read_records
from vital_eval.training.mtvr.records import CotRecord, Form, Media, ToolCotRecord
from vital_eval.training.nano_mtvr import write_nano_mtvr
from vital_eval.training.sft import Stage, draw, learning_rate, train_sft
from vital_eval.training.state import cut_log, restore_state, save_state
from vital_eval.training.supervised import Drop, Lesson


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    with nano_engine() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def mixed(engine: HFEngine) -> tuple[Lesson, ...]:
    """Lessons of unlike lengths."""
    long = "<think> red circle 3 to 7, blue square 9 to 12</think><answer>3 to 7</answer>"
    return play(engine, [cot("a"), tool_cot("b"), cot("c", long), tool_cot("d", last=long), cot("e")]).kept


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def gradients(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


# Lessons


def test_what_is_trained_is_both_turns_with_their_ends_and_nothing_else(engine: HFEngine) -> None:
    (lesson,) = play(engine, [tool_cot("t", last=ANSWER + "\n")]).kept
    encoded = engine._encoder.encode(lesson.conversation, open_turn=False)
    said = engine._tokenizer.decode(encoded.ids[encoded.is_sampled], clean_up_tokenization_spaces=False)
    assert said == f"{call()}<|im_end|>{ANSWER}<|im_end|>"
    assert lesson.trained_tokens == encoded.is_sampled.sum()
    batch = collate([encoded], 0)
    trained = batch.ids[batch.targets]
    assert int((trained == engine._encoder.end_id).sum()) == 2
    assert int((trained == engine._encoder.video_id).sum()) == 0
    # The harness's messages end turns too, and theirs are not trained.
    assert int((batch.ids == engine._encoder.end_id).sum()) == 5
    # Both views are there: 24 and 12 frames, a token a pair.
    assert int(encoded.is_visual.sum()) == 12 + 6
    with torch.no_grad():
        assert len(token_losses(engine._model, batch)) == lesson.trained_tokens


def test_a_whole_question_gets_no_second_wording(engine: HFEngine) -> None:
    (lesson,) = play(engine, [cot("a", text="When is it red?\nSay it.")], mode=Mode.COT).kept
    user = lesson.conversation[1]
    assert isinstance(user, Message)
    text = "".join(part.text for part in user.parts if isinstance(part, TextPart))
    assert "When is it red?\nSay it." in text
    assert "When:" not in text
    # The control: a benchmark's query does get the harness's wording.
    attempt = attempt_of(problem("v"), protocol(Mode.COT), {}, 0)
    assert "When: red circle" in render_user(attempt.protocol.prompt, attempt.sample, attempt.kind, 32.0, 0)


def test_what_cannot_be_played_is_dropped_by_reason_and_never_replaced(engine: HFEngine) -> None:
    async def open_video(video: str) -> Footage:
        if video.startswith("broken"):
            raise MediaError("unreadable", f"{video} is broken")
        return footage()

    other_tool = call().replace("get_video_clip_frame", "look_again")
    records = [
        cot("image", media=Media("image", "a.png")),
        cot("good-1"),
        cot("broken-1"),
        tool_cot("broken-2"),
        tool_cot("reversed", call(8, 2), tool_params=(8.0, 2.0)),
        tool_cot("unknown", other_tool),
        tool_cot("elsewhere", call(2, 9)),
        tool_cot("good-2", call(2.01, 8)),
        cot("no-answer", "<think> hm</think>"),
        cot("calls", call()),
        cot("empty", "<think> hm</think><answer> </answer>"),
        cot("pads", text="<|video_pad|> red"),
        cot("good-3", "\n<think> a</think>\n<answer>3 to 7</answer>\n"),
    ]
    lessons = play(engine, records, open_video)
    assert [lesson.id for lesson in lessons.kept] == ["good-1", "good-2", "good-3"]
    assert lessons.dropped == {
        Drop.SHOWS_IMAGE: 1,
        Drop.BAD_VIDEO: 2,
        Drop.FAILED_CALL: 2,
        Drop.OTHER_CALL: 1,
        Drop.WRONG_FORM: 3,
        Drop.CONTROL_TOKEN: 1,
    }
    assert lessons.total == len(records)
    assert lessons.examples[Drop.OTHER_CALL] == ("elsewhere: end_time 9 is not the 8.0 of tool_params",)
    assert lessons.summary().startswith("3 of 13 records kept; shows-image 1 (such as image: ")
    assert lessons.require_share(0.2) is lessons
    with pytest.raises(DataError, match=r"3 of 13 records kept.*at least 50% must be left"):
        lessons.require_share(0.5)


def test_a_filter_that_drops_everything_is_an_error(engine: HFEngine) -> None:
    with pytest.raises(DataError, match=r"nothing to train on: 0 of 1 records kept; wrong-form 1 \(such as a: "):
        play(engine, [cot("a", "red")])
    with pytest.raises(DataError, match="nothing to train on: 0 of 0"):
        play(engine, [])
    lessons = play(engine, [cot("a"), tool_cot("b"), cot("c", "red")])
    lengths = [len(engine._encoder.encode(lesson.conversation, open_turn=False).ids) for lesson in lessons.kept]
    assert lengths[0] < lengths[1]
    records = [cot("a"), tool_cot("b"), cot("c", "red")]
    assert [lesson.length for lesson in lessons.kept] == lengths
    whole = play(engine, records, max_tokens=lengths[1])
    assert ([lesson.id for lesson in whole.kept], whole.dropped) == (["a", "b"], {Drop.WRONG_FORM: 1})
    short = play(engine, records, max_tokens=lengths[1] - 1)
    assert [lesson.id for lesson in short.kept] == ["a"]
    assert short.dropped == {Drop.WRONG_FORM: 1, Drop.TOO_LONG: 1}
    assert short.examples[Drop.TOO_LONG] == (f"b: {lengths[1]} tokens",)
    assert short.total == 3
    with pytest.raises(DataError, match=r"0 of 3 records kept.*too-long 2"):
        play(engine, records, max_tokens=lengths[0] - 1)


def test_contradictions_are_refused(engine: HFEngine, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record a occurs twice"):
        play(engine, [cot("a", "red"), cot("a")])
    with pytest.raises(DataError, match="data_source 'riddles'"):
        play(engine, [cot("a", data_source="riddles")])
    with pytest.raises(ProtocolError, match="record t calls a tool in mode cot"):
        play(engine, [tool_cot("t")], mode=Mode.COT)
    with pytest.raises(VitalError, match="has no lessons"):
        train(engine, (), tmp_path)
    with pytest.raises(ValueError, match="impossible stage"):
        stage(batch=0)
    with pytest.raises(ValueError, match="dtype 'half'"):
        stage(dtype="half")


@pytest.mark.parametrize(
    ("answer", "form"), [("B", "letter"), ("12", "number"), ("a red circle", "answer"), ("(C)", "letter")]
)
def test_without_a_data_source_the_answer_tells_what_is_asked(engine: HFEngine, answer: str, form: str) -> None:
    solution = f"<think> hm</think><answer>{answer}</answer>"
    (bare,) = play(engine, [cot("a", solution, data_source=None)]).kept
    source = {"letter": "video_r1/multiple_choice", "number": "video_r1/numerical", "answer": "video_r1/free_form"}
    (named,) = play(engine, [cot("a", solution, data_source=source[form])]).kept
    prompts = [engine._encoder.encode(lesson.conversation, open_turn=False).ids.tolist() for lesson in (bare, named)]
    assert prompts[0] == prompts[1]


def test_records_with_videos_become_lessons(engine: HFEngine, tmp_path: Path) -> None:
    write_nano_mtvr(tmp_path, seed=3, per_source=1)
    records = [
        record
        for form in (Form.COT, Form.TOOL_COT)
        for path in sorted((tmp_path / form).glob("*.json"))
        for record in read_records(path, form_of(path))
        if isinstance(record, CotRecord | ToolCotRecord)
    ]
    videos = Videos(tmp_path, "pyav", 0, 60.0, 32)
    lessons = play(engine, records, videos.open)
    assert [lesson.id for lesson in lessons.kept] == [record.id for record in records]
    assert not lessons.dropped
    with torch.no_grad():
        items = [engine._encoder.encode(lesson.conversation, open_turn=False) for lesson in lessons.kept]
        batch = collate(items, 0)
        loss = float(token_losses(engine._model, batch).mean())
        unseen = float(token_losses(engine._model, dataclasses.replace(batch, patches=-batch.patches)).mean())
    # vital-nano knows this world: the right frames help it to say what the records say.
    assert loss < unseen - 0.1


def test_modes_without_a_thought_are_taught_the_answer_alone(engine: HFEngine) -> None:
    turns = {}
    for mode in (Mode.DIRECT, Mode.BLIND, Mode.COT):
        (lesson,) = play(engine, [cot("a")], mode=mode).kept
        (turn,) = (entry for entry in lesson.conversation if isinstance(entry, AssistantTurn))
        turns[mode] = turn.generation.text
    alone = "<answer>3 to 7</answer>"
    assert turns == {Mode.DIRECT: alone, Mode.BLIND: alone, Mode.COT: ANSWER}


# The loss


def first_loss(engine: HFEngine, lessons: tuple[Lesson, ...], folder: Path, name: str, **fields: object) -> float:
    _, (metrics,) = train(engine, lessons, folder, name=name, steps=1, batch=len(lessons), **fields)
    return metrics.loss


def test_the_loss_depends_on_the_video_and_on_the_tools_frames(engine: HFEngine, tmp_path: Path) -> None:
    views = {"same": (90, 90), "view": (220, 90), "clip": (90, 220)}
    seen = {name: first_loss(engine, shaded(engine, *view), tmp_path, name) for name, view in views.items()}
    assert abs(seen["view"] - seen["same"]) > 1e-3
    assert abs(seen["clip"] - seen["same"]) > 1e-3
    # The control: the released behaviour, in which nothing that is shown matters.
    blind = {
        name: first_loss(engine, shaded(engine, *view), tmp_path, f"{name}-blind", without_pixels=True)
        for name, view in views.items()
    }
    assert blind["same"] == blind["view"] == blind["clip"]
    assert abs(blind["same"] - seen["same"]) > 1e-3


def test_wrong_times_move_the_loss(engine: HFEngine, tmp_path: Path) -> None:
    (lesson,) = shaded(engine, 90, 90)

    def slowed(conversation: Conversation, factor: float) -> Conversation:
        return tuple(
            dataclasses.replace(entry, parts=tuple(slow(part, factor) for part in entry.parts))
            if isinstance(entry, Message)
            else entry
            for entry in conversation
        )

    def slow(part: TextPart | VideoPart, factor: float) -> TextPart | VideoPart:
        if isinstance(part, TextPart):
            return part
        times = tuple(time * factor for time in part.clip.timestamps)
        return VideoPart(dataclasses.replace(part.clip, timestamps=times))

    losses = [
        first_loss(engine, (showing(lesson, slowed(lesson.conversation, factor)),), tmp_path, f"times-{factor}")
        for factor in (1.0, 1.5)
    ]
    assert losses[0] == first_loss(engine, (lesson,), tmp_path, "times")
    assert abs(losses[1] - losses[0]) > 1e-3


def test_micro_batches_change_nothing(engine: HFEngine, mixed: tuple[Lesson, ...], tmp_path: Path) -> None:
    ways = {
        "whole": {"micro_batch": 8},
        "single": {"micro_batch": 1},
        "pairs": {"micro_batch": 2},
        "budget": {"micro_tokens": 700},
        "checkpointed": {"gradient_checkpointing": True},
    }
    found = {
        name: train(engine, mixed, tmp_path, name=name, steps=1, batch=5, clip_norm=1e9, **fields)
        for name, fields in ways.items()
    }
    whole, (expected,) = found["whole"]
    for model, (metrics,) in found.values():
        assert metrics.loss == pytest.approx(expected.loss, rel=1e-5)
        assert metrics.gradient == pytest.approx(expected.gradient, rel=1e-4)
        assert metrics.tokens == expected.tokens == sum(lesson.trained_tokens for lesson in mixed)
        assert torch.allclose(gradients(model), gradients(whole), atol=1e-5 * float(gradients(whole).norm()))
    # The control: a mean of lessons' means is another number.
    alone = [first_loss(engine, (lesson,), tmp_path, f"alone-{lesson.id}") for lesson in mixed]
    assert abs(float(np.mean(alone)) - expected.loss) > 1e-3


def test_bfloat16_is_for_the_forward_pass_alone(engine: HFEngine, mixed: tuple[Lesson, ...], tmp_path: Path) -> None:
    model, (half,) = train(engine, mixed[:2], tmp_path, name="half", steps=1, batch=2, dtype="bfloat16")
    _, (full,) = train(engine, mixed[:2], tmp_path, name="full", steps=1, batch=2)
    assert half.loss != full.loss
    assert half.loss == pytest.approx(full.loss, rel=0.05)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    rounded = copy.deepcopy(engine._model).to(torch.bfloat16)
    with pytest.raises(VitalError, match="are not float32"):
        train_sft(rounded, engine._encoder, mixed, stage(), tmp_path, 0, lambda line: None)


def test_micro_batches_hold_every_place_once_within_the_budget() -> None:
    lengths = [30, 10, 50, 10, 20, 200]
    groups = micro_batches(lengths, most=3, tokens=60)
    assert sorted(place for group in groups for place in group) == list(range(6))
    assert groups[-1] == (5,)
    assert all(len(group) <= 3 and len(group) * max(lengths[p] for p in group) <= 60 for group in groups[:-1])
    assert micro_batches(lengths, most=8, tokens=10**6) == ((1, 3, 4, 0, 2, 5),)


def test_every_lesson_is_seen_once_an_epoch_in_an_order_of_its_own() -> None:
    plan = stage(epochs=3, batch=4)
    assert plan.length(10) == 8
    places = [place for step in range(8) for place in draw(10, plan, step, seed=1)]
    assert Counter(places) == dict.fromkeys(range(10), 3)
    assert all(sorted(places[start : start + 10]) == list(range(10)) for start in (0, 10, 20))
    assert places[:10] != places[10:20]
    assert places != [place for step in range(8) for place in draw(10, plan, step, seed=2)]
    assert [len(draw(3, stage(steps=5, batch=4), step, seed=1)) for step in range(5)] == [4] * 5


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    plan = Stage("s", steps=100, rate=1.0, warmup=10, floor=0.0)
    rates = [learning_rate(plan, step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[100] == pytest.approx(0.0)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_training_lowers_the_loss(engine: HFEngine, tmp_path: Path) -> None:
    lessons = play(engine, [cot("a"), tool_cot("b")]).kept
    _, metrics = train(engine, lessons, tmp_path, steps=12, batch=2)
    assert metrics[-1].loss < 0.5 * metrics[0].loss


# Interruptions


class StopError(Exception):
    """Stands for a process that ends."""


def stop_at(step: int) -> object:
    def report(line: str) -> None:
        if f" step {step}/" in line:
            raise StopError

    return report


def test_a_resumed_stage_equals_an_undisturbed_one(engine: HFEngine, mixed: tuple[Lesson, ...], tmp_path: Path) -> None:
    plan = {"epochs": 2, "batch": 2}
    whole, expected = train(engine, mixed, tmp_path / "whole", **plan)
    assert len(expected) == 5
    folder, encoder = tmp_path / "parts", engine._encoder
    with pytest.raises(StopError):
        train_sft(copy.deepcopy(engine._model), encoder, mixed, stage(**plan), folder, 0, stop_at(4), save_every=2)
    log = folder / "taught.jsonl"
    # Step 4 was taken and logged, but the state is that of step 2; the kill left half a line, too.
    assert len(log.read_text().splitlines()) == 4
    log.write_text(log.read_text() + '{"step": 4, "lo')
    # How a step is shared out may change between calls (after running out of memory, say).
    model = copy.deepcopy(engine._model)
    rest = train_sft(model, encoder, mixed, stage(**plan, micro_batch=16), folder, 0, lambda line: None)
    assert [metrics.step for metrics in rest] == [2, 3, 4]
    assert all(torch.equal(weights(model)[name], value) for name, value in weights(whole).items())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["loss"] for line in lines] == [metrics.loss for metrics in expected]
    assert set(lines[0]) == {"step", "loss", "tokens", "rate", "gradient", "seconds"}
    # A finished stage only restores its weights.
    again = copy.deepcopy(engine._model)
    assert train_sft(again, encoder, mixed, stage(**plan), folder, 0, lambda line: None) == ()
    assert all(torch.equal(weights(again)[name], value) for name, value in weights(whole).items())
    for other, seed in ((mixed, 1), (mixed[:4], 0)):
        with pytest.raises(VitalError, match="belongs to another recipe"):
            train_sft(again, encoder, other, stage(**plan), folder, seed, lambda line: None)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_numbers_that_are_not_finite_end_the_stage_before_they_reach_the_weights(
    engine: HFEngine, mixed: tuple[Lesson, ...], tmp_path: Path, where: str
) -> None:
    plan = {"steps": 4, "batch": 2}
    whole, _ = train(engine, mixed, tmp_path / "whole", **plan)
    model, passes = copy.deepcopy(engine._model), []

    def spoil(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        passes.append(1)
        if len(passes) < 3:
            return output
        if where == "loss":
            return output * float("nan")
        output.register_hook(lambda gradient: gradient * float("inf"))
        return output

    handle = model.lm_head.register_forward_hook(spoil)
    pattern = "step 2: the loss is nan in lessons [a-e], [a-e];" if where == "loss" else "step 2: the norm of the grad"
    with pytest.raises(VitalError, match=pattern):
        train_sft(model, engine._encoder, mixed, stage(**plan), tmp_path, 0, lambda line: None, save_every=1)
    assert all(bool(torch.isfinite(value).all()) for value in weights(model).values())
    handle.remove()
    rest = train_sft(model, engine._encoder, mixed, stage(**plan), tmp_path, 0, lambda line: None)
    assert [metrics.step for metrics in rest] == [2, 3]
    assert all(torch.equal(weights(model)[name], value) for name, value in weights(whole).items())


_CHILD = """
import os, signal, sys
from pathlib import Path
import safetensors.torch, torch
from vital_eval.training import state

torch.manual_seed(0)
model = torch.nn.Linear(64, 64)
optimiser = torch.optim.AdamW(model.parameters())
model(torch.ones(64)).sum().backward()
optimiser.step()
path = Path(sys.argv[1])
state.save_state(model, optimiser, 1, path)
write = safetensors.torch.save_file

def half(tensors, name, metadata):
    write(tensors, name, metadata)
    os.truncate(name, os.path.getsize(name) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

def whole(descriptor):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "half":
    safetensors.torch.save_file = half
else:
    os.fsync = whole
optimiser.step()
state.save_state(model, optimiser, 2, path)
"""


@pytest.mark.parametrize("moment", ["half", "whole"])
def test_a_kill_in_the_middle_of_saving_leaves_the_last_state(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "s.safetensors"
    done = subprocess.run([sys.executable, "-P", "-c", _CHILD, str(path), moment], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # The state, and what the kill left.
    model = torch.nn.Linear(64, 64)
    optimiser = torch.optim.AdamW(model.parameters())
    assert restore_state(model, optimiser, path) == 1
    old = tmp_path / "old"
    old.hardlink_to(path)
    save_state(model, optimiser, 2, path)
    # The new state took the old one's name; the old file itself was not written to.
    assert restore_state(model, optimiser, old) == 1
    assert set(tmp_path.iterdir()) == {path, old}
    assert restore_state(model, optimiser, path) == 2


def test_a_full_disk_is_one_error_and_keeps_the_last_state(tmp_path: Path) -> None:
    model = torch.nn.Linear(512, 512)
    optimiser = torch.optim.AdamW(model.parameters())
    path = tmp_path / "s.safetensors"
    save_state(model, optimiser, 1, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(VitalError, match=r"cannot save the state of step 2 to .*; free some space"):
            save_state(model, optimiser, 2, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_states_that_do_not_fit_are_refused_and_change_nothing(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 4)
    optimiser = torch.optim.AdamW(model.parameters())
    path = tmp_path / "s.safetensors"
    assert restore_state(model, optimiser, path) == 0
    save_state(model, optimiser, 3, path, recipe="one")
    with pytest.raises(VitalError, match="belongs to another recipe"):
        restore_state(model, optimiser, path, recipe="two")
    wide = torch.nn.Linear(5, 4)
    with pytest.raises(VitalError, match="belongs to another model"):
        restore_state(wide, torch.optim.AdamW(wide.parameters()), path, recipe="one")
    model.bias.requires_grad_(False)
    with pytest.raises(VitalError, match="other parts of it are frozen"):
        restore_state(model, torch.optim.AdamW([model.weight]), path, recipe="one")
    path.write_bytes(path.read_bytes()[:-8])
    before = model.weight.detach().clone()
    with pytest.raises(VitalError, match=r"cannot read the state .*; remove it"):
        restore_state(model, optimiser, path, recipe="one")
    assert torch.equal(model.weight, before)


def test_a_log_keeps_the_steps_that_count(tmp_path: Path) -> None:
    log = tmp_path / "new" / "s.jsonl"
    cut_log(log, 3)
    assert log.parent.is_dir()
    log.write_text('{"step": 0}\n{"step": 1}\nnot json\n{"step": 2}\n{"step": 1')
    cut_log(log, 2)
    assert log.read_text() == '{"step": 0}\n{"step": 1}\n'


def test_lessons_end_with_the_models_turn(mixed: tuple[Lesson, ...]) -> None:
    assert all(isinstance(lesson.conversation[-1], AssistantTurn) for lesson in mixed)
