"""How a task is attempted: mode, prompt, frames, tools, turns, decoding. Frozen, serialisable, hashed.

Two results compare only under protocols that differ in what the comparison is about, so everything that can
move a score is in here and nothing is read from the environment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from vital_eval.errors import ProtocolError
from vital_eval.prompts import PromptTexts

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_T = TypeVar("_T", bound="DataclassInstance")

#: Types a plain field may hold, by the name of its annotation.
_SCALARS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}

#: Raised when the meaning of a field changes, so that old hashes cannot be mistaken for new ones.
PROTOCOL_VERSION = 1


class Mode(StrEnum):
    """How the model is asked, in the order in which tables show it.

    ``blind`` is ``direct`` without the video: what the question alone gives away.
    """

    BLIND = "blind"
    DIRECT = "direct"
    COT = "cot"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class View:
    """How frames are taken from a span and prepared.

    Attributes:
        fps: frames per second wanted, before the cap.
        max_frames: cap; above it the frames spread evenly over the span, both ends covered.
        min_pixels: smallest height x width of a frame after resizing.
        max_pixels: largest height x width of a frame after resizing.
        clock: draw each frame's true time into its lower right corner.
    """

    fps: float
    max_frames: int
    min_pixels: int
    max_pixels: int
    clock: bool

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        if not self.fps > 0 or self.max_frames < 1 or not 0 < self.min_pixels <= self.max_pixels:
            raise ProtocolError(f"impossible view {self}", "use fps > 0, max_frames >= 1 and min_pixels <= max_pixels")


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decoding settings, sent explicitly to every engine.

    Attributes:
        max_new_tokens: limit per turn; reaching it is an outcome, never a silent cut.
        temperature: 0 is greedy; then ``top_p`` must be 1 (a contradiction is an error, not a default).
        top_p: nucleus mass in (0, 1].
        repetition_penalty: 1 is off; above, the penalty of Keskar et al. (2019) over prompt and output.
        seed: with the sample id and the turn it seeds each turn's own generator.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 42

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.repetition_penalty < 1:
            raise ProtocolError(f"impossible decoding settings {self}", "see the docstring of Sampling for the ranges")
        if self.temperature == 0 and self.top_p != 1:
            raise ProtocolError("temperature 0 with top_p below 1", "greedy decoding takes no top_p; set it to 1")


@dataclass(frozen=True, slots=True)
class Protocol:
    """The whole recipe of an attempt.

    Attributes:
        name: label for tables; it is not part of the hash.
        mode: see :class:`Mode`.
        prompt: every word said to the model that is not the sample's own.
        view: frames of the whole video, shown with the question.
        clip_view: frames of a clip that a tool returns.
        decoder: video decoder by registry name.
        tools: names of the tools offered; empty unless the mode is ``tool``.
        max_tool_calls: budget of tool calls; it drives the prompt text and the loop alike.
        max_turns: most turns the model may write.
        overrun_seconds: how far past the end of the video a tool call may reach and still be clamped.
        min_clip_seconds: shortest span a tool call may ask for.
        max_seconds: limit of the wall-clock time the model may take in one episode; decoding is limited apart.
        subtitles: whether the subtitles that are on screen in the frames are given with the question.
        sampling: see :class:`Sampling`.
    """

    name: str
    mode: Mode
    prompt: PromptTexts
    view: View
    clip_view: View
    decoder: str = "pyav"
    tools: tuple[str, ...] = ()
    max_tool_calls: int = 0
    max_turns: int = 1
    overrun_seconds: float = 2.0
    min_clip_seconds: float = 0.5
    max_seconds: float = 3600.0
    subtitles: bool = False
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        uses_tools = self.mode is Mode.TOOL
        if uses_tools != bool(self.tools) or uses_tools != (self.max_tool_calls > 0):
            raise ProtocolError(
                f"mode {self.mode} with tools {list(self.tools)} and {self.max_tool_calls} calls",
                "the tool mode needs tools and a call budget; the other modes take neither",
            )
        if self.mode is Mode.BLIND and self.subtitles:
            raise ProtocolError("mode blind with subtitles", "the blind mode shows the question only; drop one of them")
        if self.max_turns < 1 or (uses_tools and self.max_turns < 2):
            raise ProtocolError(f"{self.max_turns} turns in mode {self.mode}", "a tool call needs a turn to answer in")
        if self.overrun_seconds < 0 or self.min_clip_seconds < 0 or not self.max_seconds > 0:
            raise ProtocolError(
                f"overrun_seconds {self.overrun_seconds}, min_clip_seconds {self.min_clip_seconds}, "
                f"max_seconds {self.max_seconds}",
                "the first two must not be negative and the last must be above 0",
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data from which :func:`protocol_from_json` builds an equal protocol."""
        return _plain(self)

    @property
    def hash(self) -> str:
        """Stable content hash, 12 hexadecimal digits; equal recipes under other names have equal hashes."""
        return _hash(self)


