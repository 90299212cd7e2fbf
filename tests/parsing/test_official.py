"""The first-word reading of VSI-Bench's official script, and what it loses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.parsing.official import first_word, official_letter, official_number


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("B. the chair", "B"),
        ("4...", "4"),
        ("The answer is B", "The"),
        ("B\n\nBecause it fell", "B\n\nBecause"),
        (" B", ""),
        ("", ""),
        ("...", ""),
        ("4.5\n", "4.5"),
    ],
)
def test_first_word(text: str, word: str) -> None:
    assert first_word(text) == word


@pytest.mark.parametrize(
    ("text", "right"),
    [("B", True), ("b", True), ("B. the chair", True), ("(B)", False), ("**B**", False), ("The answer is B", False)],
)
def test_official_letter(text: str, right: bool) -> None:
    assert official_letter(text, "B") is right


@pytest.mark.parametrize("text", ["", " ", "."])
def test_empty_never_equals_empty(text: str) -> None:
    assert not official_letter(text, "")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4", 4.0),
        ("4.", 4.0),
        ("-5 m", -5.0),
        ("1e3", 1000.0),
        ("1,200", None),
        ("4m", None),
        ("four", None),
        ("about 4", None),
        ("nan", None),
        ("inf", None),
        ("-Infinity", None),
        ("", None),
    ],
)
def test_official_number(text: str, number: float | None) -> None:
    assert official_number(text) == number


@given(st.text(max_size=60), st.text(max_size=4))
@settings(max_examples=100, deadline=None)
def test_never_raises_and_first_words_stay_as_they_are(text: str, right: str) -> None:
    word = first_word(text)
    # A tab or line end at the edge can uncover another dot, so the second reading may strip once more, never add.
    assert word.startswith(first_word(word))
    assert isinstance(official_letter(text, right), bool)
    number = official_number(text)
    assert number is None or math.isfinite(number)
