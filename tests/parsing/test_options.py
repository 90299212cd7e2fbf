"""Option grammar: accepted forms, known misreadings, and what must hold for any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.parsing.options import parse_option, parse_option_and_span
from vital_eval.task import Answer, Unparsed

OPTIONS = ("opens the door", "a man is singing", "closes it", "nothing")

CHOSEN = {
    "B": "B",
    "b": "B",
    "(B)": "B",
    "[B]": "B",
    "B.": "B",
    "b)": "B",
    "B: opens the window": "B",
    "B - a man": "B",
    "Option B": "B",
    "**B**": "B",
    "**B.** a man": "B",
    r"\boxed{B}": "B",
    "B\n\nBecause A is wrong": "B",
    "Answer: D": "D",
    "Best answer: B": "B",
    "Best option: (B)": "B",
    "The answer is B": "B",
    "The answer is (b) of these": "B",
    "The best answer is: C. closes it": "C",
    "Opens the door.": "A",
    "The answer is: closes it": "C",
    "A man is singing": "B",
    "A man is cooking. The answer is C.": "C",
    "The answer is B. All other options are wrong.": "B",
    "I think B": "B",
    "I think it is B, not A.": "B",
    "The correct option is B since Doctors agree": "B",
    "(B) not A": "B",
    "the final answer is: B, a comparison-based sort": "B",
    "A because it squeaks": "A",
    "The answer is A, not B": "A",
    "I, for one, choose D": "D",
    "B) text": "B",
    "__B__": "B",
    r"The answer is $\boxed{\text{B}}$": "B",
    "\uff22": "B",
    "the answer is b because it squeaks": "B",
    "C is correct": "C",
    "Perhaps D": "D",
    "Ans B": "B",
    "Final answer: (C) closes it": "C",
    "B or C? I pick C": "C",
    "The answer is not A but B": "B",
    "A is wrong, B is right": "B",
    "B is right. Option A is wrong.": "B",
    "A. is wrong. The answer is C.": "C",
}

NOT_CHOSEN = {
    "": "no-option",
    "...": "no-option",
    "Because the man left": "no-option",
    "Apple": "no-option",
    "I cannot tell from a video": "no-option",
    "A dog barks": "no-option",
    "The answer is a dog": "no-option",
    "not A": "no-option",
    "The man in A": "no-option",
    "In frame B we see a dog": "no-option",
    "Person A hands it to person B": "no-option",
    "The man walks from A to B": "no-option",
    "Vitamin C": "no-option",
    "The answer isn't A": "no-option",
    "(A) opens the door (B) a man is singing (C) closes it (D) nothing": "ambiguous-option",
    "A. The man opens it. The answer is B": "ambiguous-option",
    "The answer is B or maybe C": "ambiguous-option",
    "A or B": "ambiguous-option",
    "The answer is A or B": "ambiguous-option",
    "Both A and C": "ambiguous-option",
    "The answer is B. No, the answer is C": "ambiguous-option",
    "F": "unknown-option",
    "E. none of these": "unknown-option",
    "The answer is F": "unknown-option",
}


@pytest.mark.parametrize(("text", "letter"), CHOSEN.items())
def test_chosen(text, letter) -> None:
    assert parse_option(text, OPTIONS) == Answer(text.strip(), letter=letter)


@pytest.mark.parametrize(("text", "reason"), NOT_CHOSEN.items())
def test_not_chosen(text, reason) -> None:
    assert parse_option(text, OPTIONS) == Unparsed(reason)


def test_letters_reach_as_far_as_the_options() -> None:
    assert parse_option("N", [str(i) for i in range(14)]).letter == "N"
    assert parse_option("I", [str(i) for i in range(14)]).letter == "I"


def test_equal_option_texts_are_the_first_of_them() -> None:
    assert parse_option("same", ["x", "same", "same"]).letter == "B"


@pytest.mark.parametrize(
    ("text", "letter", "window", "notes"),
    [
        ("B, 12.50 to 20.00", "B", (12.5, 20), ()),
        ("(B) From 12.5 to 20", "B", (12.5, 20), ()),
        ("12.5 to 20, B", "B", (12.5, 20), ()),
        ("A [12.5, 20]", "A", (12.5, 20), ()),
        ("The answer is C. From 1 to 2 seconds.", "C", (1, 2), ()),
        ("opens the door, 1 to 2", "A", (1, 2), ()),
        ("B. 2-3 people, 12.5 to 20", "B", (12.5, 20), ()),
        ("B", "B", None, ("no-span",)),
        ("B, 20 to 10", "B", None, ("reversed-span",)),
        ("12.5 to 20", None, (12.5, 20), ("no-option",)),
        ("From 1 to 2, a man opens it", None, (1, 2), ("no-option",)),
        ("B, 1 to 2 or 3 to 4", "B", (3, 4), ("several-spans",)),
    ],
)
def test_option_and_span(text, letter, window, notes) -> None:
    answer = parse_option_and_span(text, OPTIONS)
    assert isinstance(answer, Answer)
    assert answer.letter == letter
    assert [span.as_window() for span in answer.spans] == ([window] if window else [])
    assert answer.notes == notes


@pytest.mark.parametrize(("text", "reason"), [("", "no-option"), ("hm", "no-option"), ("20 to 10", "reversed-span")])
def test_neither_option_nor_span(text, reason) -> None:
    assert parse_option_and_span(text, OPTIONS) == Unparsed(reason)


PIECES = st.lists(
    st.sampled_from(
        ["A", "B", "(C)", "Z", " ", "answer is ", "option ", "not ", ", ", "or ", "\n", "1 to 2", "I ", "a ", ".", "*"]
    ),
    max_size=20,
).map("".join)


@given(st.one_of(st.text(max_size=100), PIECES), st.lists(st.text(max_size=8), max_size=14))
@settings(max_examples=150, deadline=None)
def test_never_raises_and_letters_exist(text, options) -> None:
    existing = {chr(ord("A") + index) for index in range(len(options))}
    for answer in (parse_option(text, options), parse_option_and_span(text, options)):
        if isinstance(answer, Answer):
            assert answer.letter is None or answer.letter in existing
            assert answer.letter or answer.spans


@pytest.mark.parametrize("piece", ["A ", "option A or ", "answer is ", "not ", "(", r"\boxed{", "it is "])
def test_long_texts_stay_cheap(piece) -> None:
    parse_option(piece * 3000, OPTIONS)
