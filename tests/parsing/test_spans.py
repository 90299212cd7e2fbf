"""Span grammar: every form once, every known misreading once, and what must hold for any text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.parsing.spans import find_spans, parse_span, parse_spans
from vital_eval.task import Answer, Unparsed

ONE_SPAN = {
    "12.5 to 20": (12.5, 20),
    "From 12.50s - 20s": (12.5, 20),
    "[12.5, 20]": (12.5, 20),
    "(12.5, 20)": (12.5, 20),
    "12.5, 20": (12.5, 20),
    "[100,200]": (100, 200),
    "[1,200, 1,350]": (1200, 1350),
    "12.5\u201320": (12.5, 20),
    "12.5 \u2014 20 sec.": (12.5, 20),
    "12.5 until 20 seconds": (12.5, 20),
    "01:30 - 02:10": (90, 130),
    "1:02:03 - 1:02:10.5": (3723, 3730.5),
    "Start time: 00:01:30, end time: 00:02:10": (90, 130),
    '{"start": 12.5, "end": 20}': (12.5, 20),
    "1,200 to 1,350": (1200, 1350),
    "10s - 20s": (10, 20),
    "10.50s to 20s": (10.5, 20),
    "2 to 3 minutes": (120, 180),
    "1 min 30 s to 2 min": (90, 120),
    "from second 12.5 to second 20": (12.5, 20),
    "00:01:12\u201300:01:30": (72, 90),
    "between 1:12 and 1:30": (72, 90),
    "1 minute 5 seconds to 2 minutes": (65, 120),
    "from 12.5s until 20s": (12.5, 20),
    "12.5 seconds to 20 seconds": (12.5, 20),
    "It starts at 12.5s, and it ends at 20s": (12.5, 20),
    '{"start_time": "12.5", "end_time": "20.0"}': (12.5, 20),
    "Start: 12.5\nEnd: 20": (12.5, 20),
    "**12.5** to **20**": (12.5, 20),
    r"\boxed{12.5 - 20}": (12.5, 20),
    "<12.5, 20>": (12.5, 20),
    "12.5 --> 20": (12.5, 20),
    "from 12.5 up to 20": (12.5, 20),
    "from 1:12 min to 1:30 min": (72, 90),
    "from 12.5 (sec) to 20 (sec)": (12.5, 20),
    "from the 12.5-second mark to 20-second mark": (12.5, 20),
    "\uff11\uff12\uff0e\uff15\uff5e\uff12\uff10": (12.5, 20),
    "In frames 24 to 40, from 6.0 to 10.0": (6, 10),
    "I see 3 people. From 10.00 to 20.00": (10, 20),
    "From 1.00 to 116.00, by laying 2 of 3 towels": (1, 116),
    "It starts at 24.3s and ends at 30.4s": (24.3, 30.4),
    "[24.3, 30.4]": (24.3, 30.4),
    "between 24.3 and 30.4 seconds": (24.3, 30.4),
    "starts at 24.3 seconds and finishes by 30.4 seconds": (24.3, 30.4),
    "The event '2-3 people' happens in 24.3 - 30.4": (24.3, 30.4),
    "In 24.3 - 30.4 there are 2-3 people": (24.3, 30.4),
    "24.3s - 30.4s": (24.3, 30.4),
    "event 'person with 2 dogs' happens between 24.3 and 30.4": (24.3, 30.4),
}


@pytest.mark.parametrize(("text", "window"), ONE_SPAN.items())
def test_one_span(text, window) -> None:
    answer = parse_span(text)
    assert isinstance(answer, Answer)
    assert answer.spans[0].as_window() == pytest.approx(window)
    assert answer.notes == ()


def test_the_last_of_several_spans_is_taken_and_noted() -> None:
    answer = parse_span("I looked at 0 - 10 first. The event happens in 24.3 - 30.4")
    assert answer.spans[0].as_window() == (24.3, 30.4)
    assert answer.notes == ("several-spans",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("From 20 to 10", "reversed-span"),
        ("5 to 10, no: 20 to 10", "reversed-span"),
        ("5 to 5", "zero-length-span"),
        ("", "no-span"),
        ("12.5", "no-span"),
        ("I see 3 people and 4 dogs", "no-span"),
        ("2-3 people", "no-span"),
        ("1:12", "no-span"),
        ("frames 10 to 20", "no-span"),
        ("2023-10-12", "no-span"),
        ("01:30 - 01:10", "reversed-span"),
        ('{"start": 20, "end": 10}', "reversed-span"),
        ("starts at 20 and ends at 10", "reversed-span"),
        ("[5, 5]", "zero-length-span"),
        ("1:00 to 60 seconds", "zero-length-span"),
        ("nan to inf", "no-span"),
        ("-5 to 10", "no-span"),
        ("10 to 20%", "no-span"),
        ("9" * 400 + " to " + "9" * 401, "no-span"),
    ],
)
def test_no_usable_span_has_a_reason(text, reason) -> None:
    assert parse_span(text) == Unparsed(reason)


def test_several_spans_keep_their_order() -> None:
    answer = parse_spans("31.00 to 40.25, 12.50 to 20.00")
    assert [span.as_window() for span in answer.spans] == [(31, 40.25), (12.5, 20)]
    for text in (
        "[[1.0, 2.0], [3, 4]]",
        "- 1 to 2\n- 3 to 4",
        "1. 1-2\n2. 3-4",
        "1 to 2 and 3 to 4",
        "1\u20132 s; 3\u20134 s",
    ):
        assert [span.as_window() for span in parse_spans(text).spans] == [(1, 2), (3, 4)]


def test_unusable_spans_among_several_are_noted() -> None:
    assert parse_spans("1 to 2, 9 to 8, 4 to 4").notes == ("reversed-span", "zero-length-span")
    assert parse_spans("9 to 8") == Unparsed("reversed-span")
    assert parse_spans("nothing") == Unparsed("no-span")


PIECES = st.lists(
    st.sampled_from(
        ["1", "2.5", "01:30", "1,200", " to ", "-", " and ", "between ", "[", "]", ", ", "s", " start ", " end ", "."]
    ),
    max_size=25,
).map("".join)


@given(st.one_of(st.text(max_size=200), PIECES))
@settings(max_examples=150, deadline=None)
def test_never_raises_and_spans_are_valid(text) -> None:
    for answer in (parse_span(text), parse_spans(text)):
        if isinstance(answer, Answer):
            assert answer.spans
            assert all(0 <= span.start < span.end < math.inf for span in answer.spans)


@given(st.floats(0, 9999), st.floats(0.01, 9999), st.sampled_from(["{} to {}", "From {}s - {}s", "[{}, {}]"]))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(start, length, form) -> None:
    first, second = f"{start:.2f}", f"{start + length + 0.01:.2f}"
    assert parse_span(form.format(first, second)).spans[0].as_window() == (float(first), float(second))


@pytest.mark.parametrize(
    "piece", ["1 ", "start at ", "from 1 ", "[1,", "1,000", "1:00", "starts 1 and ", "between 1 and "]
)
def test_long_texts_stay_cheap(piece) -> None:
    assert isinstance(find_spans(piece * 3000), tuple)
