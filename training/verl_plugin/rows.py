"""Training records to the rows that verl reads, asked in the words of the protocol."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vital_eval.conversation import Conversation, Message, TextPart
from vital_eval.episode import Attempt, opening
from vital_eval.errors import DataError
from vital_eval.parsing.spans import parse_span
from vital_eval.parsing.turn import split_turn
from vital_eval.protocol import Protocol, View
from vital_eval.sample import Sample, Target
from vital_eval.task import AnswerKind, Unparsed
from vital_eval.toolbox import GetVideoClipFrame, Tool
from vital_eval.training.mtvr.records import CotRecord, RlRecord, ToolCotRecord
from vital_eval.training.problems import Problem, problems_of_records
from vital_eval.training.rewards import Kind, Scored, require_source
from vital_eval.video.decoder import VideoInfo
from vital_eval.video.resize import target_size
from vital_eval.video.sampling import choose_frames

from .frames import TEMPORAL_PATCH
from .names import AGENT_LOOP

#: What verl or the tokenizer would read as something other than text.
_MARKS = re.compile(r"<(?:video|image|audio)>|<\|[a-z_]+\|>")
#: Most tokens that a chat template adds to a message, the vision marks and the opening of an answer included.
_TEMPLATE_TOKENS = 12

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fitting:
    """How long prompts may be, and what they are measured with.

    Attributes:
        max_tokens: limit of a prompt, visual tokens included.
        count: tokens of a text.
        probe: reads a video's index. Raises MediaError.
        spatial_factor: pixels on a side of one visual token.
    """

    max_tokens: int
    count: Callable[[str], int]
    probe: Callable[[str], VideoInfo]
    spatial_factor: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that fit, and the ids of records whose prompts are too long."""

    rows: tuple[Row, ...]
    too_long: tuple[str, ...]


def offered(protocol: Protocol) -> Mapping[str, Tool]:
    """Return the tools of a protocol by name.

    Raises:
        DataError: if it names one that cannot be trained with.
    """
    known: Mapping[str, Tool] = {GetVideoClipFrame.name: GetVideoClipFrame()}
    for name in protocol.tools:
        if name not in known:
            raise DataError(f"tool {name!r} cannot be trained with", f"known: {', '.join(known)}")
    return {name: known[name] for name in protocol.tools}


def rl_rows(records: Sequence[RlRecord], protocol: Protocol, fitting: Fitting) -> Rows:
    """Write the rows of stages 2 and 4.

    Args:
        records: RL or tool-RL records, checked before (:mod:`vital_eval.training.mtvr.checks`).
        protocol: how they are asked; with tools, each row names its video for them.
        fitting: prompts that are too long are left out here, by one look at each video's index: verl would stop the
            run at the first of them, and its own filter decodes every video.

    Raises:
        DataError: if a record cannot be trained on, a text holds marks that are not text, or no row is left.
        MediaError: if a video cannot be read.
    """
    rows: list[Row] = []
    too_long: list[str] = []
    tools = offered(protocol)
    for index, (record, problem) in enumerate(zip(records, problems_of_records(records), strict=True)):
        info = fitting.probe(record.media.path)
        duration = info.duration if record.duration is None else record.duration
        asked = opening(Attempt(problem.sample, problem.kind, problem.protocol(protocol), tools), None, duration)
        prompt = _prompt(asked, record.id)
        text = sum(fitting.count(message["content"]) + _TEMPLATE_TOKENS for message in prompt)
        if text + visual_tokens(info, protocol.view, fitting.spatial_factor) > fitting.max_tokens:
            too_long.append(record.id)
            continue
        prompt[-1]["content"] = "<video>" + prompt[-1]["content"]
        calls = {name: {"create_kwargs": {"video": record.media.path}} for name in tools}
        rows.append(
            {
                "data_source": record.data_source,
                "prompt": prompt,
                "videos": [{"video": record.media.path}],
                "ability": problem.kind.value,
                "reward_model": {"style": "rule", "ground_truth": json.dumps(record.solution)},
                "extra_info": {"index": index, "id": record.id} | ({"tools_kwargs": calls} if calls else {}),
                "agent_name": AGENT_LOOP,
            }
        )
    if not rows:
        raise DataError(f"none of {len(records)} prompts fits {fitting.max_tokens} tokens", "show less of the videos")
    return Rows(tuple(rows), tuple(too_long))


