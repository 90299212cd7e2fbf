"""Tool calls are text from a model: nothing in them may do more, or break more, than they say."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vital_eval.clip import Clip
from vital_eval.errors import MediaError
from vital_eval.span import Span
from vital_eval.toolbox import GetVideoClipFrame, ToolError, ToolLimits, ToolResult, called_name, parse_call, run_call

LIMITS = ToolLimits(duration=30.0, overrun_seconds=2.0, min_clip_seconds=0.5)
TOOLS = {"get_video_clip_frame": GetVideoClipFrame()}


async def read_clip(span: Span) -> Clip:
    return Clip(np.zeros((1, 32, 32, 3), np.uint8), (span.start,), span)


def call(raw: str, limits: ToolLimits = LIMITS) -> ToolResult:
    return asyncio.run(run_call(raw, TOOLS, limits, read_clip))


def raw_call(**arguments: object) -> str:
    return json.dumps({"name": "get_video_clip_frame", "arguments": arguments})


def error_of(raw: str, limits: ToolLimits = LIMITS) -> ToolError:
    with pytest.raises(ToolError) as caught:
        call(raw, limits)
    return caught.value


@pytest.mark.parametrize(
    ("start", "end", "span", "notes"),
    [
        (2, 6, (2.0, 6.0), ()),
        (2.5, 6.25, (2.5, 6.25), ()),
        ("2.0", "6", (2.0, 6.0), ()),
        (0, 30, (0.0, 30.0), ()),
        (28, 31.5, (28.0, 30.0), ("clamped-end",)),
        (-1.5, 4, (0.0, 4.0), ("clamped-start",)),
        (-1, 32, (0.0, 30.0), ("clamped-start", "clamped-end")),
        (1.0, 1.5, (1.0, 1.5), ()),
    ],
)
def test_good_calls(start: object, end: object, span: tuple[float, float], notes: tuple[str, ...]) -> None:
    result = call(raw_call(start_time=start, end_time=end))
    assert result.clip.span.as_window() == span
    assert result.notes == notes


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"start_time": 1}, "missing-argument"),
        ({}, "missing-argument"),
        ({"start_time": None, "end_time": 3}, "bad-type"),
        ({"start_time": True, "end_time": 3}, "bad-type"),
        ({"start_time": [1], "end_time": 3}, "bad-type"),
        ({"start_time": "one", "end_time": 3}, "bad-type"),
        ({"start_time": "", "end_time": 3}, "bad-type"),
        ({"start_time": "nan", "end_time": 3}, "not-finite"),
        ({"start_time": 0, "end_time": "inf"}, "not-finite"),
        ({"start_time": 10**400, "end_time": 3}, "bad-type"),
        ({"start_time": 6, "end_time": 2}, "reversed"),
        ({"start_time": 2, "end_time": 2}, "reversed"),
        ({"start_time": -3, "end_time": 2}, "out-of-range"),
        ({"start_time": 3, "end_time": 33}, "out-of-range"),
        ({"start_time": 0, "end_time": 1e300}, "out-of-range"),
        ({"start_time": 40, "end_time": 50}, "out-of-range"),
        ({"start_time": 1, "end_time": 1.4}, "too-short"),
        ({"start_time": 30.5, "end_time": 31.5}, "too-short"),
    ],
)
def test_bad_arguments_have_a_code(arguments: dict[str, object], code: str) -> None:
    error = error_of(raw_call(**arguments))
    assert error.code == code
    assert len(error.message) < 200


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("", "bad-json"),
        ("not json", "bad-json"),
        ("{'name': 'x'}", "bad-json"),
        ('{"name": "get_video_clip_frame", "arguments": {"start_time": NaN, "end_time": 3}}', "bad-json"),
        ('{"name": "get_video_clip_frame", "arguments": {"start_time": 1, "end_time": Infinity}}', "bad-json"),
        ("[" * 100_000, "bad-json"),
        ("1" * 5_000, "bad-json"),
        ("[]", "no-name"),
        ("null", "no-name"),
        ('{"name": 3, "arguments": {}}', "no-name"),
        ('{"name": "get_video_clip_frame"}', "bad-arguments"),
        ('{"name": "get_video_clip_frame", "arguments": "1, 2"}', "bad-arguments"),
        ('{"name": "open_file", "arguments": {"path": "/etc/passwd"}}', "unknown-tool"),
    ],
)
def test_bad_calls_have_a_code(raw: str, code: str) -> None:
    assert error_of(raw).code == code


def test_unknown_arguments_are_ignored_and_counted_but_never_repeated() -> None:
    result = call(raw_call(start_time=1, end_time=3, **{"video\x1b[2J": "/etc/passwd"}))
    assert result.notes == ("ignored-arguments",)


def test_unreadable_media_become_a_tool_error() -> None:
    async def broken(span: Span) -> Clip:
        raise MediaError("truncated", "/secret/place/v.mp4 ends early")

    with pytest.raises(ToolError) as caught:
        asyncio.run(run_call(raw_call(start_time=1, end_time=3), TOOLS, LIMITS, broken))
    assert caught.value.code == "media-truncated"
    assert "secret" not in caught.value.message


def test_no_minimum_length_still_refuses_an_empty_span() -> None:
    limits = ToolLimits(30.0, 2.0, 0.0)
    assert error_of(raw_call(start_time=30.5, end_time=31), limits).code == "too-short"


def test_called_name_knows_offered_tools_only() -> None:
    assert called_name(raw_call(start_time=1, end_time=2), TOOLS) == "get_video_clip_frame"
    assert called_name('{"name": "other", "arguments": {}}', TOOLS) == ""
    assert called_name("nonsense", TOOLS) == ""


def test_the_schema_is_one_line_of_json_with_both_times_required() -> None:
    text = json.dumps(GetVideoClipFrame().schema())
    assert "\n" not in text
    assert json.loads(text)["function"]["parameters"]["required"] == ["start_time", "end_time"]


_numbers = st.floats() | st.integers() | st.text(max_size=12) | st.none() | st.booleans() | st.lists(st.integers())
_calls = st.fixed_dictionaries(
    {"name": st.just("get_video_clip_frame") | st.text(max_size=8)},
    optional={"arguments": st.dictionaries(st.sampled_from(["start_time", "end_time", "path"]), _numbers) | _numbers},
)


@given(st.text() | _calls.map(json.dumps), st.floats(0.05, 1e5), st.floats(0, 10), st.floats(0, 5))
@example('{"name": "\\ud800", "arguments": {}}', 30.0, 2.0, 0.5)
def test_a_call_returns_a_clip_inside_the_video_or_a_tool_error(
    raw: str, duration: float, overrun: float, least: float
) -> None:
    problem = None
    try:
        result = call(raw, ToolLimits(duration, overrun, least))
    except ToolError as error:
        problem = error
    if problem is not None:
        assert problem.code
        assert len(problem.message) < 300
    else:
        span = result.clip.span
        assert 0 <= span.start < span.end <= duration
        assert span.length >= least


@given(st.text())
def test_parse_call_raises_tool_errors_only(raw: str) -> None:
    try:
        name, arguments = parse_call(raw)
    except ToolError:
        return
    assert isinstance(name, str)
    assert isinstance(arguments, dict)
