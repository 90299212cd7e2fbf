"""Numbers and short texts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.parsing.numbers import parse_number
from vital_eval.parsing.text import exact_match, normalise, parse_open
from vital_eval.task import Answer, Unparsed


@pytest.mark.parametrize(
    ("text", "number", "notes"),
    [
        ("4", 4, ()),
        ("-5", -5, ()),
        ("\u22127.5", -7.5, ()),
        ("1,200", 1200, ()),
        ("1,234,567.5", 1234567.5, ()),
        ("1e3", 1000, ()),
        (".5", 0.5, ()),
        ("**12**", 12, ()),
        ("3.5 meters", 3.5, ()),
        ("5m", 5, ()),
        ("$1,200.", 1200, ()),
        ("four chairs", 4, ()),
        ("Twenty-five", 25, ()),
        ("minus two", -2, ()),
        ("the one on the left has 4", 4, ()),
        ("The 3rd room has 4", 4, ()),
        ("The answer is 4 of 5", 4, ()),
        ("x is 5.\nThen the answer is 8", 8, ()),
        ("In frame 1 there are 4 chairs", 4, ("several-numbers",)),
        ("about 2-3", 3, ("several-numbers",)),
        ("4, yes 4", 4, ()),
        ("two hundred", 200, ()),
        ("a hundred and five", 105, ()),
        ("two thousand three hundred and forty-five", 2345, ()),
        ("two hundred and six thousand", 206000, ()),
        ("nineteen hundred", 1900, ()),
        ("two dozen", 24, ()),
        ("seventy-five point five", 75.5, ()),
        ("negative twenty-three", -23, ()),
        ("three and a half", 3.5, ()),
        ("minus two and a half", -2.5, ()),
        ("2 million", 2e6, ()),
        ("1/2", 0.5, ()),
        ("-12 1/2", -12.5, ()),
        ("4.5 m^2", 4.5, ()),
        ("two or three", 3, ("several-numbers",)),
        ("five and six", 6, ("several-numbers",)),
        ("twenty-ten", 10, ("several-numbers",)),
    ],
)
def test_number(text, number, notes) -> None:
    assert parse_number(text) == Answer(text.strip(), number=number, notes=notes)


@pytest.mark.parametrize(
    "text", ["", "none", "B2", "nan", "inf", "1e999", "9" * 400, "1,20", "1.200,5", "1_000", "0x10"]
)
def test_no_number(text) -> None:
    answer = parse_number(text)
    assert answer == Unparsed("no-number")


_ONES = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(value: int) -> str:
    if value < 20:
        return _ONES[value]
    if value < 100:
        return _TENS[value // 10 - 2] + (f"-{_ONES[value % 10]}" if value % 10 else "")
    scale, name = next(pair for pair in ((10**6, "million"), (1000, "thousand"), (100, "hundred")) if value >= pair[0])
    rest = value % scale
    return f"{in_words(value // scale)} {name}" + (f"{' and ' if rest < 100 else ' '}{in_words(rest)}" if rest else "")


@given(st.integers(0, 999_999_999))
@settings(max_examples=300, deadline=None)
def test_every_whole_number_in_words_is_read(value: int) -> None:
    assert parse_number(in_words(value)) == Answer(in_words(value), number=float(value))


@given(st.text(max_size=100))
@settings(max_examples=100, deadline=None)
def test_numbers_never_raise_and_are_finite(text) -> None:
    answer = parse_number(text)
    assert isinstance(answer, Unparsed) or math.isfinite(answer.number)


@given(st.floats(-1e6, 1e6, allow_nan=False))
@settings(max_examples=60, deadline=None)
def test_a_written_number_is_read(value) -> None:
    assert parse_number(f"{value:.3f}").number == float(f"{value:.3f}")


@pytest.mark.parametrize(
    ("answer", "right", "equal"),
    [
        ("Dolly Zoom", "dolly  zoom", True),
        ("The answer is: a dolly zoom.", "Dolly Zoom", True),
        ("", "", False),
        ("", "x", False),
        ("s", "3.5 seconds", False),
        ("Step 3.5 shows the answer is 12", "3.5 seconds", False),
        ("I searched for breadth-first search but it is Depth-first search", "Breadth-first search", False),
        ("12.97", "sentence", False),
    ],
)
def test_exact_match_compares_wholes(answer, right, equal) -> None:
    assert exact_match(answer, right) is equal


def test_open_answers() -> None:
    assert parse_open("  Dolly Zoom ") == Answer("Dolly Zoom")
    assert parse_open(" ... ") == Unparsed("empty-answer")
    assert parse_open("The answer is:") == Unparsed("empty-answer")


@given(st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_texts_never_raise(text) -> None:
    assert isinstance(normalise(text), str)
    assert isinstance(parse_open(text), Answer | Unparsed)
