"""A turn's answer field is the only text that is ever scored."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.parsing.turn import TurnParts, split_turn


@pytest.mark.parametrize(
    ("text", "call", "answer", "anomalies"),
    [
        ("<think>5 to 6</think><answer> 1 to 2 </answer>", None, "1 to 2", ()),
        ('<think>x</think><tool_call>{"a": 1}</tool_call>', '{"a": 1}', None, ()),
        ("plain text", None, None, ()),
        ("", None, None, ()),
        ("<answer>A</answer> no: <answer>B</answer>", None, "B", ()),
        ("<answer>A<answer>B</answer>", None, "B", ()),
        ("<answer>A", None, None, ()),
        ("<answer> </answer>", None, None, ("empty-answer",)),
        ("<think>maybe <answer>A</answer>", None, None, ("unclosed-thought",)),
        ("<think>maybe <answer>A</answer></think>", None, None, ()),
        ("thought</think><answer>A</answer>", None, "A", ()),
        ("<answer>A</answer></think><answer>B</answer>", None, "B", ()),
        ("<answer>1<think>no</think>2 to 30</answer>", None, "1 2 to 30", ()),
        ("<ans<think></think>wer>A</answer>", None, None, ()),
        ("<tool_call>12 to 30 <answer>A</answer></tool_call>", "12 to 30 <answer>A</answer>", None, ()),
        ("<tool_call>12 to 30 <answer>A</answer>", None, None, ()),
        ("<tool_call>1</tool_call><tool_call>2</tool_call>", "1", None, ("several-tool-calls",)),
        ("<tool_call>1</tool_call><answer>A</answer>", "1", "A", ("answer-beside-tool-call",)),
    ],
)
def test_parts(text, call, answer, anomalies) -> None:
    assert split_turn(text) == TurnParts(call, answer, anomalies)


TAGS = ["<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>", "x", "7 to 9", "\n"]


@given(st.lists(st.sampled_from(TAGS), max_size=16).map("".join))
@settings(max_examples=150, deadline=None)
def test_any_order_of_tags_is_read_without_raising(text) -> None:
    parts = split_turn(text)
    if parts.answer is not None:
        assert parts.answer == parts.answer.strip() != ""
        # A thought may be cut out of an answer; what is left is never joined to something new.
        assert all(piece in text for piece in parts.answer.split())


@given(st.text(alphabet='abc 0123456789.{}":', max_size=40))
@settings(max_examples=60, deadline=None)
def test_thoughts_and_tool_calls_never_become_answers(inner) -> None:
    for tag in ("tool_call", "think"):
        for text in (f"<{tag}>{inner}</{tag}>", f"<{tag}>{inner}"):
            assert split_turn(text).answer is None
            assert split_turn(f"<answer>{text}</answer>").answer is None
