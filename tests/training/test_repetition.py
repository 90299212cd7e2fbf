"""Repetition is measured, may be punished, and stops a stage that fell into it."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vital_eval.conversation import AssistantTurn, Message, TextPart
from vital_eval.errors import VitalError
from vital_eval.generation import FinishReason, Generation
from vital_eval.training.repetition import Repetition, is_loop, repeated_share, repetition_of, require_variety
from vital_eval.training.rewards import RewardRules, Scored, rollout_reward
from vital_eval.trajectory import StopReason, Trajectory, Turn

TOKENS = st.lists(st.integers(0, 20), max_size=120)


def said(ids: list[int], finish: FinishReason = FinishReason.LENGTH) -> Generation:
    return Generation(tuple(ids), "", finish, prompt_tokens=3)


@given(TOKENS, st.integers(1, 6))
def test_the_share_lies_between_none_and_all_and_names_of_tokens_do_not_matter(ids: list[int], size: int) -> None:
    share = repeated_share(ids, size)
    assert 0 <= share < 1
    assert repeated_share([100 - 3 * token for token in ids], size) == share
    # Written backwards the same n-grams repeat, backwards.
    assert repeated_share(ids[::-1], size) == pytest.approx(share)


@given(st.permutations(range(40)), st.integers(1, 6))
def test_what_never_repeats_has_no_share(ids: list[int], size: int) -> None:
    assert repeated_share(ids, size) == 0
    assert not is_loop(said(ids))


@given(st.integers(1, 12), st.integers(0, 100), st.integers(1, 6))
def test_a_period_has_the_share_that_can_be_worked_out(period: int, extra: int, size: int) -> None:
    length = period + size - 1 + extra
    ids = [place % period for place in range(length)]
    assert repeated_share(ids, size) == pytest.approx(1 - period / (length - size + 1))
    assert repeated_share([*ids, length % period], size) >= repeated_share(ids, size)


@given(TOKENS)
def test_a_turn_that_ends_by_itself_is_no_loop(ids: list[int]) -> None:
    for finish in (FinishReason.END_OF_TURN, FinishReason.STOP_STRING):
        assert not is_loop(said(ids, finish))


def test_a_loop_after_something_sensible_is_one_and_a_long_text_is_none() -> None:
    sensible = list(range(100, 160))
    assert is_loop(said([*sensible, *[1, 2, 3] * 20]))
    assert not is_loop(said([*sensible, *[1, 2, 3] * 20], FinishReason.STOP_STRING))
    assert not is_loop(said([*sensible, *range(200, 260)]))
    # A list of frames repeats its words, not its numbers.
    frames = [token for frame in range(40) for token in (1, 2, 300 + frame, 3)]
    assert not is_loop(said(frames))
    assert repeated_share(frames) < 0.1
    assert not is_loop(said([]))


def test_a_conversation_is_as_repetitive_as_its_worst_turn() -> None:
    asked = Message("user", (TextPart("when?"),))
    good, bad = said(list(range(20)), FinishReason.STOP_STRING), said([5] * 40)
    assert repetition_of((asked, AssistantTurn(good))) == Repetition(truncated=False, share=0.0, looping=False)
    found = repetition_of((asked, AssistantTurn(good), asked, AssistantTurn(bad)))
    assert (found.truncated, found.looping) == (True, True)
    assert found.share == pytest.approx(1 - 1 / 37)
    assert repetition_of((asked,)) == Repetition(truncated=False, share=0.0, looping=False)


def trajectory(text: str) -> Trajectory:
    turn = Turn(text, FinishReason.LENGTH, 3, 0, 0, 9, 0.1)
    return Trajectory((turn,), StopReason.MAX_TOKENS, None, (), 9.0)


def test_the_penalty_is_off_by_default_and_tells_loops_from_other_failures() -> None:
    def score(answer: str | None) -> Scored:
        return Scored(0.0 if answer is None else 1.0)

    cut = trajectory("<think>so")
    assert rollout_reward(cut, score, RewardRules(), looping=True) == rollout_reward(cut, score, RewardRules())
    rules = RewardRules(loop_penalty=0.5)
    looping, other = rollout_reward(cut, score, rules, looping=True), rollout_reward(cut, score, rules)
    assert (looping.total, looping.loop) == (-0.5, 0.5)
    assert (other.total, other.loop) == (0.0, 0.0)
    assert dataclasses.replace(looping, total=0.0, loop=0.0) == other
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="loop_penalty"):
            RewardRules(loop_penalty=wrong)


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0, 1), st.integers(1, 8))
def test_a_stage_stops_exactly_when_enough_steps_in_a_row_exceed_the_limit(
    shares: list[float], limit: float, steps: int
) -> None:
    stops = len(shares) >= steps and all(share > limit for share in shares[-steps:])
    if stops:
        with pytest.raises(VitalError, match=r"fell into repetition.*state is kept"):
            require_variety("rl", len(shares) - 1, shares, limit, steps)
    else:
        require_variety("rl", len(shares) - 1, shares, limit, steps)


def test_the_message_names_the_steps_as_the_progress_lines_do() -> None:
    with pytest.raises(VitalError, match=r"stage rl .* steps 8 to 10 more than 50% .*the last: 75%"):
        require_variety("rl", 9, [0.0, 0.6, 0.6, 0.75], 0.5, 3)
    require_variety("rl", 9, [1.0] * 9, 1.0, 3)