@lru_cache(maxsize=256)  # asked for several times an episode
def _hash(protocol: Protocol) -> str:
    content = {key: value for key, value in protocol.to_json().items() if key != "name"}
    text = json.dumps({"version": PROTOCOL_VERSION, **content}, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def protocol_from_json(data: Mapping[str, Any]) -> Protocol:
    """Build a protocol from the data :meth:`Protocol.to_json` wrote (or a protocol file holds).

    Raises:
        ProtocolError: if a field is unknown, missing, of the wrong type, or contradicts another.
    """
    try:
        fields = dict(data)
        fields["mode"] = Mode(fields["mode"])
        fields["prompt"] = _typed(PromptTexts, fields["prompt"])
        fields["view"] = _typed(View, fields["view"])
        fields["clip_view"] = _typed(View, fields["clip_view"])
        tools = fields.get("tools", ())
        if isinstance(tools, str) or not all(isinstance(tool, str) for tool in tools):
            raise TypeError("tools must be a list of names")
        fields["tools"] = tuple(tools)
        fields["sampling"] = _typed(Sampling, fields.get("sampling", {}))
        return _typed(Protocol, fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(
            f"not a protocol: {error}",
            "compare with one printed by `vital-eval run --tasks TASK --modes MODE --dry-run`",
        ) from error


def _plain(value: DataclassInstance) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            item = _plain(item)
        # 2 and 2.0 are one recipe and must have one hash.
        out[field.name] = float(item) if field.type == "float" else item
    return out


def _typed(kind: type[_T], data: Mapping[str, Any]) -> _T:
    """Build a dataclass from plain data whose scalar fields must have the declared types; no number is coerced."""
    if not isinstance(data, Mapping):
        raise TypeError(f"{kind.__name__} must be an object with named fields, not {data!r:.80}")
    unknown = sorted(data.keys() - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        raise TypeError(f"{kind.__name__} has no field {unknown[0]!r}")
    values: dict[str, Any] = dict(data)
    for field in dataclasses.fields(kind):
        wanted = _SCALARS.get(str(field.type))
        if wanted is None or field.name not in data:
            continue
        value = values[field.name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise TypeError(f"{field.name} must be {field.type}, not {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{field.name} must be finite")
        if field.type == "float":
            values[field.name] = float(values[field.name])
    return kind(**values)


def differing_fields(one: Protocol, other: Protocol) -> tuple[str, ...]:
    """Name the fields (dotted) in which two protocols differ, the label apart."""
    return tuple(sorted(_differences("", one.to_json(), other.to_json()) - {"name"}))


def _differences(prefix: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for key in one.keys() | other.keys():
        left, right = one.get(key), other.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found |= _differences(f"{prefix}{key}.", left, right)
        elif left != right:
            found.add(f"{prefix}{key}")
    return found
