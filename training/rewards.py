"""Rewards of a rollout: right form, right answer, a bonus for a tool that was used.

The answer is read from the answer field of the final turn alone, by the harness's own parsers; a span in a thought or
in a tool call earns nothing. Where VITAL's released rewards differ from what was meant, the meant one is the default
and the released one has a flag.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType

from vital_eval.errors import DataError
from vital_eval.metrics.choice import letter_accuracy
from vital_eval.metrics.iou import best_hull_iou
from vital_eval.parsing.numbers import parse_number
from vital_eval.parsing.options import parse_option, parse_option_and_span
from vital_eval.parsing.spans import find_spans, parse_span
from vital_eval.parsing.text import plain
from vital_eval.parsing.turn import split_turn
from vital_eval.sample import Sample, Target, option_letter
from vital_eval.task import Answer, Task, Unparsed
from vital_eval.trajectory import Trajectory

from .text_scores import mean_rouge, word_error_rate

_NO_PARTS: Mapping[str, float] = MappingProxyType({})
_TAGS = ("think", "tool_call", "answer")
_ANY_TAG = re.compile(rf"</?(?:{'|'.join(_TAGS)})>")
_PAIR = re.compile(r"<(\w+)>(.*?)</\1>", re.DOTALL)
_BONUS = 0.5
#: Stand in for options whose texts a record does not give: their letters are known, A to H.
UNSEEN_OPTIONS: tuple[str, ...] = ("",) * 8


@dataclass(frozen=True, slots=True)
class Scale:
    """The stretch of a score that is rewarded: nothing up to ``alpha``, all from ``beta`` on, linear between.

    Raises:
        ValueError: unless 0 <= alpha < beta <= 1.
    """

    alpha: float = 0.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an empty stretch."""
        if not 0 <= self.alpha < self.beta <= 1:
            raise ValueError(f"a scale needs 0 <= alpha < beta <= 1, not {self.alpha} and {self.beta}")

    def __call__(self, score: float) -> float:
        """Return clamp((score - alpha) / (beta - alpha), 0, 1)."""
        return min(1.0, max(0.0, (score - self.alpha) / (self.beta - self.alpha)))


_WHOLE, _CUT, _CHAPTERS = Scale(), Scale(0.2, 0.8), Scale(0.0, 0.5)
#: Scales of the benchmarks whose training rewards VITAL scales, by task name.
TASK_SCALES: Mapping[str, Scale] = MappingProxyType(
    {"charades_sta": _CUT, "activitynet_mr": _CUT, "vidchapters": _CHAPTERS}
)


class Kind(StrEnum):
    """What a training record's answer holds and how it is scored."""

    SPAN = "span"
    SPAN_AND_OPTION = "span-and-option"
    SPAN_AND_TEXT = "span-and-text"
    OPTION = "option"
    NUMERICAL = "numerical"
    REGRESSION = "regression"
    FREE_FORM = "free-form"
    OCR = "ocr"


@dataclass(frozen=True, slots=True)
class Source:
    """A ``data_source`` of training records.

    Attributes:
        name: as in the records, without a leading ``./data/``.
        kind: what its answers hold.
        scale: how its IoU is scaled.
    """

    name: str
    kind: Kind
    scale: Scale = _WHOLE


#: Every known source, by name.
SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        source.name: source
        for source in (
            Source("charades", Kind.SPAN),
            Source("charades_cutreward", Kind.SPAN, _CUT),
            Source("actnet", Kind.SPAN),
            Source("actnet_cutreward", Kind.SPAN, _CUT),
            # The hub's records say "vidchapter", which the released rewards do not know; they know the other name.
            Source("vidchapter", Kind.SPAN, _CHAPTERS),
            Source("vidchapter_cutreward", Kind.SPAN, _CHAPTERS),
            Source("nextgqa", Kind.SPAN_AND_OPTION),
            Source("nextgqa_cutreward", Kind.SPAN_AND_OPTION, _CUT),
            Source("rextime", Kind.SPAN_AND_TEXT),
            Source("rextime_cutreward", Kind.SPAN_AND_TEXT, _CUT),
            Source("video_r1/multiple_choice", Kind.OPTION),
            Source("video_r1/numerical", Kind.NUMERICAL),
            Source("video_r1/regression", Kind.REGRESSION),
            Source("video_r1/free_form", Kind.FREE_FORM),
            Source("video_r1/OCR", Kind.OCR),
        )
    }
)


