"""Traps 53 to 72: what a model is told, what it is shown, and what time it is."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vital_eval
from tests.toy_world import run_arguments, write_data_root, write_video
from tests.traps.worlds import DURATION, call, choice, moment, official, play, task
from vital_eval import footage
from vital_eval.cli.main import main
from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Conversation, Message, TextPart, VideoPart, clips_of
from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.engines.encode import Encoder
from vital_eval.engines.pixels import patch_times, seconds_per_patch
from vital_eval.engines.scripted import ScriptedEngine, question_of, turns
from vital_eval.episode import Attempt, opening, subtitles_to_show
from vital_eval.errors import MediaError, ProtocolError
from vital_eval.footage import Videos
from vital_eval.generation import FinishReason, Generation
from vital_eval.outcome import Outcome, grade
from vital_eval.presets import PRESETS, preset
from vital_eval.prompts import render_user
from vital_eval.protocol import Mode, Sampling, View, protocol_from_json
from vital_eval.registry import Registry
from vital_eval.span import Span
from vital_eval.subtitles import SubtitleLine
from vital_eval.task import AnswerKind
from vital_eval.toolbox import GetVideoClipFrame
from vital_eval.trajectory import StopReason
from vital_eval.video import pyav_decoder, sound_frames
from vital_eval.video.clock import draw_clock
from vital_eval.video.pyav_decoder import PyAVDecoder
from vital_eval.video.reading_plan import Costs
from vital_eval.video.resolve import resolve_video
from vital_eval.video.sampling import choose_frames
from vital_eval.video.source import ClipSource

PACKAGE = Path(vital_eval.__file__).parent
VIEW = View(fps=2.0, max_frames=64, min_pixels=784, max_pixels=64 * 64, clock=False)


def attempt(mode: Mode = Mode.COT, **changes: Any) -> Attempt:
    protocol = dataclasses.replace(preset("vital", mode, "charades_sta"), **changes)
    return Attempt(moment(), AnswerKind.SPAN, protocol, {"get_video_clip_frame": GetVideoClipFrame()})


def blank(count: int = 4, step: float = 0.5, start: float = 0.0, factor: int = 32) -> Clip:
    times = tuple(start + step * index for index in range(count))
    return Clip(np.zeros((count, factor, factor, 3), np.uint8), times, Span(start, start + step * count))


def words(conversation: Conversation) -> list[str]:
    return [
        part.text
        for entry in conversation
        if isinstance(entry, Message)
        for part in entry.parts
        if isinstance(part, TextPart)
    ]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    from transformers import AutoTokenizer

    folder = PACKAGE / "nano" / "checkpoint"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    pad = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    return Encoder(open_checkpoint(folder), tokenizer, pad, tokenizer.eos_token_id)


def test_trap_053_the_prompt_comes_from_the_protocol_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def naive_prompt(question: str, prompt_type: str) -> str:
        del prompt_type
        return os.environ.get("PROMPT", f"To find the moment: {question}")

    assert naive_prompt("Who? A or B", "choice") == naive_prompt("Who? A or B", "grounding")
    before = render_user(attempt().protocol.prompt, moment(), AnswerKind.SPAN, 60, 0)
    for name in ("PROMPT", "PROMPT_TYPE", "prompt_type", "VITAL_PROMPT"):
        monkeypatch.setenv(name, "something else")
    assert render_user(attempt().protocol.prompt, moment(), AnswerKind.SPAN, 60, 0) == before
    kinds = {render_user(attempt().protocol.prompt, moment(), kind, 60, 0) for kind in AnswerKind}
    assert len(kinds) == len(AnswerKind)
    texts = dataclasses.replace(attempt().protocol.prompt, user="{question}")
    assert attempt(prompt=texts).protocol.hash != attempt().protocol.hash
    write_data_root(tmp_path, videos=1)
    assert main(run_arguments(tmp_path, tmp_path / "run", "--modes", "cot", "--show", "1")) == 0
    assert "person opens box 0." in capsys.readouterr().out


def test_trap_054_every_frame_carries_its_own_time() -> None:
    hour, rate = 3600.0, 25.0
    times = tuple(index / rate for index in range(int(hour * rate)))
    view = dataclasses.replace(VIEW, fps=2.0, max_frames=1024)
    chosen = [times[index] for index in choose_frames(times, None, view)]
    naive_fps = len(chosen) / hour
    naive_labels = [index / naive_fps for index in range(len(chosen))]
    assert chosen[-1] - naive_labels[-1] == pytest.approx(3.5, abs=0.1)
    assert chosen[0] == times[0]
    assert chosen[-1] == times[-1]


def test_trap_054_what_is_drawn_is_the_time_of_the_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", seconds=6, rate=4)
    source = ClipSource(tmp_path, PyAVDecoder())
    view = View(fps=1.3, max_frames=5, min_pixels=96 * 96, max_pixels=128 * 128, clock=False)
    plain, drawn = (source.read("v.mp4", None, dataclasses.replace(view, clock=clock), 32) for clock in (False, True))
    known = source.probe("v.mp4").frame_times
    assert set(plain.timestamps) <= set(known)
    assert np.array_equal(drawn.frames, draw_clock(plain.frames, plain.timestamps))
    naive = [index * known[-1] / plain.count for index in range(plain.count)]
    assert not np.array_equal(drawn.frames, draw_clock(plain.frames, naive))


def test_trap_055_a_clip_begins_at_the_time_it_says(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", seconds=6, rate=4)
    naive_first = math.ceil(2 * 1.1) / 2  # Shown, but labelled 1.1.
    assert naive_first - 1.1 == pytest.approx(0.4)
    source = ClipSource(tmp_path, PyAVDecoder())
    clip = source.read("v.mp4", Span(1.1, 3.0), VIEW, 32)
    known = [time for time in source.probe("v.mp4").frame_times if 1.1 <= time <= 3.0]
    assert (clip.timestamps[0], clip.timestamps[-1]) == (known[0], known[-1])
    long = tuple(index / 4 for index in range(4 * 100))
    capped = choose_frames(long, Span(10.0, 90.0), dataclasses.replace(VIEW, max_frames=64))
    assert (len(capped), long[capped[0]], long[capped[-1]]) == (64, 10.0, 90.0)


@pytest.mark.parametrize("rate", [1, 3, 4])
def test_trap_056_both_views_go_by_one_index_of_real_times(tmp_path: Path, rate: int) -> None:
    write_video(tmp_path / "v.mp4", seconds=6, rate=rate)
    source = ClipSource(tmp_path, PyAVDecoder())
    known = source.probe("v.mp4").frame_times
    naive = [index / rate for index in range(len(known)) if 2 * 2.0 <= index <= 2 * 4.0]  # As if at 2 a second.
    whole, clip = source.read("v.mp4", None, VIEW, 32), source.read("v.mp4", Span(2.0, 4.0), VIEW, 32)
    assert set(whole.timestamps) | set(clip.timestamps) <= set(known)
    assert all(2.0 <= time <= 4.0 for time in clip.timestamps)
    assert any(not 2.0 <= time <= 4.0 for time in naive)


def test_trap_057_the_cap_on_frames_is_explicit_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hour = tuple(index / 25 for index in range(25 * 3600))
    naive_frames = int(2.0 * hour[-1]) + 1
    assert naive_frames == 7200
    for name in Registry("task").names():
        for mode in Mode:
            protocol = preset("vital", mode, name)
            assert len(choose_frames(hour, None, protocol.view)) <= protocol.view.max_frames
            assert protocol.to_json()["view"]["max_frames"] == protocol.view.max_frames
    small = dataclasses.replace(VIEW, max_frames=256)
    assert len(choose_frames(hour, None, small)) == 256
    write_data_root(tmp_path, videos=1)
    assert main(run_arguments(tmp_path, tmp_path / "run", "--modes", "cot", "--dry-run")) == 0
    assert '"max_frames": 14400' in capsys.readouterr().out


def test_trap_058_the_rate_of_each_clip_is_its_own(encoder: Encoder) -> None:
    sparse, dense = blank(8, step=4.0), blank(8, step=0.5, start=10.0)
    naive = 2 / 2.0
    assert [seconds_per_patch(clip, 2) for clip in (sparse, dense)] == [8.0, 1.0] != [naive, naive]
    assert patch_times(dense, 2) == [10.25, 11.25, 12.25, 13.25]
    conversation = (Message("user", (VideoPart(sparse), TextPart("x"))),)
    other = (Message("user", (VideoPart(dense), TextPart("x"))),)
    ids = [encoder.encode(one).ids.tolist() for one in (conversation, other)]
    assert ids[0] != ids[1]  # The times of this family are written before each patch.


def test_trap_058_evaluation_and_training_encode_by_one_function() -> None:
    from vital_eval.engines import hf
    from vital_eval.training import nano_base

    assert hf.Encoder is nano_base.Encoder is Encoder


def test_trap_059_both_views_are_recorded() -> None:
    protocol = preset("vital", Mode.TOOL, "charades_sta")
    naive_record = {"model": "vital-7b"}
    assert "frames" not in naive_record
    stored = protocol.to_json()
    assert (stored["view"]["max_pixels"], stored["clip_view"]["max_pixels"]) == (384 * 384, 224 * 224)
    assert protocol_from_json(json.loads(json.dumps(stored))) == protocol
    smaller = dataclasses.replace(protocol, view=dataclasses.replace(protocol.view, max_pixels=224 * 224))
    assert smaller.hash != protocol.hash


def test_trap_060_the_text_beside_a_clip_reaches_the_model(encoder: Encoder) -> None:
    said = Generation(
        tuple(encoder.tokenizer("look", add_special_tokens=False)["input_ids"]), "look", FinishReason.END_OF_TURN, 0
    )
    first = (Message("user", (VideoPart(blank()), TextPart("when?"))), AssistantTurn(said))
    reply = "12.00 to 20.00"
    naive_content: list[Any] = [{"type": "video"}, reply]
    naive = "".join(part.get("text", "") for part in naive_content if isinstance(part, dict))
    assert reply not in naive  # A template that reads parts by their type drops a plain string.
    encoded = encoder.encode((*first, Message("tool", (VideoPart(blank(start=12.0)), TextPart(reply)))))
    wanted = encoder.tokenizer(reply, add_special_tokens=False)["input_ids"]
    text = " ".join(map(str, encoded.ids.tolist()))
    assert " ".join(map(str, wanted)) in text
    # The loop hands on exactly such parts.
    _, engine = play(moment(), f"<think>a</think>{call(12, 20)}", "<answer>12 to 20</answer>", mode=Mode.TOOL)
    last = engine.requests[1].conversation[-1]
    assert isinstance(last, Message)
    assert [type(part) for part in last.parts] == [VideoPart, TextPart]
    assert "12.00" in words((last,))[0]


def test_trap_061_one_template_and_one_way_to_write_seconds() -> None:
    naive = {f"{12.345678} seconds", f"{round(12.345678, 2)} seconds", f"{12.345678:.2f} seconds\n"}
    assert len(naive) == 3
    text = render_user(attempt().protocol.prompt, moment(), AnswerKind.SPAN, 12.345678, 0)
    assert "12.35 seconds" in text
    from vital_eval.training import nano_dialogues

    assert nano_dialogues.render_user is render_user
    shown = words(opening(attempt(), blank(), 12.345678))
    assert text in shown


@pytest.mark.parametrize(("count", "cap"), [(257, 256), (1000, 256), (300, 16), (50, 1)])
def test_trap_062_the_last_frame_is_shown_and_the_cap_holds(count: int, cap: int) -> None:
    times = tuple(index / 2 for index in range(count))
    naive_appended = [*np.linspace(0, count - 1, cap, endpoint=False).astype(int), count - 1]
    naive_open = np.linspace(0, count - 1, cap, endpoint=False).astype(int)
    assert len(naive_appended) > cap
    assert naive_open[-1] != count - 1
    chosen = choose_frames(times, None, dataclasses.replace(VIEW, max_frames=cap))
    assert chosen[-1] == count - 1
    assert len(chosen) <= cap
    assert len(set(chosen)) == len(chosen)


def test_trap_062_a_question_on_the_last_frame_is_never_asked_without_it(tmp_path: Path) -> None:
    _, samples = official("videommmu", tmp_path)
    image = next(sample for sample in samples if sample.ends_with_question_image)
    trajectory, _ = play(image, "<answer>1</answer>")
    assert trajectory.stop is StopReason.ANSWERED
    assert trajectory.frame_times[-1] == DURATION - 0.5


def test_trap_063_dots_belong_to_the_name(tmp_path: Path) -> None:
    name = "9c_w8HU3hqc_210.0_360.0.mp4"
    assert name.split(".")[0] == "9c_w8HU3hqc_210"
    root = tmp_path / "v1.2" / "videos"
    root.mkdir(parents=True)
    for file in (name, "9c_w8HU3hqc_210.mp4"):
        (root / file).write_bytes(b"x")
    assert resolve_video(root, name).name == name
    (root / name).unlink()
    with pytest.raises(MediaError, match="no video at"):
        resolve_video(root, name)


def test_trap_064_frames_are_kept_by_video_and_view(monkeypatch: pytest.MonkeyPatch) -> None:
    class Workers:
        """Frames at the rate of the view."""

        def __init__(self, *_: object) -> None:
            pass

        def reader(self, *_: object) -> Workers:
            """Read by itself."""
            return self

        async def read(self, video: str, span: Span | None, view: View, factor: int, ticket: object) -> Clip:
            """Return as many frames as the view asks for."""
            del video, span, ticket
            return blank(view.max_frames, factor=factor)

        def close(self) -> None:
            """Nothing to stop."""

    monkeypatch.setattr(footage, "DecodeWorkers", Workers)
    naive_cache: dict[str, int] = {}
    views = [dataclasses.replace(VIEW, max_frames=count) for count in (4, 9)]

    async def go() -> list[int]:
        async with Videos(Path(), "pyav", 1, 1.0, 32) as videos:
            return [(await videos.read("v.mp4", None, view)).count for view in views]

    assert [naive_cache.setdefault("v.mp4", view.max_frames) for view in views] == [4, 4]
    assert asyncio.run(go()) == [4, 9]


def test_trap_064_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    source = ClipSource(tmp_path, PyAVDecoder())
    write_video(tmp_path / "v.mp4", seconds=2)
    assert source.probe("v.mp4").duration == pytest.approx(2)
    write_video(tmp_path / "v.mp4", seconds=4)
    assert source.probe("v.mp4").duration == pytest.approx(4)


def test_trap_065_the_prompt_does_not_depend_on_the_engine() -> None:
    naive = {"hf": "Answer with the letter.", "server": "Answer with the letter directly.\n"}
    assert len(set(naive.values())) == 2
    sample = choice("B", "door", "box")
    asked = []
    for name in ("hf", "server"):
        engine = ScriptedEngine(turns("<answer>B</answer>"), model=name)
        one = Attempt(sample, AnswerKind.OPTION, preset("vital", Mode.COT, sample.task))
        conversation = opening(one, blank(), 9.0)
        asked.append((words(conversation), question_of(conversation)))
        assert engine.info.model == name
    assert asked[0] == asked[1]
    assert list(inspect.signature(render_user).parameters) == ["texts", "sample", "kind", "duration", "max_tool_calls"]


def test_trap_066_subtitles_are_a_setting_and_the_text_agrees_with_it() -> None:
    naive = "Select the best answer based on the video and the subtitles."
    assert "subtitles" in naive  # Said to a model that has none.
    plain = attempt()
    assert not plain.protocol.subtitles
    for mode in Mode:
        for name in PRESETS:
            said = words(opening(Attempt(moment(), AnswerKind.SPAN, preset(name, mode, "video_mme")), blank(), 9.0))
            assert not any("subtitle" in text.lower() for text in said)
    assert attempt(subtitles=True).protocol.hash != plain.protocol.hash


def test_trap_066_subtitles_go_by_the_frames_that_are_shown() -> None:
    lines = (SubtitleLine(0.0, 0.4, "early"), SubtitleLine(30.0, 31.0, "late"))
    with_lines = dataclasses.replace(attempt(subtitles=True), subtitles=lambda: lines)
    naive_frames = [index * DURATION / 32 for index in range(32)]
    assert any(30 <= time <= 31 for time in naive_frames)  # Picked for 32 frames whatever the model sees.
    text, odd = asyncio.run(subtitles_to_show(with_lines, blank(2)))
    assert "early" in text
    assert "late" not in text
    assert odd == ()
    assert asyncio.run(subtitles_to_show(attempt(), blank(2))) == ("", ())


def test_trap_067_there_is_room_to_reason_and_a_cut_is_an_outcome() -> None:
    reasoning = "<think>" + "the man walks in\n\n" * 20 + "</think><answer>12 to 30</answer>"
    assert "<answer>" not in reasoning[:16]
    assert "<answer>" not in reasoning.split("\n\n")[0]
    for mode in Mode:
        protocol = preset("vital", mode, "charades_sta")
        assert protocol.sampling.max_new_tokens >= 1024
        assert all(word.startswith("</") for word in dataclasses.replace(attempt(), protocol=protocol).stop)
    trajectory, _ = play(moment(), reasoning)
    assert trajectory.answer_text == "12 to 30"
    short, _ = play(moment(), reasoning, sampling=Sampling(max_new_tokens=50))
    assert grade(task("charades_sta"), moment(), short).outcome is Outcome.TRUNCATED


def test_trap_068_contradictory_decoding_is_refused() -> None:
    naive = {"temperature": 0.7, "do_sample": False}
    assert (naive["temperature"], naive["do_sample"]) == (0.7, False)  # Greedy here, sampled there.
    with pytest.raises(ProtocolError, match="temperature 0 with top_p"):
        Sampling(temperature=0.0, top_p=0.5)
    data = json.loads(json.dumps(attempt().protocol.to_json()))
    data["sampling"]["do_sample"] = False
    with pytest.raises(ProtocolError, match="do_sample"):
        protocol_from_json(data)
    _, engine = play(moment(), "<answer>12 to 30</answer>", sampling=Sampling(temperature=0.7, top_p=0.9))
    assert engine.requests[0].sampling == Sampling(temperature=0.7, top_p=0.9)


def test_trap_069_a_few_frames_do_not_cost_the_whole_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "v.mp4", seconds=375, rate=4)
    decoder = PyAVDecoder(threads=1)
    info = decoder.probe(tmp_path / "v.mp4")
    packets = sound_frames.packets
    decoded = 0

    def counted(*arguments: Any) -> Any:
        nonlocal decoded
        for packet in packets(*arguments):
            decoded += 1
            yield packet

    monkeypatch.setattr(sound_frames, "packets", counted)
    wanted = (0, info.keyframes[2] + 1, info.keyframes[-1])
    few, by_seeking = decoder.read(tmp_path / "v.mp4", wanted, info), decoded
    # The naive reader: the same frames, and everything on the way to them.
    monkeypatch.setattr(pyav_decoder, "_COSTS", Costs(restart=10**9, keep=1))
    decoded = 0
    assert np.array_equal(decoder.read(tmp_path / "v.mp4", wanted, info), few)
    assert decoded > info.keyframes[-1]
    assert by_seeking < decoded / 5


def test_trap_070_the_time_is_always_visible() -> None:
    naive = words((Message("user", (VideoPart(blank()), TextPart("When does the man sit?"))),))
    assert not any(character.isdigit() for character in naive[0])
    for mode in (Mode.COT, Mode.TOOL, Mode.DIRECT):
        protocol = preset("vital", mode, "charades_sta")
        assert protocol.view.clock
        assert protocol.clip_view.clock
    assert any("60.00 seconds" in text for text in words(opening(attempt(), blank(), 60.0)))
    assert draw_clock(np.zeros((1, 96, 96, 3), np.uint8), [12.5]).any()


def test_trap_070_without_a_clock_the_times_stand_in_the_prompt(encoder: Encoder) -> None:
    # A frame of 32 pixels has no room for a clock; the family's own encoding writes the times.
    assert not preset("nano", Mode.COT, "charades_sta").view.clock
    conversation = (Message("user", (VideoPart(blank(4, step=0.5, start=12.0)), TextPart("x"))),)
    for time in ("<12.2 seconds>", "<13.2 seconds>"):
        wanted = encoder.tokenizer(time, add_special_tokens=False)["input_ids"]
        assert " ".join(map(str, wanted)) in " ".join(map(str, encoder.encode(conversation).ids.tolist()))


def test_trap_071_no_text_block_becomes_a_video(encoder: Encoder) -> None:
    naive_rows = [{"type": "video", "text": None, "video": "v"}, {"type": "text", "text": "when?", "video": None}]
    assert sum("video" in row for row in naive_rows) == 2  # A template that asks for the key finds two.
    encoded = encoder.encode((Message("user", (VideoPart(blank(2)), TextPart("when?"))),))
    assert len(encoded.grids) == 1
    assert int(encoded.is_visual.sum()) == 1
    conversation = opening(attempt(), blank(), 9.0)
    assert len(clips_of(conversation)) == 1
    # Parts are types, not rows with a key for everything.
    assert {field.name for field in dataclasses.fields(TextPart)} == {"text"}


def test_trap_072_loaders_normalise_what_the_files_hold(tmp_path: Path) -> None:
    _, samples = official("charades_sta", tmp_path)
    raw = json.loads((tmp_path / "charades_test.json").read_text())["ABCDE"]
    assert raw["sentences"][0] != raw["sentences"][0].strip()
    assert [sample.question for sample in samples] == ["A ball rolls.", "A ball rolls."]
    # An end after the video is kept as annotated, not clipped.
    assert samples[1].target.windows[0][1] > (samples[1].duration or 0)
    chapters, rows = official("vidchapters", tmp_path)
    assert {sample.video for sample in rows} == {"7abcdefghi_.mp4"}
    assert chapters.name == "vidchapters"


@pytest.mark.parametrize(
    ("name", "file", "late", "spaced"),
    [("charades_sta", "charades_test.json", 562, 0), ("activitynet_mr", "val_2.json", None, 11_483)],
)
def test_trap_072_counts_of_the_real_files(name: str, file: str, late: int | None, spaced: int) -> None:
    folder = Path(os.environ.get("VITAL_SHARED", Path(__file__).parents[2].parent / "shared")) / "data" / name
    if not (folder / file).is_file():
        pytest.skip(f"real annotation files not found at {folder}; set VITAL_SHARED")
    raw = json.loads((folder / file).read_text(encoding="utf-8"))
    assert sum(text != text.strip() for entry in raw.values() for text in entry["sentences"]) == spaced
    samples = task(name).samples(folder)
    assert all(sample.question == sample.question.strip() for sample in samples)
    if late is not None:
        assert sum(sample.target.windows[0][1] > (sample.duration or 0) for sample in samples) == late
    assert len(samples) == sum(len(entry["sentences"]) for entry in raw.values())
