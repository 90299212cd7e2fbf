"""MTVR's four record forms for the nano world, with videos: what the pipeline trains on where no real data is at hand.

Right answers (``solution`` of RL records, ``answer`` of Tool-CoT records) are exact. What CoT and Tool-CoT records
*say* is what a view of the video proves, in the words of :mod:`.nano_dialogues`: a moment is said as the bracket of
whole seconds that the shown frames allow, because decimals that cannot be seen cannot be learned.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vital_eval.conversation import AssistantTurn
from vital_eval.nano.questions import Ask, NanoQuestion, ask_question
from vital_eval.nano.render import write_mp4
from vital_eval.nano.world import NanoVideo, VideoPlan, World, generator, make_video
from vital_eval.presets import preset
from vital_eval.prompts import NANO_COT_TEXTS, render_user
from vital_eval.protocol import Mode
from vital_eval.sample import Sample, Target
from vital_eval.span import Span, Window
from vital_eval.task import AnswerKind
from vital_eval.toolbox import parse_call

from .curation import Said, tool_cot_record, tool_dialogue
from .mtvr.checks import thought_and
from .mtvr.files import write_records
from .mtvr.records import CotRecord, Form, Media, MtvrRecord, RlRecord, ToolCotRecord
from .nano_dialogues import NotVisibleError, Teacher
from .nano_looks import HASTY, ClipWords

#: Third word of the train stream's key; the recipe's stages and the training annotations of the worlds use small ones.
_STREAM = 1000

_SHORT = VideoPlan(24.0, 40.0)
_MEDIUM = VideoPlan(40.0, 70.0)
_LONG = VideoPlan(24.0, 90.0)
_CHAPTERS = VideoPlan(60.0, 90.0, tiled=True)
_FLASH = VideoPlan(60.0, 90.0, flash=True)

_GROUNDING, _CHAPTER = "./data/charades", "./data/vidchapter_cutreward"
_CHOICE, _GROUNDED = "video_r1/multiple_choice", "./data/nextgqa"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of question within a file.

    Attributes:
        data_source: as records write it.
        ask: what is asked.
        answer: what the answer holds.
        options: how many options are offered.
    """

    data_source: str
    ask: Ask
    answer: AnswerKind
    options: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    """A file to write: its form and name, its videos, and its kinds of question, taken in turn."""

    form: Form
    name: str
    plan: VideoPlan
    kinds: tuple[_Kind, ...]


_MOMENTS = (_Kind(_GROUNDING, Ask.MOMENT, AnswerKind.SPAN),)
_CHAPTER_MOMENTS = (_Kind(_CHAPTER, Ask.MOMENT, AnswerKind.SPAN),)
_CHOICES = (_Kind(_CHOICE, Ask.COLOUR_BETWEEN, AnswerKind.OPTION, 4),)
_PROVEN_CHOICES = (_Kind(_GROUNDED, Ask.SHAPE_AND_MOMENT, AnswerKind.OPTION_AND_SPAN, 5),)
_MIXTURE = (
    _Kind(_CHOICE, Ask.COLOUR_FIRST, AnswerKind.OPTION, 4),
    _Kind("video_r1/numerical", Ask.COUNT, AnswerKind.NUMBER),
    _Kind("video_r1/regression", Ask.SIZE, AnswerKind.NUMBER),
    _Kind("video_r1/free_form", Ask.COLOUR_BETWEEN, AnswerKind.OPEN),
)

#: Ids of RL records: seed, form, file, number.
_ID = re.compile(r"nano-([0-9]{1,9})-(MTVR_RL|MTVR_Tool_RL)-(.+)-([0-9]{1,9})")

#: What follows the thought in each turn of a tool dialogue.
_TAGS = ("tool_call", "answer")

