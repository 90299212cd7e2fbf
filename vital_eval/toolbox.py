"""The visual tool: ``get_video_clip_frame(start_time, end_time)``.

A tool call is text from a model, so it is untrusted: strict JSON, a typed schema, bounded numbers. The only
power it has is to look at a span of the sample's own video; no path or address can be named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vital_eval.clip import Clip
from vital_eval.errors import MediaError
from vital_eval.span import Span

#: Decodes a span of the sample's own video under the protocol's clip view.
ClipReader = Callable[[Span], Awaitable[Clip]]


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """Bounds a tool enforces.

    Attributes:
        duration: length of the video file in seconds, as probed: what cannot be decoded cannot be asked for.
        overrun_seconds: how far past either end a call may reach and still be clamped. Annotations do it too:
            562 of the 3,720 spans of Charades-STA test end up to 1.5 s after the listed duration.
        min_clip_seconds: shortest span worth sampling.
    """

    duration: float
    overrun_seconds: float
    min_clip_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class ToolResult:
    """What a successful call returns."""

    clip: Clip
    notes: tuple[str, ...]


class ToolError(Exception):
    """A call that cannot be carried out. The model reads the message; the record counts the code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class Tool(Protocol):
    """Something the model can call."""

    @property
    def name(self) -> str:
        """Return the name the model writes."""
        ...

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema shown to the model."""
        ...

    async def execute(self, arguments: dict[str, Any], limits: ToolLimits, read_clip: ClipReader) -> ToolResult:
        """Carry out a call.

        Raises:
            ToolError: if the arguments are not usable.
            MediaError: if the video cannot be read.
        """
        ...


class GetVideoClipFrame:
    """Sample frames densely from a span of the video (the tool of VITAL, section 3 of the paper)."""

    name = "get_video_clip_frame"

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema shown to the model."""
        number = {"type": "number"}
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": "Look closely at the video from start_time to end_time, both in seconds.",
                "parameters": {
                    "type": "object",
                    "properties": {"start_time": number, "end_time": number},
                    "required": ["start_time", "end_time"],
                },
            },
        }

    async def execute(self, arguments: dict[str, Any], limits: ToolLimits, read_clip: ClipReader) -> ToolResult:
        """See :class:`Tool`; arguments ``start_time`` and ``end_time`` in seconds, numbers or numeric text."""
        # The names of unknown arguments are the model's text: they are counted, never repeated.
        notes = ["ignored-arguments"] if arguments.keys() - {"start_time", "end_time"} else []
        start = _seconds(arguments, "start_time")
        end = _seconds(arguments, "end_time")
        span, clamped = _clamp(start, end, limits)
        return ToolResult(await read_clip(span), tuple(notes + clamped))


def parse_call(raw: str) -> tuple[str, dict[str, Any]]:
    """Read the JSON object of a tool call.

    Args:
        raw: text between the tool_call tags.

    Returns:
        The tool's name and its arguments.

    Raises:
        ToolError: code ``bad-json``, ``no-name`` or ``bad-arguments``.
    """
    try:
        data = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ToolError("bad-json", f"the call is not valid JSON ({_short(error)})") from error
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise ToolError("no-name", 'the call must be an object with "name" and "arguments"')
    arguments = data.get("arguments")
    if not isinstance(arguments, dict):
        raise ToolError("bad-arguments", '"arguments" must be an object')
    return data["name"], arguments


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _seconds(arguments: dict[str, Any], name: str) -> float:
    if name not in arguments:
        raise ToolError("missing-argument", f"{name} is missing")
    value = arguments[name]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ToolError("bad-type", f"{name} must be a number of seconds")
    try:
        seconds = float(value)
    except (ValueError, OverflowError) as error:
        raise ToolError("bad-type", f"{name} must be a number of seconds") from error
    if not math.isfinite(seconds):
        raise ToolError("not-finite", f"{name} must be finite")
    return seconds


def _clamp(start: float, end: float, limits: ToolLimits) -> tuple[Span, list[str]]:
    notes: list[str] = []
    if start >= end:
        raise ToolError("reversed", f"start_time {_show(start)} is not before end_time {_show(end)}")
    if start < -limits.overrun_seconds or end > limits.duration + limits.overrun_seconds:
        raise ToolError(
            "out-of-range",
            f"{_show(start)} to {_show(end)} is outside the video, which runs from 0.00 to {limits.duration:.2f}",
        )
    if start < 0:
        start = 0.0
        notes.append("clamped-start")
    if end > limits.duration:
        end = limits.duration
        notes.append("clamped-end")
    if end <= start or end - start < limits.min_clip_seconds:
        raise ToolError("too-short", f"ask for at least {limits.min_clip_seconds:.2f} seconds inside the video")
    return Span(start, end), notes


async def run_call(raw: str, tools: Mapping[str, Tool], limits: ToolLimits, read_clip: ClipReader) -> ToolResult:
    """Parse and carry out one call.

    Args:
        raw: text between the tool_call tags.
        tools: the tools offered, by name.
        limits: see :class:`ToolLimits`.
        read_clip: decodes a span of the sample's own video.

    Raises:
        ToolError: with a message for the model; unreadable media become code ``media-<kind>``.
    """
    name, arguments = parse_call(raw)
    tool = tools.get(name)
    if tool is None:
        offered = ", ".join(sorted(tools)) or "none"
        raise ToolError("unknown-tool", f"there is no such tool; offered: {offered}")
    try:
        return await tool.execute(arguments, limits, read_clip)
    except MediaError as error:
        raise ToolError(f"media-{error.kind}", "the frames of this span cannot be read") from error


def called_name(raw: str, tools: Mapping[str, Tool]) -> str:
    """Return the name of the offered tool that a call names, ``""`` if it names none."""
    try:
        name, _ = parse_call(raw)
    except ToolError:
        return ""
    return name if name in tools else ""


def _show(seconds: float) -> str:
    # 1e300 with two decimals would be 300 digits in the dialogue.
    return f"{seconds:.2f}" if abs(seconds) < 1e9 else f"{seconds:.3g}"


def _short(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:100] if lines else type(error).__name__
