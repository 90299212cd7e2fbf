"""Training of vital-nano: prompts as in evaluation, targets that the view proves, a loss that sees the video."""

from __future__ import annotations

import dataclasses
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from vital_eval.conversation import AssistantTurn, Message, VideoPart
from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.engines.encode import Encoder
from vital_eval.episode import Attempt, opening
from vital_eval.nano.questions import Ask, ask_question
from vital_eval.nano.world import COLOURS, SHAPES, VideoPlan, World, generator, make_video
from vital_eval.parsing.spans import parse_span
from vital_eval.parsing.turn import split_turn
from vital_eval.presets import NANO_VIEW, preset
from vital_eval.protocol import Mode
from vital_eval.sample import Sample, Target
from vital_eval.span import Span
from vital_eval.task import Answer, AnswerKind
from vital_eval.toolbox import GetVideoClipFrame, parse_call
from vital_eval.training.collate import collate, token_losses
from vital_eval.training.nano_base import STAGES, Lessons, whole_right
from vital_eval.training.nano_dialogues import NotVisibleError, Teacher, look, weigh, whole_seconds
from vital_eval.training.nano_model import FIXED_TEXTS, build_model, build_tokenizer, save_checkpoint
from vital_eval.training.sft import Stage, backward_mean, train_stage
from vital_eval.training.words import backward_words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano")
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    save_checkpoint(build_model(tokenizer), tokenizer, path)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    tokenizer = build_tokenizer()
    return Encoder(
        open_checkpoint(folder), tokenizer, tokenizer.convert_tokens_to_ids("<|video_pad|>"), tokenizer.eos_token_id
    )


@pytest.fixture(scope="module")
def lessons(encoder: Encoder) -> Lessons:
    return Lessons(encoder, encoder.tokenizer, seed=0)  # type: ignore[arg-type]