def sft_rows(records: Sequence[CotRecord | ToolCotRecord]) -> tuple[Row, ...]:
    """Write the rows of stages 1 and 3: what is asked and what the model is to say.

    Raises:
        DataError: if a record shows an image, its answer cannot be read, or a text holds marks that are not text.
    """
    rows: list[Row] = []
    for index, record in enumerate(records):
        problem = _taught(record)
        turns = list(record.turns) if isinstance(record, ToolCotRecord) else [record.solution]
        for text in (record.text, *turns):
            _refuse_marks(text, record.id)
        rows.append(
            {
                "id": f"{index}-{record.id}",
                "question": record.text,
                "kind": problem.kind.value,
                "video": record.media.path,
                "duration": record.duration,
                "turns": turns,
            }
        )
    if not rows:
        raise DataError("there are no records to teach", "name files that hold records")
    return tuple(rows)


def question_of(row: Mapping[str, Any]) -> Problem:
    """Return what a row of :func:`sft_rows` asks; it cannot be scored.

    Raises:
        ValueError: if the kind of answer is not known.
    """
    duration = row["duration"]
    missing = duration is None or math.isnan(duration)
    sample = Sample(
        id=str(row["id"]),
        task="sft",
        video=str(row["video"]),
        duration=None if missing else float(duration),
        question=str(row["question"]),
        target=Target(),
        cluster=str(row["video"]),
    )
    return Problem(sample, AnswerKind(row["kind"]), lambda answer: Scored(0.0), verbatim=True)


def visual_tokens(info: VideoInfo, view: View, spatial_factor: int) -> int:
    """Return how many visual tokens a whole video takes under a view, without decoding it."""
    frames = len(choose_frames(info.frame_times, None, view))
    height, width = target_size(info.height, info.width, view, spatial_factor)
    return -(-frames // TEMPORAL_PATCH) * (height // spatial_factor) * (width // spatial_factor)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a parquet file.

    Raises:
        OSError: if the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    pq.write_table(pa.Table.from_pylist(list(rows)), part)
    part.replace(path)


def _prompt(conversation: Conversation, name: str) -> list[dict[str, str]]:
    prompt = []
    for message in conversation:
        if isinstance(message, Message):
            content = "".join(part.text for part in message.parts if isinstance(part, TextPart))
            _refuse_marks(content, name)
            prompt.append({"role": message.role, "content": content})
    return prompt


def _refuse_marks(text: str, name: str) -> None:
    mark = _MARKS.search(text)
    if mark is not None:
        raise DataError(f"record {name} holds {mark[0]!r}, which is not read as text", "mend or leave out the record")


def _taught(record: CotRecord | ToolCotRecord) -> Problem:
    """Return the question of a supervised record, asked as reinforcement learning asks it."""
    if record.media.kind != "video":
        raise DataError(f"record {record.id} shows an image", "training on images is not supported; leave it out")
    if record.data_source is None:
        # Video-R1's files mix problems and name none; the wording then is that of an open question.
        row = {"id": record.id, "question": record.text, "kind": AnswerKind.OPEN.value, "video": record.media.path}
        return question_of(row | {"duration": record.duration})
    answer = record.answer if isinstance(record, ToolCotRecord) else split_turn(record.solution).answer or ""
    if isinstance(answer, str) and require_source(record.data_source).kind is Kind.SPAN:
        span = parse_span(answer)
        if isinstance(span, Unparsed):
            raise DataError(f"record {record.id} answers {answer!r:.60}, not a span", "mend or leave out the record")
        answer = span.spans[0].as_window()
    asked = RlRecord(
        id=record.id,
        text=record.text,
        media=record.media,
        duration=record.duration,
        data_source=record.data_source,
        solution=answer,
    )
    return problems_of_records([asked])[0]
