"""Rewards: every source, both terms of grounded questions, and only what the final answer says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.official_forms import WRITERS
from vital_eval.errors import DataError
from vital_eval.generation import FinishReason
from vital_eval.outcome import grade
from vital_eval.parsing.turn import split_turn
from vital_eval.registry import Registry
from vital_eval.sample import Target
from vital_eval.task import Task
from vital_eval.training.rewards import (
    SOURCES,
    TASK_SCALES,
    Kind,
    RewardRules,
    Scale,
    Scored,
    Source,
    ToolBonus,
    format_reward,
    is_rewarded,
    read_solution,
    require_source,
    rollout_reward,
    score_answer,
    task_reward,
    tool_reward,
)
from vital_eval.training.text_scores import mean_rouge, word_error_rate
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

CALL = '<tool_call>{"name": "get_video_clip_frame", "arguments": {"start_time": 2, "end_time": 8}}</tool_call>'

#: Source, solution, and answers with what they are worth. The span 4 to 8 has IoU 2/3 with 2 to 8.
WORTH: dict[str, tuple[object, dict[str, float]]] = {
    "charades": ([2, 8.0], {"2 to 8": 1, "4 - 8": 2 / 3, "From 7 to 9 seconds.": 1 / 7, "8 to 2": 0, "9": 0}),
    "charades_cutreward": ([2, 8.0], {"2.6 to 8": 1, "4 - 8": (2 / 3 - 0.2) / 0.6, "7 to 9": 0}),
    "actnet": ([2, 8], {"4 - 8": 2 / 3}),
    "actnet_cutreward": ([2, 8], {"4 - 8": (2 / 3 - 0.2) / 0.6, "7 to 9": 0}),
    "vidchapter": ([2, 8], {"4 - 8": 1, "7 to 9": 2 / 7}),
    "vidchapter_cutreward": ([2, 8], {"4 - 8": 1, "7 to 9": 2 / 7}),
    "nextgqa": ("From 2.0 to 8.0, B", {"B, 4 to 8": (2 / 3 + 1) / 2, "A, 4 to 8": 1 / 3, "B": 0.5, "C, 9 to 10": 0}),
    "nextgqa_cutreward": ("B, 2 to 8", {"B, 4 to 8": (7 / 9 + 1) / 2, "4 to 8": 7 / 18, "B, 7 to 9": 0.5}),
    "rextime": (
        "From 2 to 8, the dog barks",
        {"From 2 to 8, the dog barks.": 1, "From 4 to 8, rain": 1 / 3, "the dog barks": 0.5, "From 9 to 10, rain": 0},
    ),
    "rextime_cutreward": ("From 2 to 8, it falls", {"From 7 to 9, it falls": 0.5, "From 4 to 8, rain": 7 / 18}),
    "video_r1/multiple_choice": ("B", {"B": 1, "The answer is (B).": 1, "A": 0, "A or B": 0, "Because": 0}),
    "video_r1/numerical": ("3.14", {"3.14": 1, "3.1": 1, "2.9": 0.5, "4": 0, "three": 0.5, "pi": 0}),
    "video_r1/regression": (8.0, {"8": 1, "6": 0.75, "20": 0, "-8": 0}),
    "video_r1/free_form": ("A man opens the door", {"a man opens the door!": 1, "rain": 0, "?": 0}),
    "video_r1/OCR": ("STOP here now", {"STOP here now": 1, "STOP now": 2 / 3, "a b c d e f g": 0}),
}
ANSWERS = [(name, answer, worth) for name, (_, answers) in WORTH.items() for answer, worth in answers.items()]


def play(*turns: str, calls: tuple[bool, ...] = ()) -> Trajectory:
    """Return a finished rollout; the calls belong to the first turns."""
    made = [None if ok is None else ToolCall("{}", "clip", "" if ok else "reversed", "") for ok in calls]
    return Trajectory(
        tuple(
            Turn(text, FinishReason.STOP_STRING, 0, 0, 0, 0, 0.0, call)
            for text, call in itertools.zip_longest(turns, made, fillvalue=None)
            if text is not None
        ),
        StopReason.ANSWERED,
        split_turn(turns[-1]).answer,
        (),
        10.0,
    )


def scorer(name: str) -> Callable[[str | None], Scored]:
    source = require_source(name)
    return partial(score_answer, source, read_solution(source, WORTH[name][0]))


def test_every_source_is_tested_here() -> None:
    assert set(WORTH) == set(SOURCES)
    assert {source.kind for source in SOURCES.values()} == set(Kind)


@pytest.mark.parametrize(("name", "answer", "worth"), ANSWERS)
def test_what_an_answer_is_worth(name: str, answer: str, worth: float) -> None:
    assert scorer(name)(answer).value == pytest.approx(worth)


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_said_is_worth_nothing(name: str) -> None:
    for answer in (None, "", " ", ".", "\n", "<answer></answer>"):
        assert scorer(name)(answer).value == 0


@pytest.mark.parametrize("name", SOURCES)
def test_the_solution_itself_is_worth_all(name: str) -> None:
    solution = WORTH[name][0]
    text = f"{solution[0]} to {solution[1]}" if isinstance(solution, list) else str(solution)
    assert scorer(name)(text).value == 1


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(
                ["1e300", "-0", "nan", "inf", "9" * 300, "2", " to ", "B", ", ", "From ", "<answer>", "\ud800", "."]
            ),
            max_size=9,
        ).map("".join),
    )
)
def test_every_reward_is_finite_and_bounded_on_nonsense(answer: str) -> None:
    for name in SOURCES:
        scored = scorer(name)(answer)
        assert 0 <= scored.value <= 1
        assert all(0 <= part <= 1 for part in scored.parts.values())
        assert rollout_reward(play(answer), scorer(name)).total <= 2


@pytest.mark.parametrize("name", ["nextgqa", "nextgqa_cutreward", "rextime", "rextime_cutreward"])
def test_both_terms_count_and_the_flag_gives_the_released_behaviour(name: str) -> None:
    right, span = str(WORTH[name][0]), "2 to 8, D"
    score = scorer(name)
    assert (score(right).value, score(span).value) == (1, 0.5)
    assert (score(right).parts["qa"], score(span).parts["qa"]) == (1, 0)
    assert score(right).parts["iou"] == score(span).parts["iou"] == 1
    # As released, the answer moves nothing: right and wrong earn the same.
    assert score(right, released_iou_only=True).value == score(span, released_iou_only=True).value == 1


@pytest.mark.parametrize("name", SOURCES)
def test_thoughts_and_tool_calls_are_never_rewarded(name: str) -> None:
    solution = WORTH[name][0]
    text = f"{solution[0]} to {solution[1]}" if isinstance(solution, list) else str(solution)
    score = scorer(name)
    said = rollout_reward(play(f"<think>hm</think><answer>{text}</answer>"), score)
    assert said.task == 1
    for turns in (
        (f"<think>{text}</think><answer>no idea</answer>",),
        (f"<think>{text}</think>",),
        (f"<think>It is {text}.",),
        (f"<think>so <answer>{text}</answer></think><answer>no idea</answer>",),
        (f"<think>look</think><tool_call>{text}</tool_call>", "<think>hm</think><answer>no idea</answer>"),
        (f"<think>look</think><tool_call><answer>{text}</answer></tool_call>",),
        (f"<think>a</think><answer>{text}</answer>", "<think>b</think><answer>no idea</answer>"),
        (text,),
    ):
        assert rollout_reward(play(*turns), score).task == 0, turns


def test_unknown_source_fails_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"charades_cutreward.*video_r1/numerical") as caught:
        require_source("vidchapters")
    assert "'vidchapters'" in caught.value.problem
    assert require_source("./data/charades") is SOURCES["charades"]


@pytest.mark.parametrize(
    ("name", "solution"),
    [
        *(("charades", wrong) for wrong in ([2], [8, 2], [2, 2], [2, math.nan], [True, 2], ["2", "8"], None)),
        *(("charades", wrong) for wrong in ("[8, 2]", "2 to 5 or 3 to 9", "2 8", "")),
        *(("video_r1/multiple_choice", wrong) for wrong in ("", "Because", 1, "A or B", "Z")),
        *(("video_r1/numerical", wrong) for wrong in ("many", "2 or 3", True, math.inf, [1], "")),
        *(("video_r1/free_form", wrong) for wrong in ("", "?!", 3)),
        *(("video_r1/OCR", wrong) for wrong in ("", "  ")),
        *(("nextgqa", wrong) for wrong in ("B", "2 to 8", "B, 2 to 8 or 3 to 9", "B, 8 to 2")),
        *(("rextime", wrong) for wrong in ("From 2 to 8", "it falls", "From 2 to 8, ?")),
    ],
)
def test_a_solution_that_cannot_be_rewarded_is_refused(name: str, solution: object) -> None:
    with pytest.raises(DataError, match=name):
        read_solution(SOURCES[name], solution)


def test_solutions_are_read_with_and_without_tags() -> None:
    assert read_solution(SOURCES["video_r1/multiple_choice"], "<answer>B</answer>").letter == "B"
    assert read_solution(SOURCES["video_r1/numerical"], 4).number == 4
    for text in ("3 to 9.5", "<answer>3.0 to 9.5</answer>", "[3, 9.5]", "<think>1 to 2</think><answer>3-9.5</answer>"):
        assert read_solution(SOURCES["charades"], text) == read_solution(SOURCES["charades"], [3.0, 9.5])
    assert read_solution(SOURCES["nextgqa"], "From 2 to 8, B") == Target(windows=((2.0, 8.0),), letter="B")
    assert read_solution(SOURCES["rextime"], "From 2 to 8, it falls") == Target(windows=((2.0, 8.0),), text="it falls")
    options = ("yes", "no")
    assert read_solution(SOURCES["video_r1/multiple_choice"], "no", options).letter == "B"
    with pytest.raises(DataError, match="from A to B"):
        read_solution(SOURCES["video_r1/multiple_choice"], "C", options)


def test_regression_towards_zero() -> None:
    zero = Target(number=0.0)
    assert score_answer(SOURCES["video_r1/regression"], zero, "0").value == 1
    assert score_answer(SOURCES["video_r1/regression"], zero, "0.1").value == 0


def test_scale_is_linear_between_its_ends() -> None:
    assert [Scale(0.2, 0.8)(score) for score in (0, 0.2, 0.5, 0.8, 1)] == pytest.approx([0, 0, 0.5, 1, 1])
    for alpha, beta in ((0.5, 0.5), (-0.1, 1), (0, 1.1)):
        with pytest.raises(ValueError, match="alpha < beta"):
            Scale(alpha, beta)


@pytest.mark.parametrize(
    ("response", "anchored", "released"),
    [
        ("<think>a</think><answer>b</answer>", 1, 1),
        ("\n<think>a</think>\n\n<answer>b</answer> \n", 1, 1),
        (f"<think>a</think>{CALL}\n<think>b</think><answer>c</answer>", 1, 1),
        ("Sure! <think>a</think><answer>b</answer>", 0, 1),
        ("<think>a</think><answer>b</answer> I hope so.", 0, 1),
        ("<think>a</think><answer>b</answer><think>c", 0, 1),
        ("<think>so <answer>b</answer></think><answer>b</answer>", 0, 1),
        ("<think>a</think> so <answer>b</answer>", 0, 0),
        ("<think>a</think><think>b</think><answer>c</answer>", 0, 0),
        (f"<think>a</think>{CALL}{CALL}<think>b</think><answer>c</answer>", 0, 0),
        ("<answer>b</answer>", 0, 0),
        ("<think>a</think>", 0, 0),
        (f"<think>a</think>{CALL}", 0, 0),
        ("<answer>b</answer><think>a</think>", 0, 0),
        ("<think>a</think><note>n</note><answer>b</answer>", 0, 0),
        ("<think>a</think><answer>b", 0, 0),
        ("<think>a</answer></think><answer>b</answer>", 0, 1),
        ("</think><answer>b</answer>", 0, 0),
        ("", 0, 0),
    ],
)
def test_format(response: str, anchored: int, released: int) -> None:
    assert format_reward(response) == anchored
    assert format_reward(response, released=True) == released


def test_without_a_thought_an_answer_alone_is_the_right_form() -> None:
    alone, thought = "<answer>B</answer>", "<think> so</think><answer>B</answer>"
    assert [format_reward(alone, thought=False), format_reward(thought, thought=False)] == [1.0, 0.0]
    assert [format_reward(alone), format_reward(thought)] == [0.0, 1.0]
    assert format_reward(alone + alone, thought=False) == 0.0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [f"<{end}{tag}>" for tag in ("think", "tool_call", "answer") for end in ("", "/")] + ["x", " "]
        ),
        max_size=10,
    ).map("".join)
)
def test_right_form_is_stricter_than_the_released_one_and_its_answer_can_be_read(response: str) -> None:
    if format_reward(response):
        assert format_reward(response, released=True)
        answer = response.rpartition("<answer>")[2].removesuffix(" ").strip().removesuffix("</answer>").strip()
        assert (split_turn(response).answer or "") == answer


@pytest.mark.parametrize(
    ("bonus", "worth"),
    [(ToolBonus.ONCE, [0, 0.5, 0.5, 0.5]), (ToolBonus.RELEASED, [0, 0.5, 1, 1]), (ToolBonus.NONE, [0, 0, 0, 0])],
)
def test_tool_bonus(bonus: ToolBonus, worth: list[float]) -> None:
    assert [tool_reward(count, bonus) for count in range(4)] == worth


def test_a_rollouts_reward_is_the_sum_of_its_parts() -> None:
    turns = (f"<think>a</think>{CALL}", f"<think>b</think>{CALL}", "<think>c</think><answer>4 to 8</answer>")
    found = rollout_reward(play(*turns, calls=(True, True)), scorer("charades_cutreward"))
    assert (found.format, found.tool) == (1, 0.5)
    assert found.task == pytest.approx(7 / 9)
    assert found.total == found.format + found.task + found.tool
    assert found.parts == {"iou": pytest.approx(2 / 3), "scaled-iou": found.task}
    rules = RewardRules(ToolBonus.RELEASED)
    assert rollout_reward(play(*turns, calls=(True, True)), scorer("charades"), rules).tool == 1
    failed = rollout_reward(play(*turns, calls=(False, True)), scorer("charades"), rules)
    assert failed.tool == 0.5
    # The bonus does not look at the form or the answer, as in the release.
    bare = rollout_reward(play("nothing", "at all", calls=(True,)), scorer("charades"))
    assert (bare.format, bare.task, bare.tool, bare.total) == (0, 0, 0.5, 0.5)
    loose = play("Well. <think>c</think><answer>4 to 8</answer>")
    assert rollout_reward(loose, scorer("charades")).format == 0
    assert rollout_reward(loose, scorer("charades"), RewardRules(released_format=True)).format == 1


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_training_and_evaluation_give_the_same_score(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    task: Task = Registry("task").load(name)()
    key = next(metric.score for metric in task.metrics if metric.name == task.primary)
    seen = set()
    for sample in task.samples(tmp_path):
        target = sample.target
        start, end = target.windows[0] if target.windows else (0.0, 1.0)
        for answer in (
            *("A", "B", "C", "D", "3", "nothing", "", str(target.number), target.text or "", target.letter or ""),
            *(f"{start} to {end}", f"{target.letter}, {start} to {end}", f"{start + 1} to {end + 1}"),
        ):
            trajectory = play(f"<think>9 to 10, E</think><answer>{answer}</answer>")
            evaluated = grade(task, sample, trajectory).scores[key]
            assert is_rewarded(task, sample) == (evaluated is not None)
            evaluated = evaluated or 0.0
            assert task_reward(task, sample, trajectory.answer_text, {}) == evaluated
            scaled = task_reward(task, sample, trajectory.answer_text)
            assert scaled == TASK_SCALES.get(name, Scale())(evaluated)
            reward = rollout_reward(trajectory, lambda text, sample=sample: Scored(task_reward(task, sample, text)))
            assert reward.total == 1 + scaled
            seen.add(evaluated)
        assert task_reward(task, sample, None) == 0
    assert len(seen) > 1
    assert max(seen) > 0.9


def test_samples_outside_the_headline_earn_nothing_and_are_named(tmp_path: Path) -> None:
    WRITERS["mmvu"](tmp_path)
    task: Task = Registry("task").load("mmvu")()
    left_out = [sample for sample in task.samples(tmp_path) if not is_rewarded(task, sample)]
    assert left_out
    assert all(task_reward(task, sample, sample.target.text) == 0 for sample in left_out)


def test_rouge_by_hand() -> None:
    # Shared: the, cat, (the cat), longest common 2, of 3 and 4 words.
    expected = (2 * 2 / 7 + 2 * 1 / 5 + 2 * 2 / 7) / 3
    assert mean_rouge("The cat sat", "the cat, a dog") == pytest.approx(expected)
    assert mean_rouge("cat the", "the cat") == pytest.approx((1 + 0 + 0.5) / 3)
    assert mean_rouge("yes", "Yes.") == pytest.approx(2 / 3)
    assert mean_rouge("the the the", "the") == pytest.approx((2 / 4 + 0 + 2 / 4) / 3)
    assert mean_rouge("", "") == mean_rouge("?", "?") == 0


@pytest.mark.parametrize(
    ("stated", "right", "expected"),
    [
        ("opening", "opens", 0.666667),
        ("A man opens the door and walks in.", "The man is opening a door, walking inside.", 0.416667),
        ("Two boys are playing with toys", "a boy plays with his toy", 0.511111),
        ("she was trying to fly a kite", "She tries flying kites", 0.363636),
        ("He cut the vegetables, then fried them.", "They cut vegetables and are frying them in a pan", 0.35817),
        ("The cat's 2 kittens slept", "the cats 2 kitten sleeping", 0.632997),
        ("the woman lies down", "the woman is lying down", 0.783069),
        ("dies", "die", 0.666667),
        ("using a computer", "computing", 0.333333),
        ("opened opened opened", "open", 0.333333),
        ("It rains", "nothing alike", 0.0),
    ],
)
def test_rouge_is_that_of_the_release(stated: str, right: str, expected: float) -> None:
    # Mean F of rouge1, rouge2 and rougeL of RougeScorer(use_stemmer=True), rouge-score 0.1.2 with nltk 3.10.4.
    assert mean_rouge(stated, right) == pytest.approx(expected, abs=1e-6)


def test_where_rouge_is_not_that_of_the_release() -> None:
    # There "quickly" becomes "quickli", so it scores 0.333333.
    assert mean_rouge("running quickly", "runs quick") == 1


def test_word_error_rate_by_hand() -> None:
    assert word_error_rate("a b c", "a b c") == 0
    assert word_error_rate("a x c", "a b c") == pytest.approx(1 / 3)
    assert word_error_rate("a c", "a b c") == pytest.approx(1 / 3)
    assert word_error_rate("a b b c", "a b c") == pytest.approx(1 / 3)
    assert word_error_rate("", "a b") == 1
    assert word_error_rate("x y z w", "a") == 4
    assert word_error_rate("", "") == word_error_rate("a", "") == 1


WORDS = st.lists(st.sampled_from("abcd"), max_size=7)


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_text_scores_against_their_definitions(one: list[str], other: list[str]) -> None:
    def edits(left: tuple[str, ...], right: tuple[str, ...]) -> int:
        if not left or not right:
            return len(left) + len(right)
        if left[0] == right[0]:
            return edits(left[1:], right[1:])
        return 1 + min(edits(left[1:], right), edits(left, right[1:]), edits(left[1:], right[1:]))

    left, right = tuple(one[:5]), tuple(other[:5])
    if right:
        assert word_error_rate(" ".join(left), " ".join(right)) == pytest.approx(edits(left, right) / len(right))
    assert 0 <= mean_rouge(" ".join(one), " ".join(other)) <= 1
    assert mean_rouge(" ".join(one), " ".join(other)) == pytest.approx(mean_rouge(" ".join(other), " ".join(one)))


def test_a_source_of_ones_own_needs_no_table() -> None:
    own = Source("mine", Kind.SPAN, Scale(0.1, 0.9))
    assert score_answer(own, Target(windows=((0.0, 10.0),)), "0 to 5").value == pytest.approx(0.5)
