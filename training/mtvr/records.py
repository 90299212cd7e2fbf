"""What a record of MTVR holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from vital_eval.span import Window


class Form(StrEnum):
    """The four record forms; each value is the name of the folder that holds them."""

    COT = "MTVR_CoT"
    RL = "MTVR_RL"
    TOOL_COT = "MTVR_Tool_CoT"
    TOOL_RL = "MTVR_Tool_RL"


@dataclass(frozen=True, slots=True)
class Media:
    """What a record shows.

    Attributes:
        kind: a video or a single image.
        path: as the file gives it; untrusted until it is resolved below a media folder.
    """

    kind: Literal["video", "image"]
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MtvrRecord:
    """What all forms share.

    Attributes:
        id: name of the record; a number in the file becomes its digits.
        text: the whole question, word for word, line ends included.
        media: what is shown with it.
        duration: length of the video in seconds; ``None`` for images and where the file has none.
        data_source: what kind of problem it is, one of :attr:`~.sources.MtvrSources.data_sources`; ``None`` where
            neither record nor file name says so.
        video_kwargs: frame settings of this record alone, in place of the stage's.
    """

    id: str
    text: str
    media: Media
    duration: float | None = None
    data_source: str | None = None
    video_kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CotRecord(MtvrRecord):
    """A question with a written-out solution (stage 1).

    Attributes:
        solution: ``<think>...</think><answer>...</answer>``.
    """

    solution: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RlRecord(MtvrRecord):
    """A question with its right answer (stages 2 and 4).

    Attributes:
        solution: start and end in seconds for grounding; otherwise a letter, number or sentence as text.
    """

    solution: Window | str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCotRecord(MtvrRecord):
    """A question with a solution in two turns (stage 3).

    Attributes:
        turns: a thought with a tool call; then, the tool's clip seen, a thought with the answer.
        tool_params: start and end in seconds of the clip that is called for.
        answer: the right answer, as in :class:`RlRecord`.
    """

    turns: tuple[str, str]
    tool_params: Window
    answer: Window | str


def records_hash(records: Sequence[MtvrRecord]) -> str:
    """Return a hash of records in their order, 16 hexadecimal digits, whatever the layout of their file."""
    total = hashlib.sha256()
    for record in records:
        total.update(json.dumps(dataclasses.asdict(record), sort_keys=True, allow_nan=False).encode("ascii") + b"\n")
    return total.hexdigest()[:16]
