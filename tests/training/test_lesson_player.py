"""Lessons are light: shown again they are what was played, and training over many holds few of them."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.lessons import cot, player, stage, tool_cot
from tests.training.nano_policy import DURATION, footage, nano_engine
from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Conversation, Message, TextPart, clips_of
from vital_eval.engines.background_loop import BackgroundLoop
from vital_eval.engines.hf import HFEngine
from vital_eval.episode import Footage
from vital_eval.errors import DataError, MediaError
from vital_eval.footage import Videos
from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.training.lesson_player import KEPT_BYTES, LessonPlayer, frame_bytes
from vital_eval.training.mtvr.files import form_of, read_records
from vital_eval.training.mtvr.records import CotRecord, Form, ToolCotRecord
from vital_eval.training.nano_mtvr import write_nano_mtvr
from vital_eval.training.sft import train_sft
from vital_eval.training.supervised import PLAYED_TOGETHER, Lessons, lessons_of_records


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    with nano_engine() as loaded:
        yield loaded


@pytest.fixture
def background() -> Iterator[BackgroundLoop]:
    with BackgroundLoop("test") as running:
        yield running


def prepared(engine: HFEngine, records: list[CotRecord | ToolCotRecord], playing: LessonPlayer) -> Lessons:
    return lessons_of_records(records, playing, engine._encoder)


def same(one: Conversation, other: Conversation) -> bool:
    """Tell whether two conversations are equal, frame by frame and bit for bit."""

    def words(conversation: Conversation) -> list[object]:
        return [
            (entry.generation.token_ids, entry.generation.text)
            if isinstance(entry, AssistantTurn)
            else (entry.role, [part.text if isinstance(part, TextPart) else "clip" for part in entry.parts])
            for entry in conversation
        ]

    clips = list(zip(clips_of(one), clips_of(other), strict=False))
    return words(one) == words(other) and all(
        a.timestamps == b.timestamps and a.span == b.span and np.array_equal(a.frames, b.frames) for a, b in clips
    )


def nano_records(folder: Path) -> list[CotRecord | ToolCotRecord]:
    write_nano_mtvr(folder, seed=3, per_source=1)
    paths = [path for form in (Form.COT, Form.TOOL_COT) for path in sorted((folder / form).glob("*.json"))]
    records = [record for path in paths for record in read_records(path, form_of(path))]
    return [record for record in records if isinstance(record, CotRecord | ToolCotRecord)]


def test_a_lesson_shown_again_is_the_one_that_was_played(
    engine: HFEngine, background: BackgroundLoop, tmp_path: Path
) -> None:
    records = nano_records(tmp_path)
    first, second = (Videos(tmp_path, "pyav", 0, 60.0, 32) for _ in range(2))
    played = prepared(engine, records, player(engine, background, first.open)).kept
    # Another decoder with nothing in memory, as after a restart.
    light = prepared(engine, records, player(engine, background, second.open, kept_bytes=0)).kept
    assert len(light) == len(records)
    assert {len(clips_of(lesson.conversation)) for lesson in light} == {1, 2}
    for kept, lesson in zip(played, light, strict=True):
        assert lesson.conversation is not lesson.conversation
        assert kept.conversation is kept.conversation
        assert same(kept.conversation, lesson.conversation)
        assert (lesson.nbytes, lesson.length) == (kept.nbytes, kept.length)
        assert lesson.nbytes == frame_bytes(kept.conversation) > 0
    # The controls: other videos, and the same video with one value of one frame changed.
    twins = [(a, b) for a in light[:4] for b in light[:4] if a is not b]
    assert not any(same(a.conversation, b.conversation) for a, b in twins)
    changed = light[0].conversation
    clip = clips_of(changed)[0]
    frames = clip.frames.copy()
    frames[-1, -1, -1, -1] ^= 1
    object.__setattr__(clip, "frames", frames)
    assert not same(changed, played[0].conversation)
    for videos in (first, second):
        background.run(videos.close())


class Camera:
    """Grey videos, a new clip at every look, and how many of the clips are alive."""

    def __init__(self) -> None:
        self.alive = 0
        self.most = 0
        self.looks = 0

    async def open(self, video: str) -> Footage:
        """Open one of them."""
        grey = footage(90 + sum(video.encode()) % 100)

        async def read(span: Span | None, view: View) -> Clip:
            clip = await grey.read(span, view)
            self.looks += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(clip.frames, self._gone)
            return clip

        return Footage(DURATION, DURATION - 0.25, read)

    def _gone(self) -> None:
        self.alive -= 1


def test_few_lessons_are_in_memory_at_a_time(engine: HFEngine, background: BackgroundLoop, tmp_path: Path) -> None:
    records = [cot(f"v{number}") for number in range(24)]
    camera, control = Camera(), Camera()
    lessons = prepared(engine, records, player(engine, background, camera.open, kept_bytes=0)).kept
    assert camera.looks == 24
    assert camera.most <= PLAYED_TOGETHER
    assert camera.alive == 0
    camera.most = 0
    plan, ahead = {"epochs": 1, "batch": 8, "micro_batch": 2}, 4
    model = copy.deepcopy(engine._model)
    train_sft(
        model,
        engine._encoder,
        lessons,
        stage(**plan),
        tmp_path / "light",
        0,
        lambda line: None,
        ahead_bytes=ahead * lessons[0].nbytes,
    )
    assert camera.looks == 48
    # What is read ahead, the one just taken, and those of a forward pass.
    assert 2 <= camera.most <= ahead + 1 + plan["micro_batch"]
    assert camera.alive <= 1

    # The control: kept in memory they are all alive, decoded once, and training is the same, bit for bit.
    kept = prepared(engine, records, player(engine, background, control.open)).kept
    same_model = copy.deepcopy(engine._model)
    train_sft(same_model, engine._encoder, kept, stage(**plan), tmp_path / "kept", 0, lambda line: None)
    assert (control.alive, control.looks) == (24, 24)
    for light, heavy in zip(model.parameters(), same_model.parameters(), strict=True):
        assert torch.equal(light, heavy)


def test_what_fits_is_kept(engine: HFEngine, background: BackgroundLoop) -> None:
    camera = Camera()
    records = [cot(f"v{number}") for number in range(5)]
    size = prepared(engine, records[:1], player(engine, background)).kept[0].nbytes
    lessons = prepared(engine, records, player(engine, background, camera.open, kept_bytes=2 * size + 1)).kept
    assert camera.alive == 2
    assert sum(lesson.conversation is lesson.conversation for lesson in lessons) == 2
    assert 5 * size < KEPT_BYTES


class StopError(Exception):
    """Stands for a process that ends."""


def test_a_resumed_stage_of_light_lessons_equals_an_undisturbed_one(
    engine: HFEngine, background: BackgroundLoop, tmp_path: Path
) -> None:
    records = [cot("a"), tool_cot("b"), cot("c", "<think> red, then blue</think><answer>3 to 7</answer>"), cot("d")]
    plan = stage(epochs=3, batch=2)

    def fresh() -> Lessons:
        return prepared(engine, records, player(engine, background, Camera().open, kept_bytes=0))

    def stop(line: str) -> None:
        if " step 4/" in line:
            raise StopError

    whole, parts, resumed = (copy.deepcopy(engine._model) for _ in range(3))
    encoder = engine._encoder
    expected = train_sft(whole, encoder, fresh().kept, plan, tmp_path / "whole", 0, lambda line: None)
    with pytest.raises(StopError):
        train_sft(parts, encoder, fresh().kept, plan, tmp_path / "parts", 0, stop, save_every=3)
    rest = train_sft(resumed, encoder, fresh().kept, plan, tmp_path / "parts", 0, lambda line: None)
    assert [metrics.step for metrics in rest] == [3, 4, 5]
    assert [metrics.loss for metrics in rest] == [metrics.loss for metrics in expected[3:]]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("gone", r"record b cannot be shown again, because its video b.mp4 changed: missing: no b.mp4; bring the"),
        ("longer", r"record b has \d+ tokens instead of \d+: its video b.mp4 is another one than when"),
    ],
)
def test_a_video_that_changes_before_training_is_one_line_with_its_name(
    engine: HFEngine, background: BackgroundLoop, tmp_path: Path, change: str, problem: str
) -> None:
    changed: set[str] = set()

    async def open_video(video: str) -> Footage:
        if video not in changed:
            return footage()
        if change == "gone":
            raise MediaError("missing", f"no {video}")

        async def short(span: Span | None, view: View) -> Clip:
            clip = await footage().read(span, view)
            return Clip(clip.frames[:-4], clip.timestamps[:-4], clip.span)

        return Footage(DURATION, DURATION - 0.25, short)

    records = [cot("a"), cot("b"), cot("c")]
    lessons = prepared(engine, records, player(engine, background, open_video, kept_bytes=0)).kept
    changed.add("b.mp4")
    before, model = engine._model, copy.deepcopy(engine._model)
    with pytest.raises(DataError, match=problem) as caught:
        train_sft(model, engine._encoder, lessons, stage(epochs=1, batch=3), tmp_path, 0, lambda line: None)
    assert len(str(caught.value).splitlines()) == 1
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True))


def test_messages_are_tool_replies_too(engine: HFEngine, background: BackgroundLoop) -> None:
    (lesson,) = prepared(engine, [tool_cot("t")], player(engine, background, kept_bytes=0)).kept
    roles = [entry.role for entry in lesson.conversation if isinstance(entry, Message)]
    assert roles == ["system", "user", "tool"]
    assert lesson.video == "t.mp4"
