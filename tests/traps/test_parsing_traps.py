"""Traps 1 to 21: what is read as an answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.official_forms import write_lines
from tests.traps.worlds import answered, call, choice, judged, moment, official, opened, play, size, task, window
from vital_eval.outcome import Outcome, grade
from vital_eval.parsing.official import official_letter, official_number
from vital_eval.parsing.options import parse_option
from vital_eval.parsing.text import exact_match
from vital_eval.parsing.turn import split_turn
from vital_eval.presets import preset
from vital_eval.protocol import Mode
from vital_eval.runner import make_record
from vital_eval.task import Unparsed
from vital_eval.trajectory import StopReason

Pair = tuple[float, float]
OPTIONS = ("opens a door", "closes a box", "sits down", "Doctors meet")


def _naive_last_pair(text: str) -> Pair:
    """Pair numbers two by two on each line of everything that was said; keep the last pair that runs forwards."""
    found = (-1.0, -1.0)
    for line in text.splitlines():
        numbers = [float(number) for number in re.findall(r"\b\d+(?:\.\d+)?\b", line)]
        for start, end in zip(numbers[::2], numbers[1::2], strict=False):
            if start < end:
                found = (start, end)
    return found


def _naive_first_capital(text: str) -> str:
    match = re.search(r"[A-Z]", text)
    return match[0] if match else ""


def _naive_first_number(text: str) -> float | None:
    match = re.search(r"\d+\.?\d*", text)
    return float(match[0]) if match else None


def _naive_first_answer(text: str) -> str:
    match = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return match[1].strip() if match else ""


def test_trap_001_tool_call_arguments_are_no_answer() -> None:
    assert _naive_last_pair(call(12, 30)) == (12, 30)
    graded = judged(moment(12, 30), call(12, 30), mode=Mode.TOOL)
    assert graded.outcome is Outcome.UNPARSED
    assert set(graded.scores.values()) == {0.0}


@given(st.text(alphabet='AB 0123456789.{}":,-to', max_size=40))
@settings(max_examples=60, deadline=None)
def test_trap_001_no_text_of_a_tool_call_becomes_an_answer(inner: str) -> None:
    for text in (f"<tool_call>{inner}</tool_call>", f"<tool_call><answer>{inner}</answer></tool_call>"):
        assert split_turn(text).answer is None
        trajectory, _ = play(moment(), text, mode=Mode.COT)
        assert trajectory.answer_text is None


def test_trap_002_a_count_in_the_thought_shifts_no_pair() -> None:
    said = "<think>I see 3 people.</think><answer>From 10.00 to 20.00</answer>"
    assert _naive_last_pair(said) == (3, 10)
    assert window(judged(moment(), said)) == (10, 20)
    assert window(answered(moment(), "I see 3 people. From 10.00 to 20.00")) == (10, 20)


@pytest.mark.parametrize(
    ("said", "naive", "right"),
    [
        ("10s - 20s", (-1, -1), (10, 20)),
        ("10.50s - 20.75s", (10, 20), (10.5, 20.75)),
        ("01:30 - 02:10", (2, 10), (90, 130)),
        ("1,200 to 1,350", (1, 350), (1200, 1350)),
        ("1:00:05 \u2013 1:00:30", (0, 30), (3605, 3630)),
    ],
)
def test_trap_003_units_clocks_and_thousands(said: str, naive: Pair, right: Pair) -> None:
    assert _naive_last_pair(said) == naive
    assert window(answered(moment(), said)) == right


def test_trap_004_a_reversed_span_falls_back_on_nothing() -> None:
    said = "<think>maybe 12 to 30</think><answer>From 20 to 10</answer>"
    assert _naive_last_pair(said.replace("<answer>", "\n")) == (12, 30)
    for text in (said, "<think>hm</think><answer>12 to 30, no: from 20 to 10</answer>"):
        graded = judged(moment(12, 30), text)
        assert (graded.outcome, graded.reason) == (Outcome.UNPARSED, "reversed-span")
        assert set(graded.scores.values()) == {0.0}


@pytest.mark.parametrize(
    ("said", "naive", "right"),
    [("Option B", "O", "B"), ("I think B", "I", "B"), ("b", "", "B"), ("Based on it, (C)", "B", "C")],
)
def test_trap_005_the_first_capital_is_not_the_answer(said: str, naive: str, right: str) -> None:
    assert _naive_first_capital(said) == naive
    graded = answered(choice(right, *OPTIONS), said)
    assert graded.answer is not None
    assert graded.answer.letter == right


def test_trap_005_letters_that_are_not_offered_are_refused() -> None:
    assert _naive_first_capital("E") == "E"
    graded = answered(choice("A", *OPTIONS), "E")
    assert (graded.outcome, graded.reason) == (Outcome.UNPARSED, "unknown-option")


def _naive_strip_prefixes(text: str) -> str:
    # The comma that is missing between the first two makes one prefix of both.
    for prefix in ["Best answer:Best option:", "The answer is"]:
        text = text.replace(prefix, "")
    return text.strip()


@pytest.mark.parametrize(
    "lead", ["Best answer:", "Best option:", "The best answer is", "The correct option is", "Answer:"]
)
def test_trap_006_no_list_of_prefixes(lead: str) -> None:
    assert _naive_first_capital(_naive_strip_prefixes("Best answer: C")) == "B"
    for said in (f"{lead} C", f"{lead} (C)", f"{lead} C."):
        assert answered(choice("C", *OPTIONS), said).scores["accuracy"] == 1


def test_trap_007_empty_never_equals_empty() -> None:
    assert _naive_first_capital("12.97") == _naive_first_capital("no idea") == ""
    gold = opened(gold="12.97", number=12.97, task_name="videommmu")
    text = opened(gold="a lower-case sentence", task_name="videommmu")
    for said in ("no idea", "", "...", "?"):
        for sample in (gold, text):
            assert answered(sample, said).scores["accuracy"] == 0
    assert answered(gold, "").outcome is Outcome.UNPARSED
    assert not exact_match("", "")
    assert answered(gold, "12.97").scores["accuracy"] == 1


def test_trap_008_the_last_complete_answer_of_the_turn_counts_for_every_task() -> None:
    said = "<think>x</think><answer>A</answer> wait <answer>C</answer> and <answer>B"
    assert _naive_first_answer(said) == "A"
    # A turn ends with its first closing tag, so a second one exists only where an engine does not stop there.
    assert split_turn(said).answer == "C"
    spans = "<answer>1 to 2</answer><answer>12 to 30</answer>"
    assert split_turn(spans).answer == "12 to 30"


@pytest.mark.parametrize(
    ("said", "naive", "right"),
    [
        ("-5", 5, -5),
        ("1,200", 1, 1200),
        ("1e3", 1, 1000),
        ("twenty-three", None, 23),
        ("a hundred and five", None, 105),
        ("two hundred", None, 200),
        ("x is 5.\nThe answer is 8", 5, 8),
    ],
)
def test_trap_009_numbers_with_sign_separator_exponent_and_words(said: str, naive: float | None, right: float) -> None:
    assert _naive_first_number(said) == naive
    graded = answered(size(1), said)
    assert graded.answer is not None
    assert graded.answer.number == right


def test_trap_009_several_numbers_are_recorded() -> None:
    graded = answered(size(3), "about 2-3")
    assert graded.answer is not None
    assert (graded.answer.number, graded.answer.notes) == (3, ("several-numbers",))


def test_trap_010_ground_truth_comes_from_structured_fields(tmp_path: Path) -> None:
    sentence = "From 1.00 to 116.00, by laying 2 of 3 towels"
    assert _naive_last_pair(sentence) == (2, 3)
    row = {"qid": "anet_val1", "query": "How?", "duration": 150, "vid": "v", "relevant_windows": [[1, 116]], "ans": "A"}
    hub = {
        "qid": "anet_val1",
        "options": ["by laying 2 of 3 towels", "no"],
        "ans": "A",
        "answer": sentence,
        "span": [2, 3],
    }
    write_lines(tmp_path / "rextime_val.jsonl", [row])
    write_lines(tmp_path / "rextime_val_hub.jsonl", [hub])
    (sample,) = task("rextime").samples(tmp_path)
    assert sample.target.windows == ((1, 116),)
    assert answered(sample, "A, 1.00 to 116.00").scores["iou"] == 1


def test_trap_011_what_is_rewarded_is_the_tasks_own_score() -> None:
    said = f"<think>12 to 30</think>{call(12, 30)}"
    assert _naive_last_pair(said) == (12, 30)
    sample = moment(12, 30)
    trajectory, _ = play(sample, said, "<think>12 to 30</think><answer>later</answer>", mode=Mode.TOOL)
    record = make_record(task(sample.task), sample, preset("vital", Mode.TOOL, sample.task), 0, trajectory)
    assert record.scores == grade(task(sample.task), sample, trajectory).scores
    assert set(record.scores.values()) == {0.0}


def _naive_dashes(text: str) -> Pair | None:
    """Turn every "to" into a dash and take the first two numbers with one between them."""
    match = re.search(r"(\d+\.?\d*)\s*-\s*(\d+\.?\d*)", text.replace("to", "-"))
    return (float(match[1]), float(match[2])) if match else None


@pytest.mark.parametrize(
    ("said", "naive"),
    [
        ("It starts at 24.3s and ends at 30.4s", None),
        ("[24.3, 30.4]", None),
        ("between 24.3 and 30.4 seconds", None),
        ("starts at 24.3 seconds and finishes by 30.4 seconds", None),
        ("I looked at 0 - 10 first. The event happens in 24.3 - 30.4", (0, 10)),
        ("The event '2-3 people' happens in 24.3 - 30.4", (2, 3)),
        ("In part 3 to 4 people stop: 24.3 to 30.4", (3, 4)),
    ],
)
def test_trap_012_sentences_with_a_span(said: str, naive: Pair | None) -> None:
    assert _naive_dashes(said) == naive
    assert window(answered(moment(), said)) == (24.3, 30.4)


def _naive_first_two(text: str) -> Pair:
    first, second = re.findall(r"\b\d+(?:\.\d+)?\b", text)[:2]
    return (float(first), float(second))


@pytest.mark.parametrize(
    ("said", "naive"),
    [
        ("24.3s - 30.4s", (24.0, 30.0)),
        ("event 'person with 2 dogs' happens between 24.3 and 30.4", (2.0, 24.3)),
    ],
)
def test_trap_013_fractions_and_counts_beside_a_span(said: str, naive: Pair) -> None:
    assert _naive_first_two(said) == naive
    assert window(answered(moment(), said)) == (24.3, 30.4)


@pytest.mark.parametrize("said", ["(B)", "**B**", "The answer is B", "B\n\nBecause it fell"])
def test_trap_014_official_and_lenient_letters(said: str) -> None:
    # The official first-word reading is itself the naive one here; both figures are given, under their own names.
    assert not official_letter(said, "B")
    option = parse_option(said, OPTIONS)
    assert not isinstance(option, Unparsed)
    assert option.letter == "B"


def test_trap_014_official_and_lenient_numbers() -> None:
    assert [official_number(said) for said in ("1,200", "four chairs", "In frame 1 there are 4")] == [None, None, None]
    names = {metric.name: metric.score for metric in task("vsi_bench").metrics}
    assert names["Average"] != names["Average (lenient parser)"]
    graded = answered(size(4), "In frame 1 there are 4 chairs")
    assert graded.scores[names["Average (lenient parser)"]] == 1
    assert graded.scores[names["Average"]] == 0
    assert answered(size(4), "4 chairs").scores[names["Average"]] == 1


def _naive_substring(said: str, gold: str) -> bool:
    return said.lower() in gold.lower() or gold.lower() in said.lower()


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("", "3.5 seconds"),
        ("s", "3.5 seconds"),
        ("3.5 seconds is wrong, it is 12", "3.5 seconds"),
        ("I searched for breadth-first search but it is Depth-first search", "Breadth-first search"),
    ],
)
def test_trap_015_nothing_is_matched_as_a_part_of_something(said: str, gold: str) -> None:
    assert _naive_substring(said, gold)
    assert answered(opened(gold=gold, task_name="mmvu"), said).scores["open-exact-match"] == 0
    assert answered(opened(gold=gold, task_name="mmvu"), gold.upper()).scores["open-exact-match"] == 1


@pytest.mark.parametrize("said", ["I cannot tell from a video", "the final answer is: B, a comparison-based sort"])
def test_trap_015_an_article_is_no_letter(said: str) -> None:
    assert re.search(r"\ba\b", said, re.IGNORECASE)
    assert answered(choice("A", *OPTIONS, task_name="mmvu"), said).scores["mc-accuracy"] == 0


def test_trap_016_only_the_stated_number_counts() -> None:
    said = "x is 5.\nThen the answer is 8"
    assert 5 in [float(number) for number in re.findall(r"\d+", said)]
    five, eight = (opened(gold=text, number=float(text), task_name="videommmu") for text in ("5", "8"))
    assert answered(five, said).scores["accuracy"] == 0
    assert answered(eight, said).scores["accuracy"] == 1


def _naive_shared_extractor(text: str) -> str:
    return next((letter for letter in "ABCD" if f" {letter}" in f" {text}"), "")


def _naive_last_capital(text: str) -> str:
    return re.findall(r"[ABCD]", text)[-1]


@pytest.mark.parametrize(
    ("said", "naive", "right"),
    [
        ("A man is cooking. The answer is C.", "A", "C"),
        ("The answer is B. All other options are wrong.", "A", "B"),
        ("I think it is B, not A.", "A", "B"),
    ],
)
def test_trap_017_shared_mcq_extractor_prefers_a(said: str, naive: str, right: str) -> None:
    assert _naive_shared_extractor(said) == naive
    assert answered(choice(right, *OPTIONS), said).scores["accuracy"] == 1


def test_trap_017_capitals_of_words_are_no_letters() -> None:
    said = "The correct option is B since Doctors agree"
    assert _naive_last_capital(said) == "D"
    assert answered(choice("B", *OPTIONS), said).scores["accuracy"] == 1


def test_trap_018_an_unclosed_thought_is_never_read() -> None:
    said = "<think>It may be 12 to 30 <answer>12 to 30</answer>"
    stripped = re.sub(r"<think>.*?</think>", "", said, flags=re.DOTALL)
    assert _naive_last_pair(stripped) == (12, 30)
    graded = judged(moment(12, 30), said)
    assert graded.outcome is Outcome.UNPARSED
    assert set(graded.scores.values()) == {0.0}
    trajectory, _ = play(moment(12, 30), "<think>" + "from 12 to 30 " * 400)
    assert trajectory.stop is StopReason.MAX_TOKENS
    assert grade(task("charades_sta"), moment(12, 30), trajectory).outcome is Outcome.TRUNCATED


def _naive_first_letter_of_the_list(text: str) -> str:
    return next((letter for letter in "ABCD" if letter in text), "")


@pytest.mark.parametrize(
    ("said", "naive", "right"),
    [("Because the man left", "B", None), ("Apple", "A", None), ("(B) not A", "A", "B")],
)
def test_trap_019_letters_inside_words(said: str, naive: str, right: str | None) -> None:
    assert _naive_first_letter_of_the_list(said) == naive
    graded = answered(choice("B", *OPTIONS), said)
    assert (graded.answer.letter if graded.answer else None) == right


def test_trap_019_the_final_turn_alone_is_read() -> None:
    first = f"<think>x</think><answer>A</answer>{call(1, 5)}"
    second = "<think>y</think><answer>C</answer>"
    assert _naive_first_answer(first + second) == "A"
    # The scripted engine obeys the protocol's stop strings; without them the answer beside the call is seen.
    assert split_turn(first).anomalies == ("answer-beside-tool-call",)
    trajectory, _ = play(choice("C", *OPTIONS), f"<think>A</think>{call(1, 5)}", second, mode=Mode.TOOL)
    assert trajectory.answer_text == "C"


def test_trap_020_options_with_equal_texts_are_one_choice(tmp_path: Path) -> None:
    found, samples = official("next_gqa", tmp_path)
    sample = samples[0]
    assert sample.options.count("jump") == 2
    naive_letter = "ABCDE"[sample.options.index("jump")]
    assert naive_letter == "B"  # Compared by letter, "C" would be wrong though it says the same.
    for letter, right in (("B", 1), ("C", 1), ("A", 0)):
        assert answered(sample, f"{letter}, 2.00 to 6.00").scores["accuracy"] == right
    assert found.name == "next_gqa"


def _naive_format_reward(text: str) -> float:
    return float(bool(re.search(r"<think>.*</think>.*<answer>.*</answer>", text, re.DOTALL)))


def test_trap_021_form_is_never_paid_for() -> None:
    tidy = "<think>x</think><answer>12 to 30</answer>"
    messy = f"12 to 30 \u2026 {tidy}"
    assert _naive_format_reward(messy) == _naive_format_reward(tidy) == 1
    right, wrong = moment(12, 30), moment(40, 50)
    assert judged(right, messy).scores == judged(right, tidy).scores
    assert set(judged(wrong, tidy).scores.values()) == {0.0}
    # Text after the answer cannot exist: the turn ends with the closing tag.
    trajectory, _ = play(right, tidy + " 40 to 50")
    assert trajectory.turns[0].text == tidy