#: The hub's files that nano can fill: it has no images, one grounding set and one grounded set. Of tool files the hub
#: has two; nano has five, because so small a model does not carry the tool over to kinds of question it never saw.
_FILES = (
    _File(Form.COT, "charades", _SHORT, _MOMENTS),
    _File(Form.COT, "vidchapters", _CHAPTERS, _CHAPTER_MOMENTS),
    _File(Form.COT, "nextgqa", _MEDIUM, _PROVEN_CHOICES),
    _File(Form.COT, "longvideo-reason", _MEDIUM, _CHOICES),
    _File(Form.COT, "Video-R1-data-video", _SHORT, _MIXTURE),
    _File(Form.RL, "charades", _SHORT, _MOMENTS),
    _File(Form.RL, "vidchapters", _CHAPTERS, _CHAPTER_MOMENTS),
    _File(Form.RL, "nextgqa", _MEDIUM, _PROVEN_CHOICES),
    _File(Form.RL, "Video-R1-data-video", _SHORT, _MIXTURE),
    _File(Form.TOOL_COT, "vidchapters", _CHAPTERS, _CHAPTER_MOMENTS),
    _File(Form.TOOL_COT, "longvideo-reason", _FLASH, _CHOICES),
    _File(Form.TOOL_COT, "charades", _LONG, _MOMENTS),
    _File(Form.TOOL_COT, "nextgqa", _MEDIUM, _PROVEN_CHOICES),
    _File(Form.TOOL_COT, "Video-R1-data-video", _SHORT, _MIXTURE),
    _File(Form.TOOL_RL, "vidchapters", _CHAPTERS, _CHAPTER_MOMENTS),
    _File(Form.TOOL_RL, "longvideo-reason", _FLASH, _CHOICES),
    _File(Form.TOOL_RL, "charades", _LONG, _MOMENTS),
    _File(Form.TOOL_RL, "nextgqa", _MEDIUM, _PROVEN_CHOICES),
    _File(Form.TOOL_RL, "Video-R1-data-video", _SHORT, _MIXTURE),
)


@dataclass(frozen=True, slots=True)
class Counts:
    """What was written.

    Attributes:
        records: "form/file name" to its number of records.
        videos: number of videos.
    """

    records: Mapping[str, int]
    videos: int


def write_nano_mtvr(folder: Path, seed: int, per_source: int) -> Counts:
    """Write 19 files of records and their videos.

    Args:
        folder: gets ``MTVR_CoT/``, ``MTVR_RL/``, ``MTVR_Tool_CoT/``, ``MTVR_Tool_RL/`` and ``videos/``, which the
            records' paths start with; it is the media folder of the checks.
        seed: of the train world. The evaluation worlds draw from another stream whatever their seed.
        per_source: records a file. Each has a video of its own, which no other record shares.

    Raises:
        ValueError: if ``per_source`` is below 1.
    """
    if per_source < 1:
        raise ValueError(f"per_source must be at least 1, got {per_source}")
    counts = {}
    for place, file in enumerate(_FILES):
        records = []
        for number in range(per_source):
            record, video = _draw(file, seed, place, number)
            write_mp4(video, folder / record.media.path)
            records.append(record)
        write_records(folder / file.form / f"{file.name}.json", records)
        counts[f"{file.form}/{file.name}"] = len(records)
    return Counts(counts, sum(counts.values()))


def _draw(file: _File, seed: int, place: int, number: int) -> tuple[MtvrRecord, NanoVideo]:
    kind = file.kinds[number % len(file.kinds)]
    rng = generator(World.TRAIN, seed, _STREAM + place, number)
    while True:
        video = make_video(file.plan, rng)
        question = ask_question(kind.ask, video, rng, kind.options)
        try:
            return _WRITERS[file.form](_case(file, kind, video, question, seed, number), rng), video
        except NotVisibleError:
            continue


def nano_video(record: RlRecord) -> NanoVideo | None:
    """Draw the video of a record again, which its id says how; ``None`` if the record is not one written here."""
    parts = _ID.fullmatch(record.id)
    if parts is None:
        return None
    form, name = Form(parts[2]), parts[3]
    for place, file in enumerate(_FILES):
        if (file.form, file.name) == (form, name):
            drawn, video = _draw(file, int(parts[1]), place, int(parts[4]))
            return video if drawn == record else None
    return None


