"""Prompts: every field filled once, nothing of the question taken for a field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vital_eval.presets import PRESETS, preset
from vital_eval.prompts import (
    TOOL_TEXTS,
    render_subtitles,
    render_system,
    render_tool_error,
    render_tool_result,
    render_user,
)
from vital_eval.protocol import Mode
from vital_eval.sample import Sample, Target
from vital_eval.task import AnswerKind


def sample(question: str = "what is red?", options: tuple[str, ...] = ()) -> Sample:
    return Sample("s", "t", "v.mp4", 9.0, question, Target(), cluster="v", options=options)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("kind", AnswerKind)
def test_no_field_is_left_open(name: str, mode: Mode, kind: AnswerKind) -> None:
    texts = preset(name, mode, "mmvu").prompt
    user = render_user(texts, sample(options=("red", "blue")), kind, 12.3456, 2)
    system = render_system(texts, ('{"type": "function"}',))
    for field in ("duration", "question", "answer_form", "max_tool_calls", "options", "query", "tools"):
        assert "{" + field + "}" not in user + system
    assert "12.35" in user
    assert "what is red?" in user
    assert "A. red\nB. blue" in user


def test_the_call_budget_is_the_one_that_is_enforced() -> None:
    assert "at most 2 time(s)" in render_user(TOOL_TEXTS, sample(), AnswerKind.SPAN, 9.0, 2)


def test_schemas_stand_one_a_line() -> None:
    system = render_system(TOOL_TEXTS, ('{"a": 1}', '{"b": {"c": 2}}'))
    assert '<tools>\n{"a": 1}\n{"b": {"c": 2}}\n</tools>' in system
    assert '{"name": "function name"' in system


@given(st.text())
def test_a_question_arrives_unchanged(question: str) -> None:
    user = render_user(TOOL_TEXTS, sample(question), AnswerKind.OPEN, 9.0, 1)
    assert user.endswith(question)


def test_braces_in_a_question_are_not_fields() -> None:
    hostile = "{duration} {question} {answer_form} {0} {options}"
    assert render_user(TOOL_TEXTS, sample(hostile), AnswerKind.SPAN, 9.0, 1).count(hostile) == 1


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("kind", AnswerKind)
def test_no_text_speaks_of_subtitles_unless_they_are_given(name: str, mode: Mode, kind: AnswerKind) -> None:
    texts = preset(name, mode, "video_mme").prompt
    user = render_user(texts, sample(options=("red", "blue")), kind, 12.3456, 2)
    assert "subtitle" not in (user + render_system(texts, ())).lower()


def test_subtitles_stand_in_their_own_paragraph() -> None:
    text = render_subtitles("[1.0 to 2.0] {lines} hello")
    assert "subtitles" in text
    assert text.endswith("[1.0 to 2.0] {lines} hello\n\n")


def test_tool_texts() -> None:
    assert render_tool_result(TOOL_TEXTS, 1, 2.345, " (x)") == "These are the frames from 1.00 to 2.35 seconds. (x)"
    assert render_tool_error(TOOL_TEXTS, "{error} oops") == "The tool call failed: {error} oops"
