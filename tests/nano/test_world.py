"""The nano world: deterministic, held out, and in the official formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vital_eval.nano.formats import TASKS, write_world
from vital_eval.nano.questions import Ask, ask_question
from vital_eval.nano.render import FRAME_SIDE, draw, write_mp4
from vital_eval.nano.world import COLOURS, FPS, Event, VideoPlan, World, generator, make_video
from vital_eval.protocol import View
from vital_eval.registry import Registries
from vital_eval.video.pyav_decoder import PyAVDecoder
from vital_eval.video.source import ClipSource

PLANS = {
    "plain": VideoPlan(24.0, 120.0),
    "tiled": VideoPlan(24.0, 120.0, tiled=True),
    "repeated": VideoPlan(24.0, 120.0, repeated=True),
    "flash": VideoPlan(24.0, 120.0, flash=True),
    "ends": VideoPlan(24.0, 120.0, ends_visible=True),
}


@pytest.mark.parametrize("name", PLANS)
def test_events_are_in_order_inside_the_video_and_on_frames(name: str) -> None:
    plan = PLANS[name]
    for seed in range(50):
        video = make_video(plan, generator(World.TRAIN, seed))
        bounds = [bound for event in video.events for bound in event.window]
        assert bounds == sorted(bounds)
        assert bounds[0] >= 0
        assert bounds[-1] <= video.duration
        assert all(event.start < event.end for event in video.events)
        assert all(bound * FPS == round(bound * FPS) for bound in bounds)
        colours = [event.colour for event in video.events]
        assert len(colours) - len(set(colours)) == (1 if plan.repeated else 0)
        if plan.tiled:
            assert bounds[0] == 0
            assert bounds[1:-1:2] == bounds[2::2]
        if plan.tiled or plan.ends_visible:
            assert bounds[-1] == video.duration


def test_train_and_test_worlds_never_share_a_video() -> None:
    plan = PLANS["plain"]
    train = {make_video(plan, generator(World.TRAIN, seed)) for seed in range(200)}
    test = {make_video(plan, generator(World.TEST, seed)) for seed in range(200)}
    assert not train & test
    assert make_video(plan, generator(World.TEST, 3)) in test, "the same seed must give the same video"


@pytest.mark.parametrize("ask", list(Ask))
def test_the_right_option_is_right_and_the_only_one(ask: Ask) -> None:
    options = {Ask.SHAPE_AND_MOMENT: 5, Ask.SIDE: 2}.get(ask, 4)
    for seed in range(30):
        rng = generator(World.TRAIN, seed)
        video = make_video(PLANS["flash"], rng)
        question = ask_question(
            ask, video, rng, options if ask not in {Ask.MOMENT, Ask.MOMENTS, Ask.COUNT, Ask.SIZE} else 0
        )
        if question.letter is not None:
            assert question.options[ord(question.letter) - ord("A")] == question.word
            assert len(set(question.options)) == len(question.options)
        if question.window is not None:
            start, end = question.window
            seen = {event.colour for event in video.events if event.start < end and start < event.end}
            assert seen <= {question.event.colour} | {
                e.colour for e in video.events if e.end == start or e.start == end
            }
            assert question.event.colour in seen


def test_mp4_shows_what_the_events_say(tmp_path: Path) -> None:
    video = make_video(PLANS["plain"], generator(World.TEST, 1))
    write_mp4(video, tmp_path / "a.mp4")
    source = ClipSource(tmp_path, PyAVDecoder())
    view = View(fps=4.0, max_frames=1000, min_pixels=1, max_pixels=FRAME_SIDE * FRAME_SIDE, clock=False)
    clip = source.read("a.mp4", None, view, 32)
    assert clip.timestamps == video.frame_times
    assert clip.frames.shape[1:] == (FRAME_SIDE, FRAME_SIDE, 3)
    for frame, time in zip(clip.frames, clip.timestamps, strict=True):
        wanted = draw(video.scene, video.event_at(time), time)
        assert np.abs(frame.astype(int) - wanted).mean() < 12, time


def test_shapes_and_colours_can_be_told_apart() -> None:
    frames = [
        draw(0, Event(0, 1, colour, shape, 60, "left"), 0.0)
        for colour in COLOURS
        for shape in ("circle", "square", "bar")
    ]
    for i, one in enumerate(frames):
        for other in frames[:i]:
            assert np.abs(one.astype(int) - other).mean() > 2


@pytest.mark.parametrize("name", ["charades_sta", "activitynet_mr", "vidchapters"])
def test_training_annotations_are_of_other_videos(name: str, tmp_path: Path) -> None:
    write_world(tmp_path, seed=5, per_task=1)
    task = Registries().tasks.load(name)()
    training = task.training_moments(tmp_path / name)
    asked = {(sample.target.windows[0], sample.duration) for sample in task.samples(tmp_path / name)}
    assert len(training) > 100
    assert not asked & set(training)
    assert all(0 <= window[0] < window[1] <= length + 1 for window, length in training)
    assert len(list((tmp_path / name / "videos").iterdir())) == len({video for _, video in asked})


def test_world_loads_through_the_eleven_official_loaders(tmp_path: Path) -> None:
    finished: list[str] = []
    write_world(tmp_path, seed=5, per_task=6, report=finished.append)
    registry = Registries().tasks
    assert tuple(finished) == TASKS
    assert set(TASKS) == set(registry.names())
    for name in registry.names():
        samples = registry.load(name)().samples(tmp_path / name)
        assert len(samples) >= 6
        for sample in samples:
            assert (tmp_path / name / "videos" / sample.video).is_file()
    first = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.json*")}
    write_world(tmp_path / "again", seed=5, per_task=6)
    again = {path.relative_to(tmp_path / "again"): path.read_bytes() for path in (tmp_path / "again").rglob("*.json*")}
    assert first == again
