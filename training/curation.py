"""From candidate records to training records: keep what is neither too easy nor too hard, and write tool dialogues.

The recipe is the paper's as far as it is known (second-hand): 8 rollouts a sample, those that all pass or all fail are
dropped; tool calls for grounding are the annotated span with 20 % noise. Not known: the IoU from which a grounding
rollout passes, and the shape of the noise. The first is an argument without a default; the second is defined here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vital_eval.errors import DataError
from vital_eval.span import Span
from vital_eval.toolbox import GetVideoClipFrame

from .mtvr.records import RlRecord, ToolCotRecord

#: Rollouts a sample, as in the paper.
ROLLOUTS = 8
#: Largest noise of a clip's ends, in lengths of the annotated span, as in the paper.
CLIP_NOISE = 0.2
#: Shortest clip in seconds. The released tool refuses clips of 1 s and less.
MIN_CLIP_SECONDS = 1.5
#: Ticks by which a product of floats may miss a whole number.
_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Filtered:
    """Ids by how their rollouts went, each in the order given.

    Attributes:
        kept: some passed, some failed.
        all_passed: too easy to learn from.
        none_passed: too hard to learn from.
    """

    kept: tuple[str, ...]
    all_passed: tuple[str, ...]
    none_passed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """The words of a tool dialogue that no rule gives.

    Attributes:
        first_thought: why the clip is looked at.
        last_thought: what the clip shows.
        answer: the answer, in the form that the question asks for.
    """

    first_thought: str
    last_thought: str
    answer: str


#: Writes the words of a dialogue: the record and the clip that is called for. The paper had a language model write
#: them; a template will do where the world is known.
Writer = Callable[[RlRecord, Span], Said]


def passes(scores: Mapping[str, Sequence[float]], threshold: float) -> dict[str, tuple[bool, ...]]:
    """Tell which rollouts pass.

    Args:
        scores: id to the score of each rollout, in [0, 1] (IoU for grounding, 0 or 1 for choices).
        threshold: least score that passes. The paper's value for IoU is not known.

    Raises:
        DataError: if a score is not a finite number.
    """
    for name, values in scores.items():
        if not all(math.isfinite(value) for value in values):
            raise DataError(f"sample {name} has a score that is not finite", "score its rollouts again")
    return {name: tuple(value >= threshold for value in values) for name, values in scores.items()}


def difficulty_filter(passes: Mapping[str, Sequence[bool]], rollouts: int = ROLLOUTS) -> Filtered:
    """Keep the samples that pass sometimes.

    Args:
        passes: id to whether each rollout passed.
        rollouts: how many every sample must have; a lost rollout would make a hard sample look harder.

    Raises:
        DataError: if a sample has another number of rollouts.
    """
    kept: list[str] = []
    easy: list[str] = []
    hard: list[str] = []
    for name, outcomes in passes.items():
        if len(outcomes) != rollouts or rollouts < 1:
            raise DataError(f"sample {name} has {len(outcomes)} rollouts, not {rollouts}", "run the missing ones")
        (easy if all(outcomes) else kept if any(outcomes) else hard).append(name)
    return Filtered(tuple(kept), tuple(easy), tuple(hard))


def noisy_clip(
    truth: Span,
    duration: float,
    name: str,
    seed: int,
    noise: float = CLIP_NOISE,
    min_seconds: float = MIN_CLIP_SECONDS,
    decimals: int = 2,
) -> Span:
    """Draw the clip that a dialogue looks at.

    The truth is cut to the video. Each end then moves by its own draw, uniform in [-noise, noise] lengths of the truth,
    so the clip may be wider or narrower. It is cut to the video again, widened about its middle to ``min_seconds``
    (shifted where that leaves the video), and rounded outwards.

    Args:
        truth: the annotated span in seconds; it may end after the video.
        duration: length of the video in seconds.
        name: id of the record; with ``seed`` it decides the draw, whatever the order of records.
        seed: of the data set.
        noise: see above; below 0.5, so that the ends never meet.
        min_seconds: shortest clip; a shorter video is taken whole.
        decimals: digits after the point; with 0 the clip is in whole seconds.

    Raises:
        DataError: if the truth lies outside the video.
        ValueError: if ``noise`` is not in [0, 0.5).
    """
    if not 0 <= noise < 0.5:
        raise ValueError(f"noise {noise} must be in [0, 0.5)")
    ticks = 10**decimals
    # The last time that can be written: rounding must not lead out of the video.
    limit = math.floor(duration * ticks + _SLACK) / ticks
    start, end = max(0.0, truth.start), min(limit, truth.end)
    if start >= end:
        raise DataError(
            f"record {name}: {truth.start} to {truth.end} s is outside its video of {duration} s", "leave it out"
        )
    moves = _generator(name, seed).uniform(-noise, noise, size=2) * (end - start)
    start, end = max(0.0, start + float(moves[0])), min(limit, end + float(moves[1]))
    missing = max(0.0, min(min_seconds, limit) - (end - start))
    start, end = start - missing / 2, end + missing / 2
    shift = max(0.0, -start) - max(0.0, end - limit)
    return Span(
        max(0, math.floor((start + shift) * ticks + _SLACK)) / ticks,
        min(limit, math.ceil((end + shift) * ticks - _SLACK) / ticks),
    )


def tool_cot_record(
    record: RlRecord,
    writer: Writer,
    seed: int,
    noise: float = CLIP_NOISE,
    min_seconds: float = MIN_CLIP_SECONDS,
    decimals: int = 2,
) -> ToolCotRecord:
    """Write a two-turn solution for a grounding record: a thought, a call for the noisy clip, a thought, the answer.

    Args:
        record: with [start, end] as its solution and the duration of its video.
        writer: see :data:`Writer`.
        seed: see :func:`noisy_clip`, as the rest.
        noise: largest noise of the clip's ends.
        min_seconds: shortest clip.
        decimals: digits of the call's times.

    Raises:
        DataError: if the record has no span that starts before it ends, no video, or no duration.
    """
    if isinstance(record.solution, str) or record.solution[0] >= record.solution[1]:
        raise DataError(f"record {record.id}: its solution is no span", "give grounding records that passed the checks")
    if record.duration is None or record.media.kind != "video":
        raise DataError(f"record {record.id}: a tool call needs a video and its duration", "leave the record out")
    clip = noisy_clip(Span(*record.solution), record.duration, record.id, seed, noise, min_seconds, decimals)
    return tool_dialogue(record, clip, writer(record, clip))


def tool_dialogue(record: RlRecord, clip: Span, said: Said) -> ToolCotRecord:
    """Write a two-turn solution around a clip that somebody chose (for long-video questions the annotator does).

    Args:
        record: the question and its right answer.
        clip: what the first turn calls for; whole seconds are written without a point.
        said: the words.
    """
    start, end = (int(time) if time.is_integer() else time for time in clip.as_window())
    call = json.dumps({"name": GetVideoClipFrame.name, "arguments": {"start_time": start, "end_time": end}})
    return ToolCotRecord(
        id=record.id,
        text=record.text,
        media=record.media,
        duration=record.duration,
        data_source=record.data_source,
        video_kwargs=record.video_kwargs,
        turns=(
            f"<think>{said.first_thought}</think><tool_call>{call}</tool_call>",
            f"<think>{said.last_thought}</think><answer>{said.answer}</answer>",
        ),
        tool_params=clip.as_window(),
        answer=record.solution,
    )


def _generator(name: str, seed: int) -> np.random.Generator:
    # Not hash(): it differs from process to process.
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