@dataclass(frozen=True, slots=True)
class _Case:
    """A question about a video, and the RL record that asks it."""

    video: NanoVideo
    question: NanoQuestion
    record: RlRecord


def _case(file: _File, kind: _Kind, video: NanoVideo, question: NanoQuestion, seed: int, number: int) -> _Case:
    sample = Sample("", "", "", video.duration, question.text, Target(), "", question.options)
    # As evaluation puts it at "{question}"; duration and the form of the answer are the prompt template's.
    text = render_user(
        dataclasses.replace(NANO_COT_TEXTS, user="{question}"), sample, kind.answer, video.duration, max_tool_calls=0
    )
    record = RlRecord(
        id=f"nano-{seed}-{file.form}-{file.name}-{number}",
        text=text,
        media=Media("video", f"videos/{file.form}/{file.name}/{number:06d}.mp4"),
        duration=video.duration,
        data_source=kind.data_source,
        solution=_right_answer(question, kind.answer),
    )
    return _Case(video, question, record)


def _right_answer(question: NanoQuestion, kind: AnswerKind) -> Window | str:
    if kind is AnswerKind.SPAN:
        return question.windows[0]
    if kind is AnswerKind.OPTION_AND_SPAN:
        start, end = question.windows[0]
        return f"{question.letter}, {start:.2f} to {end:.2f}"
    if kind is AnswerKind.NUMBER:
        return str(question.number)
    return str(question.letter or question.word)


def _cot(case: _Case, rng: np.random.Generator) -> CotRecord:
    (said,) = _turns(case, Mode.COT, rng)
    if "nothing" in said:
        raise NotVisibleError  # The answer would not follow from the thought.
    record = case.record
    return CotRecord(
        id=record.id,
        text=record.text,
        media=record.media,
        duration=record.duration,
        data_source=record.data_source,
        solution=said,
    )


def _rl(case: _Case, rng: np.random.Generator) -> RlRecord:
    _cot(case, rng)  # Without a tool, a question must be answerable from the view.
    return case.record


def _tool_cot(case: _Case, rng: np.random.Generator) -> ToolCotRecord:
    if case.question.ask is Ask.MOMENT:
        # The id, which holds the seed, decides the noise.
        words = ClipWords(case.video, case.question.event, case.question.windows, rng)
        return tool_cot_record(case.record, words, seed=0, decimals=0)
    # The question itself names the window that the dialogue calls for.
    first, last = (_parts(turn, tag) for turn, tag in zip(_turns(case, Mode.TOOL, rng), _TAGS, strict=True))
    if "nothing" in last[0]:
        raise NotVisibleError
    _, arguments = parse_call(first[1])
    clip = Span(float(arguments["start_time"]), float(arguments["end_time"]))
    return tool_dialogue(case.record, clip, Said(first[0], last[0], last[1]))


def _tool_rl(case: _Case, rng: np.random.Generator) -> RlRecord:
    _tool_cot(case, rng)  # It must be answerable with the tool.
    return case.record


_WRITERS: Mapping[Form, Callable[[_Case, np.random.Generator], MtvrRecord]] = {
    Form.COT: _cot,
    Form.RL: _rl,
    Form.TOOL_COT: _tool_cot,
    Form.TOOL_RL: _tool_rl,
}


def _turns(case: _Case, mode: Mode, rng: np.random.Generator) -> tuple[str, ...]:
    conversation = Teacher(preset("nano", mode, ""), lambda text: (), HASTY).dialogue(case.video, case.question, rng)
    return tuple(entry.generation.text for entry in conversation if isinstance(entry, AssistantTurn))


def _parts(turn: str, tag: str) -> tuple[str, str]:
    parts = thought_and(tag, turn)
    if parts is None:
        raise ValueError(f"not a thought and then a {tag}: {turn}")
    return parts
