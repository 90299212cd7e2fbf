"""Curation: what is kept, and that written tool dialogues are what the harness itself would accept."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vital_eval.clip import Clip
from vital_eval.errors import DataError
from vital_eval.parsing.turn import split_turn
from vital_eval.span import Span
from vital_eval.toolbox import GetVideoClipFrame, ToolLimits, run_call
from vital_eval.training.curation import (
    CLIP_NOISE,
    MIN_CLIP_SECONDS,
    Said,
    difficulty_filter,
    noisy_clip,
    passes,
    tool_cot_record,
)
from vital_eval.training.mtvr.checks import check_records
from vital_eval.training.mtvr.records import Media, RlRecord


def test_filter_keeps_the_middle_in_order() -> None:
    outcomes = {"b": [True] * 8, "a": [False] * 7 + [True], "d": [False] * 8, "c": [True] * 7 + [False]}
    filtered = difficulty_filter(outcomes)
    assert (filtered.kept, filtered.all_passed, filtered.none_passed) == (("a", "c"), ("b",), ("d",))
    with pytest.raises(DataError, match="sample a has 7 rollouts, not 8"):
        difficulty_filter({"a": [True] * 7})
    with pytest.raises(DataError, match="not 0"):
        difficulty_filter({"a": []}, rollouts=0)


def test_threshold_passes_inclusively_and_refuses_what_is_no_score() -> None:
    assert passes({"a": [0.5, 0.499]}, threshold=0.5) == {"a": (True, False)}
    with pytest.raises(DataError, match="sample a"):
        passes({"a": [math.nan]}, threshold=0.5)


@given(
    start=st.floats(0, 990),
    length=st.floats(0.01, 500),
    duration=st.floats(0.5, 1000),
    name=st.text(),
    noise=st.floats(0, 0.49),
    decimals=st.integers(0, 3),
)
def test_clip_stays_in_the_video_and_covers_the_truth_but_for_the_noise(
    start: float, length: float, duration: float, name: str, noise: float, decimals: int
) -> None:
    step = 10.0**-decimals
    limit = math.floor(duration * 10**decimals + 1e-6) / 10**decimals
    if start >= limit:
        with pytest.raises(DataError, match="outside its video"):
            noisy_clip(Span(start, start + length), duration, name, 0, noise, decimals=decimals)
        return
    clip = noisy_clip(Span(start, start + length), duration, name, 0, noise, decimals=decimals)
    end = min(start + length, limit)
    slack = 1e-5
    assert 0 <= clip.start < clip.end <= duration + slack
    assert clip.length >= min(MIN_CLIP_SECONDS, limit) - slack
    assert clip.start <= start + noise * (end - start) + slack
    assert clip.end >= end - noise * (end - start) - slack
    assert round(clip.start / step) == pytest.approx(clip.start / step, abs=1e-6)
    assert round(clip.end / step) == pytest.approx(clip.end / step, abs=1e-6)


def test_noise_is_uniform_and_the_ends_are_independent() -> None:
    truth = Span(400.0, 500.0)
    clips = [noisy_clip(truth, 1000.0, f"id{index}", seed=3) for index in range(4000)]
    first = np.array([(clip.start - truth.start) / truth.length for clip in clips])
    last = np.array([(clip.end - truth.end) / truth.length for clip in clips])
    for moves in (first, last):
        assert abs(moves).max() <= CLIP_NOISE + 1e-4
        uniform = stats.uniform(-CLIP_NOISE, 2 * CLIP_NOISE)
        assert stats.kstest(moves, uniform.cdf).pvalue > 0.01
        # The test must be able to tell: noise of half the width would not pass.
        assert stats.kstest(moves / 2, uniform.cdf).pvalue < 1e-6
    assert abs(np.corrcoef(first, last)[0, 1]) < 0.05


def test_clip_depends_on_id_and_seed_alone() -> None:
    def draw(name: str, seed: int) -> Span:
        return noisy_clip(Span(10.0, 30.0), 60.0, name, seed)

    assert draw("a", 1) == draw("a", 1) == Span(10.51, 28.85), "as any other process draws it"
    assert len({draw("a", 1), draw("b", 1), draw("a", 2)}) == 3


def test_short_moments_are_widened_inside_the_video() -> None:
    assert noisy_clip(Span(5.0, 5.2), 60.0, "a", 0, noise=0.0) == Span(4.35, 5.85)
    assert noisy_clip(Span(0.0, 0.2), 60.0, "a", 0, noise=0.0) == Span(0.0, 1.5)
    assert noisy_clip(Span(59.9, 60.0), 60.0, "a", 0, noise=0.0) == Span(58.5, 60.0)
    assert noisy_clip(Span(0.2, 0.4), 1.0, "a", 0) == Span(0.0, 1.0)
    with pytest.raises(ValueError, match="noise"):
        noisy_clip(Span(0.0, 1.0), 2.0, "a", 0, noise=0.5)


RECORD = RlRecord(
    id="charades/1",
    text="When?",
    media=Media("video", "v.mp4"),
    duration=30.0,
    data_source="./data/charades",
    video_kwargs={"max_frames": 8},
    solution=(4.0, 12.0),
)


def _write(record: RlRecord, clip: Span) -> Said:
    assert not isinstance(record.solution, str)
    start, end = record.solution
    return Said(f"Perhaps {clip.start} to {clip.end}.", "Yes.", f"{start:.2f} to {end:.2f}")


@pytest.mark.parametrize("decimals", [0, 2])
def test_dialogue_passes_the_harness_and_the_checks(decimals: int) -> None:
    asked: list[Span] = []

    async def read_clip(span: Span) -> Clip:
        asked.append(span)
        return Clip(np.zeros((1, 4, 4, 3), np.uint8), (span.start,), span)

    dialogue = tool_cot_record(RECORD, _write, seed=5, decimals=decimals)
    first, last = (split_turn(turn) for turn in dialogue.turns)
    assert first.anomalies == last.anomalies == ()
    assert (first.answer, last.tool_call, last.answer) == (None, None, "4.00 to 12.00")
    assert first.tool_call is not None
    # The strictest limits: nothing may need to be clamped.
    tool = GetVideoClipFrame()
    result = asyncio.run(run_call(first.tool_call, {tool.name: tool}, ToolLimits(30.0, 0.0, 1.0), read_clip))
    assert result.notes == ()
    assert asked == [Span(*dialogue.tool_params)]
    assert check_records([dialogue], None).kept == (dialogue,)
    assert dialogue.turns[0].startswith(f"<think>Perhaps {asked[0].start} to {asked[0].end}.</think>")
    for name in ("id", "text", "media", "duration", "data_source", "video_kwargs"):
        assert getattr(dialogue, name) == getattr(RECORD, name)
    assert dialogue.answer == RECORD.solution


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"solution": "B"}, "no span"),
        ({"solution": (5.0, 5.0)}, "no span"),
        ({"duration": None}, "duration"),
        ({"media": Media("image", "x.jpg")}, "needs a video"),
        ({"solution": (40.0, 50.0)}, "outside its video"),
    ],
)
def test_records_that_cannot_have_a_dialogue_are_refused(changes: dict[str, object], told: str) -> None:
    fields = {name: getattr(RECORD, name) for name in ("id", "text", "media", "duration", "data_source", "solution")}
    with pytest.raises(DataError, match=told):
        tool_cot_record(RlRecord(**(fields | changes)), _write, seed=0)