class ToolBonus(StrEnum):
    """What a rollout gets for tool calls that succeeded, whatever its answer.

    * ``once``: 0.5 if at least one did, as in VITAL's paper.
    * ``released``: 0.5 for each of the first two, as in its code, though the prompt asks for one call.
    * ``none``: nothing.
    """

    ONCE = "once"
    RELEASED = "released"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class RewardRules:
    """How the parts of a reward are computed.

    Attributes:
        tool_bonus: see :class:`ToolBonus`.
        released_format: text before the first and after the last tag pair is not looked at (VITAL's code).
        thought: responses must think; without it, an answer alone is the right form (the mode ``direct``).
        loop_penalty: what is taken off the total of a rollout that repeats itself to the token limit
            (:func:`.repetition.is_loop`). VITAL has none: there it earns no less than any other without an answer, so
            a group of both teaches nothing.

    Raises:
        ValueError: if the penalty is negative or no number.
    """

    tool_bonus: ToolBonus = ToolBonus.ONCE
    released_format: bool = False
    thought: bool = True
    loop_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a reward for loops."""
        if not 0 <= self.loop_penalty < math.inf:
            raise ValueError(f"loop_penalty must be finite and not negative, not {self.loop_penalty}")


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer's task reward in [0, 1], and the named values it was made of."""

    value: float
    parts: Mapping[str, float] = field(default_factory=lambda: _NO_PARTS)


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of one rollout; with one bonus at most 2.5.

    Attributes:
        total: format + task + tool - loop.
        format: 1 if the response has the right form, else 0.
        task: what the answer is worth, in [0, 1].
        tool: bonus for tool calls.
        parts: what ``task`` was made of, for logs.
        loop: penalty for a loop.
    """

    total: float
    format: float
    task: float
    tool: float
    parts: Mapping[str, float]
    loop: float = 0.0


class ReversedSolutionError(DataError):
    """A solution whose span does not start before it ends."""


def require_source(name: str) -> Source:
    """Return the source of that name, with or without the leading ``./data/`` that the release writes.

    Raises:
        DataError: if it is not known, naming those that are. Called when records are read, so that no training starts
            on records that cannot be rewarded.
    """
    source = SOURCES.get(name.removeprefix("./data/"))
    if source is None:
        raise DataError(f"data_source {name!r:.80} is not known", f"known sources: {', '.join(sorted(SOURCES))}")
    return source


def read_solution(source: Source, solution: object, options: Sequence[str] = UNSEEN_OPTIONS) -> Target:
    """Read the ``solution`` of a training record into a structured ground truth, when records are checked or loaded.

    What a solution may be is decided here alone.

    Args:
        source: the record's source.
        solution: [start, end] in seconds or a text with one span ("3 to 9.5") for ``span``; a number or its text for
            ``numerical`` and ``regression``; a text for the others, with or without answer tags: a letter, an answer,
            or both a span and one of these ("From 3 to 9.5, B").
        options: the option texts, where the record has them.

    Raises:
        ReversedSolutionError: if its span does not start before it ends.
        DataError: if the solution does not hold exactly that.
    """
    if source.kind is Kind.SPAN:
        if isinstance(solution, str):
            return Target(windows=(_stated_window(source, solution, _field(source, solution)),))
        return Target(windows=(_window(source, solution),))
    if source.kind in (Kind.NUMERICAL, Kind.REGRESSION):
        if isinstance(solution, (int, float)) and not isinstance(solution, bool) and math.isfinite(solution):
            return Target(number=float(solution))
        number = parse_number(_field(source, solution))
        if isinstance(number, Unparsed) or number.notes:
            raise _bad(source, solution, "one number")
        return Target(number=number.number)
    text = _field(source, solution)
    if source.kind is Kind.OPTION:
        option = parse_option(text, options)
        if isinstance(option, Unparsed):
            raise _bad(source, solution, f"one letter from A to {option_letter(len(options) - 1)}")
        return Target(letter=option.letter)
    if source.kind in (Kind.FREE_FORM, Kind.OCR):
        if (word_error_rate if source.kind is Kind.OCR else _rouge_distance)(text, text) > 0:
            raise _bad(source, solution, "a text with at least one word")
        return Target(text=text)
    windows = (_stated_window(source, solution, text),)
    if source.kind is Kind.SPAN_AND_TEXT:
        rest = _without_span(text)
        if mean_rouge(rest, rest) == 0:
            raise _bad(source, solution, "an answer beside its span")
        return Target(windows=windows, text=rest)
    both = parse_option_and_span(text, options)
    if isinstance(both, Unparsed) or both.letter is None:
        raise _bad(source, solution, f"one letter from A to {option_letter(len(options) - 1)} beside its span")
    return Target(windows=windows, letter=both.letter)


def score_answer(
    source: Source,
    target: Target,
    answer: str | None,
    options: Sequence[str] = UNSEEN_OPTIONS,
    released_iou_only: bool = False,
) -> Scored:
    """Score an answer field by its record's source. Finite and in [0, 1] on any text.

    ======================  =============================================================================
    kind                    task reward
    ======================  =============================================================================
    ``span``                scaled IoU
    ``span-and-option``     (scaled IoU + right letter) / 2
    ``span-and-text``       (scaled IoU + mean of ROUGE-1, -2 and -L F) / 2
    ``option``              right letter
    ``numerical``           1 if equal at one decimal, 0.5 if equal at none
    ``regression``          1 - abs(stated - right) / abs(right), not below 0
    ``free-form``           mean of ROUGE-1, -2 and -L F
    ``ocr``                 1 - word error rate, not below 0
    ======================  =============================================================================

    Args:
        source: see :func:`require_source`.
        target: see :func:`read_solution`.
        answer: the answer field of the final turn, ``None`` if it has none: 0.
        options: as for :func:`read_solution`.
        released_iou_only: grounded questions are rewarded for the scaled IoU alone and their answers for nothing,
            as VITAL's code does by mistake.

    Source:
        VITAL's released rewards, read with this package's parsers and its hull IoU. In ``regression`` the release
        adds 1e-9 above and below, which gives 0 to a right answer of 0; here equal numbers earn 1.
    """
    if answer is None:
        return Scored(0.0)
    kind = source.kind
    if kind is Kind.SPAN:
        return _grounded(source, target, parse_span(answer))
    if kind in (Kind.SPAN_AND_OPTION, Kind.SPAN_AND_TEXT):
        if kind is Kind.SPAN_AND_OPTION:
            read = parse_option_and_span(answer, options)
            right = letter_accuracy(read.letter, target.letter) if isinstance(read, Answer) else 0.0
        else:
            read = parse_span(answer)
            right = mean_rouge(_without_span(answer), target.text or "")
        iou = _grounded(source, target, read)
        value = iou.value if released_iou_only else (iou.value + right) / 2
        return Scored(value, MappingProxyType({**iou.parts, "qa": right}))
    if kind is Kind.OPTION:
        option = parse_option(answer, options)
        return Scored(letter_accuracy(option.letter, target.letter) if isinstance(option, Answer) else 0.0)
    if kind is Kind.FREE_FORM:
        return Scored(mean_rouge(answer, target.text or ""))
    if kind is Kind.OCR:
        return Scored(max(0.0, 1.0 - word_error_rate(answer, target.text or "")))
    stated = parse_number(answer)
    if isinstance(stated, Unparsed) or stated.number is None or target.number is None:
        return Scored(0.0)
    return Scored((_nearness if kind is Kind.REGRESSION else _equality)(stated.number, target.number))


def task_reward(
    task: Task, sample: Sample, answer_text: str | None, scales: Mapping[str, Scale] = TASK_SCALES
) -> float:
    """Return the reward of an answer to a sample of a benchmark: what evaluation gives it, scaled where asked.

    Args:
        task: its own parser reads the answer and its own scorer scores it.
        sample: a sample of this task.
        answer_text: the answer field of the final turn, ``None`` if it has none.
        scales: scale of the task's score, by task name; a task without one is not scaled.

    Returns:
        The score of the task's primary metric, in [0, 1]; 0 where that metric leaves the sample out
        (:func:`is_rewarded`).
    """
    parsed = None if answer_text is None else task.parse(answer_text, sample)
    score = _primary_score(task, sample, parsed if isinstance(parsed, Answer) else None)
    return scales.get(task.name, _WHOLE)(score or 0.0)


def is_rewarded(task: Task, sample: Sample) -> bool:
    """Tell whether a sample counts in its task's primary metric; if not, no answer to it earns anything.

    MMVU's open questions are such samples. Leave them out when records are loaded.
    """
    return _primary_score(task, sample, None) is not None


def rollout_reward(
    trajectory: Trajectory,
    score: Callable[[str | None], Scored],
    rules: RewardRules | None = None,
    looping: bool = False,
) -> Reward:
    """Return the reward of a finished rollout.

    Args:
        trajectory: its turns make the form, its answer field the task's part, its calls that succeeded the bonus.
        score: scores the answer field, ``None`` if there is none; :func:`score_answer` or :func:`task_reward` with
            their other arguments bound.
        rules: see :class:`RewardRules`.
        looping: the rollout repeats itself to the token limit, see :func:`.repetition.repetition_of`.
    """
    rules = rules or RewardRules()
    said = "\n".join(turn.text for turn in trajectory.turns)
    form = format_reward(said, released=rules.released_format, thought=rules.thought)
    succeeded = sum(call.succeeded for call in trajectory.tool_calls)
    loop = rules.loop_penalty if looping else 0.0
    return add_up(form, score(trajectory.answer_text), tool_reward(succeeded, rules.tool_bonus), loop)


def add_up(form: float, scored: Scored, tool: float, loop: float = 0.0) -> Reward:
    """Return the reward that these parts make."""
    return Reward(form + scored.value + tool - loop, form, scored.value, tool, scored.parts, loop)


def format_reward(response: str, released: bool = False, thought: bool = True) -> float:
    """Return 1.0 if a response has the form that the prompt asks for, else 0.0.

    The whole response must be think, tool_call and answer pairs with nothing but white space around them: the first a
    thought, the last an answer, no tag twice in a row, and none of these tags inside a pair. What the pairs hold is
    not looked at.

    Args:
        response: what the model wrote, all turns joined; tool results are not part of it.
        released: look for pairs anywhere, as VITAL's code does: text before the first and after the last pair is free,
            and so are tags inside a pair.
        thought: if not, the response must be one answer pair.
    """
    tags = _released_tags(response) if released else _tags(response)
    if not thought:
        return float(tags == ["answer"])
    if not tags or tags[0] != "think" or tags[-1] != "answer" or not set(tags) <= set(_TAGS):
        return 0.0
    return float(all(one != other for one, other in pairwise(tags)))


def tool_reward(succeeded: int, bonus: ToolBonus) -> float:
    """Return the bonus for a number of tool calls that succeeded."""
    counted = {ToolBonus.ONCE: 1, ToolBonus.RELEASED: 2, ToolBonus.NONE: 0}[bonus]
    return _BONUS * min(succeeded, counted)


def _tags(response: str) -> list[str]:
    """Return the tags of the pairs in order; none if anything else stands between or around them."""
    tags: list[str] = []
    place, opened = 0, ""
    for match in _ANY_TAG.finditer(response):
        name = match[0].strip("</>")
        if match[0].startswith("</"):
            if name != opened:
                return []
            tags.append(name)
            opened = ""
        else:
            if opened or response[place : match.start()].strip():
                return []
            opened = name
        place = match.end()
    return [] if opened or response[place:].strip() else tags


def _released_tags(response: str) -> list[str]:
    tags: list[str] = []
    place = 0
    for match in _PAIR.finditer(response):
        if tags and response[place : match.start()].strip():
            return []
        tags.append(match[1])
        place = match.end()
    return tags


def _primary_score(task: Task, sample: Sample, answer: Answer | None) -> float | None:
    key = next(metric.score for metric in task.metrics if metric.name == task.primary)
    return task.score(answer, sample)[key]


def _grounded(source: Source, target: Target, read: Answer | Unparsed) -> Scored:
    iou = 0.0
    if isinstance(read, Answer) and read.spans:
        iou = best_hull_iou(read.spans[0].as_window(), target.windows)
    scaled = source.scale(iou)
    return Scored(scaled, MappingProxyType({"iou": iou, "scaled-iou": scaled}))


def _equality(stated: float, right: float) -> float:
    if round(stated, 1) == round(right, 1):
        return 1.0
    return 0.5 if round(stated) == round(right) else 0.0


def _nearness(stated: float, right: float) -> float:
    if stated == right:
        return 1.0
    return max(0.0, 1.0 - abs(stated - right) / abs(right)) if right else 0.0


def _without_span(text: str) -> str:
    """Return the text without the last span it states and the punctuation that joined them."""
    flat, stated = plain(text), find_spans(text)
    if stated:
        last = stated[-1]
        flat = f"{flat[: last.place]} {flat[last.place + len(last.text) :]}"
    return " ".join(flat.split()).strip(" ,;:-")


def _rouge_distance(stated: str, right: str) -> float:
    return float(mean_rouge(stated, right) == 0)


def _window(source: Source, solution: object) -> tuple[float, float]:
    if not isinstance(solution, (list, tuple)) or len(solution) != 2:
        raise _bad(source, solution, "[start, end]")
    start, end = solution
    if not all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in solution):
        raise _bad(source, solution, "[start, end]")
    if not (math.isfinite(start) and math.isfinite(end)):
        raise _bad(source, solution, "[start, end]")
    if start >= end:
        raise _reversed(source, solution)
    return float(start), float(end)


def _stated_window(source: Source, solution: object, text: str) -> tuple[float, float]:
    """Return the one span that a text states; a text that could mean two is refused."""
    read = parse_span(text)
    if isinstance(read, Answer) and not read.notes:
        return read.spans[0].as_window()
    if len({stated.window for stated in find_spans(text)}) == 1:
        raise _reversed(source, solution)
    raise _bad(source, solution, "one span")


def _field(source: Source, solution: object) -> str:
    if not isinstance(solution, str) or not solution.strip():
        raise _bad(source, solution, "a text")
    return split_turn(solution).answer or solution.strip()


def _reversed(source: Source, solution: object) -> DataError:
    return _bad(source, solution, "a span that starts before it ends", ReversedSolutionError)


def _bad(source: Source, solution: object, wanted: str, kind: type[DataError] = DataError) -> DataError:
    return kind(
        f"a {source.name} record needs {wanted} as its solution, not {solution!r:.80}", "mend or leave out the record"
    )