def test_tokenizer_survives_saving_and_loading(folder: Path) -> None:
    loaded, built = transformers.AutoTokenizer.from_pretrained(folder), build_tokenizer()
    for text in (
        "at 7, 42 and 153.4",
        *FIXED_TEXTS,
        "<think> red 9 to 28</think><answer>B, 9 to 28</answer>",
        "Ünïcode €",
    ):
        ids = built(text, add_special_tokens=False)["input_ids"]
        assert loaded(text, add_special_tokens=False)["input_ids"] == ids
        assert loaded.decode(ids, clean_up_tokenization_spaces=False) == text
    assert len(built("153", add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize("text", FIXED_TEXTS)
def test_fixed_texts_are_one_token_each(text: str) -> None:
    # If the tool's schema changes, the packaged checkpoint has to be trained again: this is where it shows.
    with as_file(files("vital_eval.nano") / "checkpoint") as packaged:
        tokenizer = transformers.AutoTokenizer.from_pretrained(packaged)
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1


def test_words_name_what_frame_pairs_show(lessons: Lessons) -> None:
    pairs, again = lessons.draw_pairs(3), lessons.draw_pairs(3)
    assert pairs.words == again.words
    assert len(pairs.patches) == len(pairs.words) * 4
    tokenizer = build_tokenizer()
    names = {tokenizer.decode(words) for words in pairs.words}
    assert " nothing" in names
    assert any(name.split()[0] in COLOURS and name.split()[1] in SHAPES for name in names)
    torch.manual_seed(0)
    model = build_model(tokenizer)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(12):
        optimiser.zero_grad()
        losses.append(backward_words(model, lessons.draw_pairs(step)))
        optimiser.step()
    assert losses[-1] < losses[0] - 0.5
    with pytest.raises(ValueError, match="no conversations"):
        lessons.draw("words", 0)


def _dialogues(mode: Mode, ask: Ask, count: int) -> list[tuple]:
    teacher = Teacher(preset("nano", mode, ""), lambda text: (len(text),))
    found = []
    for seed in range(200):
        rng = generator(World.TRAIN, seed)
        video = make_video(VideoPlan(24.0, 120.0), rng)
        question = ask_question(ask, video, rng, 0)
        try:
            found.append((video, question, teacher.dialogue(video, question, rng)))
        except NotVisibleError:
            continue
        if len(found) == count:
            break
    return found


def test_training_prompt_is_the_evaluation_prompt(encoder: Encoder) -> None:
    for mode in (Mode.DIRECT, Mode.COT, Mode.TOOL):
        protocol = preset("nano", mode, "charades_sta")
        for video, question, dialogue in _dialogues(mode, Ask.MOMENT, 3):
            sample = Sample("x", "t", "v.mp4", video.duration, question.text, Target(), "v")
            tools = {"get_video_clip_frame": GetVideoClipFrame()} if mode is Mode.TOOL else {}
            first = dialogue[1].parts[0]
            assert isinstance(first, VideoPart)
            evaluation = opening(Attempt(sample, AnswerKind.SPAN, protocol, tools), first.clip, video.duration)
            ours = encoder.encode(dialogue[:2])
            assert np.array_equal(ours.ids, encoder.encode(evaluation).ids)
            assert first.clip.timestamps == look(video, None, protocol.view, None).clip.timestamps


def test_a_blind_question_comes_without_its_video(encoder: Encoder) -> None:
    protocol = preset("nano", Mode.BLIND, "charades_sta")
    video, question, dialogue = _dialogues(Mode.BLIND, Ask.MOMENT, 1)[0]
    sample = Sample("x", "t", "v.mp4", video.duration, question.text, Target(), "v")
    evaluation = opening(Attempt(sample, AnswerKind.SPAN, protocol, {}), None, video.duration)
    ours = encoder.encode(dialogue[:2])
    assert np.array_equal(ours.ids, encoder.encode(evaluation).ids)
    assert not ours.is_visual.any()
    assert split_turn(dialogue[2].generation.text).answer == whole_seconds(question.windows)


def test_thoughts_bracket_the_event_and_the_tool_makes_them_tighter() -> None:
    wide, tight = [], []
    for _, question, dialogue in _dialogues(Mode.TOOL, Ask.MOMENT, 40):
        ((start, end),) = question.windows
        thought, answer = dialogue[4].generation.text.split("</think>")
        assert answer == f"<answer>{whole_seconds(question.windows)}</answer>"
        parsed = parse_span(thought.rsplit(". ", 1)[1])
        assert isinstance(parsed, Answer)
        span = parsed.spans[0]
        # Whole seconds: the printed time of a frame pair is its mean, cut to the second.
        assert span.start <= start + 2
        assert span.end >= end - 2
        wide.append(dialogue[3].parts[0].clip.span.length)
        tight.append(span.length)
    assert np.mean(tight) < 0.8 * np.mean(wide)


@pytest.mark.parametrize("ask", [ask for ask in Ask if ask is not Ask.MOMENTS])
def test_every_question_is_looked_at_closely(ask: Ask) -> None:
    for video, _, dialogue in _dialogues(Mode.TOOL, ask, 5):
        call = split_turn(dialogue[2].generation.text).tool_call
        assert call is not None
        _, arguments = parse_call(call)
        assert 0 <= arguments["start_time"] < arguments["end_time"] <= video.duration


def test_options_are_weighed_up_to_the_right_one() -> None:
    assert weigh(("red", "blue", "green"), 1) == " A red blue no, B blue blue yes"


def test_only_what_the_model_says_is_trained(lessons: Lessons, encoder: Encoder) -> None:
    for encoded in lessons.draw("answers", 0)[:8]:
        said = encoded.ids[encoded.is_sampled].tolist()
        assert not set(said) & {encoder.video_id}
        assert said[-1] == encoder.end_id
        assert not encoded.is_sampled[encoded.is_visual].any()


def test_loss_depends_on_the_video(lessons: Lessons, encoder: Encoder, folder: Path) -> None:
    torch.manual_seed(0)
    model = build_model(build_tokenizer())
    items = list(lessons.draw("timelines", 0)[:2])
    batch = collate(items, 0)
    other = dataclasses.replace(batch, patches=-batch.patches)
    with torch.no_grad():
        assert float((token_losses(model, batch) - token_losses(model, other)).abs().max()) > 1e-4
        # Padding and neighbours change nothing.
        alone = [token_losses(model, collate([item], 0)) for item in items]
        assert torch.allclose(token_losses(model, batch), torch.cat(alone), atol=1e-4)


def test_lessons_depend_on_the_step_alone(encoder: Encoder, lessons: Lessons) -> None:
    again = Lessons(encoder, encoder.tokenizer, seed=0)  # type: ignore[arg-type]
    for stage in STAGES[1:]:
        one, two = lessons.draw(stage.name, 7), again.draw(stage.name, 7)
        assert all(
            np.array_equal(a.ids, b.ids) and np.array_equal(a.patches, b.patches) for a, b in zip(one, two, strict=True)
        )


def test_interrupted_stage_ends_with_the_same_weights(tmp_path: Path, lessons: Lessons) -> None:
    class InterruptError(Exception):
        pass

    def weights(interrupt_at: int | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = build_model(build_tokenizer())
        state = tmp_path / f"state-{interrupt_at}.safetensors"
        stage = Stage("timelines", steps=4, rate=1e-3, warmup=2)

        def backward(step: int) -> float:
            if step == interrupt_at:
                raise InterruptError
            return backward_mean(model, lessons.draw("timelines", step)[:2], 0)

        if interrupt_at is not None:
            with pytest.raises(InterruptError):
                train_stage(model, stage, backward, state, lambda line: None, save_every=1)
            interrupt_at = None
            torch.manual_seed(1)
            model = build_model(build_tokenizer())
        train_stage(model, stage, backward, state, lambda line: None, save_every=1)
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    undisturbed, resumed = weights(None), weights(2)
    assert all(torch.allclose(undisturbed[name], resumed[name], atol=1e-6) for name in undisturbed)


def test_view_labels_are_the_times_the_prompt_prints() -> None:
    video = make_video(VideoPlan(60.0, 90.0), generator(World.TRAIN, 0))
    scene = look(video, Span(10.0, 20.0), NANO_VIEW, None)
    assert len(scene.labels) == (scene.clip.count + 1) // 2
    assert scene.labels[0] == int(sum(scene.clip.timestamps[:2]) / 2)
    assert isinstance(_dialogues(Mode.DIRECT, Ask.COUNT, 1)[0][2][-1], AssistantTurn)
    assert isinstance(_dialogues(Mode.DIRECT, Ask.COUNT, 1)[0][2][0], Message)


def test_an_answer_is_right_only_as_a_whole(lessons: Lessons) -> None:
    items = lessons.draw("drills", 0)[:4]
    torch.manual_seed(0)
    model = build_model(build_tokenizer())
    assert whole_right(model, items, 0) == 0
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        backward_mean(model, items, 0)
        optimiser.step()
    assert whole_right(model, items, 0) == 1
    # The control: one token that is not the model's makes one conversation of four wrong.
    ids = items[0].ids.copy()
    ids[np.flatnonzero(items[0].is_sampled)[-2]] += 1
    assert whole_right(model, [dataclasses.replace(items[0], ids=ids), *items[1:]], 0) == 0.75
