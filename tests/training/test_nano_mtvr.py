"""Nano's MTVR: the documented forms, right by the tasks' own scorers, and true to the pixels of its videos."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from vital_eval.clip import Clip
from vital_eval.metrics.iou import hull_iou
from vital_eval.nano.formats import write_world
from vital_eval.nano.render import FRAME_SIDE
from vital_eval.nano.world import COLOURS, FPS, SCENES, World, generator
from vital_eval.parsing.spans import find_spans
from vital_eval.parsing.turn import split_turn
from vital_eval.presets import preset
from vital_eval.prompts import render_user
from vital_eval.protocol import Mode, View
from vital_eval.registry import Registries
from vital_eval.sample import Sample, Target, option_letter
from vital_eval.span import Span, Window
from vital_eval.task import AnswerKind, Unparsed
from vital_eval.tasks.longvideo_reason import split_problem
from vital_eval.toolbox import GetVideoClipFrame, ToolLimits, run_call
from vital_eval.training import nano_mtvr
from vital_eval.training.mtvr.checks import check_records
from vital_eval.training.mtvr.files import form_of, read_records
from vital_eval.training.mtvr.records import CotRecord, Form, MtvrRecord, RlRecord, ToolCotRecord
from vital_eval.training.mtvr.sources import Problem, read_sources
from vital_eval.training.nano_base import STAGES
from vital_eval.training.nano_mtvr import Counts, write_nano_mtvr
from vital_eval.video.pyav_decoder import PyAVDecoder
from vital_eval.video.source import ClipSource

PER_SOURCE = 4
#: What the hub has without the tool only: nano does not carry a skill over to kinds of question it never saw.
_MORE_WITH_THE_TOOL = ("charades", "nextgqa", "Video-R1-data-video")
VIEW = View(fps=float(FPS), max_frames=1000, min_pixels=1, max_pixels=FRAME_SIDE**2, clock=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counts]:
    folder = tmp_path_factory.mktemp("mtvr")
    return folder, write_nano_mtvr(folder, seed=5, per_source=PER_SOURCE)


@pytest.fixture(scope="module")
def records(written: tuple[Path, Counts]) -> list[tuple[Form, MtvrRecord]]:
    folder, _ = written
    found: list[tuple[Form, MtvrRecord]] = []
    for path in sorted(folder.glob("MTVR_*/*.json")):
        form = form_of(path)
        report = check_records(read_records(path, form), folder, tolerance_seconds=0.0)
        assert not report.counts, (path, report.summary())
        found += [(form, record) for record in report.kept]
    return found


def seen_colours(folder: Path, record: MtvrRecord) -> list[str | None]:
    """Read from the pixels which colour each frame shows."""
    clip = ClipSource(folder, PyAVDecoder()).read(record.media.path, None, VIEW, 1)
    assert len(clip.frames) == round((record.duration or 0) * FPS)
    names = [None, *COLOURS]
    palette = np.array([*COLOURS.values()], dtype=int)
    greys = np.array([[grey] * 3 for grey in SCENES], dtype=int)
    shown: list[str | None] = []
    # Every fourth pixel each way is enough to tell, and 16 times faster.
    for frame in clip.frames[:, ::4, ::4].astype(int).reshape(len(clip.frames), -1, 3):
        near = np.abs(frame[:, None] - np.concatenate([greys, palette])).sum(-1).argmin(-1) - len(greys)
        counts = np.bincount(near[near >= 0], minlength=len(palette))
        shown.append(names[int(counts.argmax()) + 1] if counts.max() > 3 else None)
    return shown


def window_of(shown: list[str | None], colour: str) -> Window:
    frames = [index for index, name in enumerate(shown) if name == colour]
    return (frames[0] / FPS, (frames[-1] + 1) / FPS)


def test_counts_name_every_file(written: tuple[Path, Counts], records: list[tuple[Form, MtvrRecord]]) -> None:
    folder, counts = written
    on_disk = {f"{path.parent.name}/{path.stem}" for path in folder.glob("MTVR_*/*.json")}
    assert set(counts.records) == on_disk
    more = {f"{form}/{name}" for form in (Form.TOOL_COT, Form.TOOL_RL) for name in _MORE_WITH_THE_TOOL}
    known = {f"{file.form}/{file.name}" for file in read_sources().files}
    assert on_disk - known == more, "no other file that the hub has not"
    assert set(counts.records.values()) == {PER_SOURCE}
    assert counts.videos == len(list(folder.rglob("*.mp4"))) == len(records) == 19 * PER_SOURCE
    assert (
        len({record.id for _, record in records}) == len({record.media.path for _, record in records}) == len(records)
    )
    problems = {read_sources().problem(record.data_source) for _, record in records}
    assert problems >= set(Problem) - {Problem.OCR}


def _right(record: MtvrRecord) -> Window | str | None:
    if isinstance(record, ToolCotRecord):
        return record.answer
    return record.solution if isinstance(record, RlRecord) else None


def test_right_answers_are_true_to_the_pixels(
    written: tuple[Path, Counts], records: list[tuple[Form, MtvrRecord]]
) -> None:
    folder, checked = written[0], 0
    for _, record in records:
        right = _right(record)
        if right is None:
            continue
        shown = seen_colours(folder, record)
        question, options = split_problem(record.text)
        if moment := re.fullmatch(r"When: (\w+) \w+", question):
            assert right == window_of(shown, moment[1])
            checked += 1
            continue
        assert isinstance(right, str)
        if shape := re.fullmatch(r"Which shape is (\w+)\?", question):
            assert find_spans(right)[0].window == window_of(shown, shape[1])
        elif between := re.fullmatch(r"Which colour is seen from (\d+) to (\d+)\?", question):
            inside = {name for name in shown[int(between[1]) * FPS : int(between[2]) * FPS] if name}
            assert inside == {options[ord(right) - ord("A")] if options else right}
        elif question == "Which colour is seen first?":
            assert options[ord(right) - ord("A")] == next(name for name in shown if name)
        elif question == "How many shapes are seen?":
            assert int(right) == len({name for name in shown if name})
        else:
            assert question.startswith("How large is ")
            continue
        checked += 1
    assert checked > 0.8 * 8 * PER_SOURCE


def _sample(record: MtvrRecord, right: Window | str, task: str) -> Sample:
    question, options = split_problem(record.text)
    problem = read_sources().problem(record.data_source)
    windows: tuple[Window, ...] = ()
    if problem is Problem.GROUNDED_QA and isinstance(right, str):
        windows = (find_spans(right)[0].window,)
    elif not isinstance(right, str):
        windows = (right,)
    letter = right[0] if isinstance(right, str) and options else None
    counted = {Problem.NUMERICAL, Problem.REGRESSION}
    number = float(right) if isinstance(right, str) and problem in counted else None
    text = options[ord(letter) - ord("A")] if letter else right if isinstance(right, str) else None
    kinds = {"question_type": "object_counting", "dataset": "nano"}
    return Sample(
        "", task, "", record.duration, question, Target(windows, letter, text, number), "", options, attributes=kinds
    )


_TASKS = {
    Problem.GROUNDING: "charades_sta",
    Problem.GROUNDED_QA: "next_gqa",
    Problem.MULTIPLE_CHOICE: "longvideo_reason",
    Problem.NUMERICAL: "vsi_bench",
    Problem.REGRESSION: "vsi_bench",
}


def test_right_answers_score_full_marks_by_the_tasks_own_scorers(records: list[tuple[Form, MtvrRecord]]) -> None:
    tasks = Registries().tasks
    for form, record in records:
        problem = read_sources().problem(record.data_source)
        right = _right(record)
        if problem not in _TASKS or right is None:
            continue
        task = tasks.load(_TASKS[problem])()
        sample = _sample(record, right, task.name)
        stated = right if isinstance(right, str) else f"{right[0]:.2f} to {right[1]:.2f}"
        answer = task.parse(stated, sample)
        assert not isinstance(answer, Unparsed)
        scores = task.score(answer, sample)
        # None: not one of this question's metrics.
        assert set(scores.values()) - {None} == {1.0}, (form, record)
        assert min(value or 0.0 for value in task.score(None, sample).values()) == 0.0


def test_said_answers_are_right_or_the_bracket_that_the_view_proves(
    written: tuple[Path, Counts], records: list[tuple[Form, MtvrRecord]]
) -> None:
    tasks = Registries().tasks
    overlaps = []
    for form, record in records:
        if not isinstance(record, CotRecord | ToolCotRecord):
            continue
        said = split_turn(record.turns[1] if isinstance(record, ToolCotRecord) else record.solution)
        assert said.anomalies == ()
        assert said.answer is not None
        question, options = split_problem(record.text)
        shown = seen_colours(written[0], record)
        colour = question.removeprefix("When: ").split()[0] if question.startswith("When") else ""
        if shape := re.fullmatch(r"Which shape is (\w+)\?", question):
            colour = shape[1]
        if colour:
            truth = window_of(shown, colour)
            task = tasks.load("next_gqa" if options else "charades_sta")()
            answer = task.parse(said.answer, _sample(record, truth, task.name))
            assert not isinstance(answer, Unparsed)
            window = answer.spans[0].as_window()
            overlaps.append(hull_iou(window, truth))
            if form is Form.COT:
                assert window[0] <= truth[0] + 1, "labels are whole seconds of a pair's middle"
                assert window[1] >= truth[1] - 1
        elif between := re.fullmatch(r"Which colour is seen from (\d+) to (\d+)\?", question):
            inside = {name for name in shown[int(between[1]) * FPS : int(between[2]) * FPS] if name}
            assert inside == {options[ord(said.answer) - ord("A")] if options else said.answer}
        elif question == "How many shapes are seen?":
            assert int(said.answer) == len({name for name in shown if name})
    assert len(overlaps) >= 3 * PER_SOURCE
    assert min(overlaps) > 0.2
    assert sum(overlaps) / len(overlaps) > 0.45


def test_tool_calls_run_and_the_question_needs_them(records: list[tuple[Form, MtvrRecord]]) -> None:
    protocol = preset("nano", Mode.TOOL, "")
    noise = []

    async def read_clip(span: Span) -> Clip:
        return Clip(np.zeros((1, 4, 4, 3), np.uint8), (span.start,), span)

    for record in (record for _, record in records if isinstance(record, ToolCotRecord)):
        call = split_turn(record.turns[0]).tool_call
        assert call is not None
        assert record.duration is not None
        tool = GetVideoClipFrame()
        limits = ToolLimits(record.duration, 0.0, protocol.min_clip_seconds)
        result = asyncio.run(run_call(call, {tool.name: tool}, limits, read_clip))
        assert result.clip.span == Span(*record.tool_params)
        if not isinstance(record.answer, str):
            length = record.answer[1] - record.answer[0]
            noise += [abs(a - b) / length for a, b in zip(record.tool_params, record.answer, strict=True)]
            # Whole seconds, rounded outwards.
            assert noise[-1] <= 0.2 + 1 / length
            assert noise[-2] <= 0.2 + 1 / length
    assert len(noise) == 2 * 2 * PER_SOURCE
    assert max(noise) > 0.02


def test_text_gives_the_very_prompt_of_evaluation(records: list[tuple[Form, MtvrRecord]]) -> None:
    kinds = {
        Problem.GROUNDING: AnswerKind.SPAN,
        Problem.GROUNDED_QA: AnswerKind.OPTION_AND_SPAN,
        Problem.MULTIPLE_CHOICE: AnswerKind.OPTION,
        Problem.NUMERICAL: AnswerKind.NUMBER,
        Problem.REGRESSION: AnswerKind.NUMBER,
        Problem.FREE_FORM: AnswerKind.OPEN,
    }
    for form, record in records:
        problem = read_sources().problem(record.data_source)
        assert problem is not None
        assert record.duration is not None
        mode = Mode.TOOL if form in {Form.TOOL_COT, Form.TOOL_RL} else Mode.COT
        protocol = preset("nano", mode, "")
        question, options = split_problem(record.text)
        sample = Sample("", "", "", record.duration, question.removeprefix("When: "), Target(), "", options)
        evaluation = render_user(protocol.prompt, sample, kinds[problem], record.duration, protocol.max_tool_calls)
        # How a trainer writes it: the record's text is the whole question, so nothing is put around it.
        texts = dataclasses.replace(protocol.prompt, moment="{query}")
        bare = Sample("", "", "", record.duration, record.text, Target(), "")
        assert render_user(texts, bare, kinds[problem], record.duration, protocol.max_tool_calls) == evaluation
        if options:
            assert option_letter(len(options) - 1) in record.text


def test_every_draw_is_from_the_train_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[tuple[int, ...]] = []

    def train_only(world: World, seed: int, *key: int) -> np.random.Generator:
        assert world is World.TRAIN
        keys.append(key)
        return generator(world, seed, *key)

    monkeypatch.setattr(nano_mtvr, "generator", train_only)
    write_nano_mtvr(tmp_path, seed=5, per_source=2)
    assert len(keys) == len(set(keys)) == 38
    # The recipe of vital-nano and the annotations beside the evaluation worlds use small first numbers.
    assert min(key[0] for key in keys) > max(len(STAGES), 100)


def test_same_seed_same_files_and_no_video_of_the_evaluation_worlds(
    written: tuple[Path, Counts], tmp_path: Path
) -> None:
    def digests(folder: Path, pattern: str) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob(pattern)
        }

    write_nano_mtvr(tmp_path / "again", seed=5, per_source=PER_SOURCE)
    assert digests(tmp_path / "again", "*.json") == digests(written[0], "*.json")
    write_nano_mtvr(tmp_path / "other", seed=6, per_source=1)
    write_world(tmp_path / "world", seed=5, per_task=1)
    own = set(digests(written[0], "*.mp4").values())
    assert len(own) == 19 * PER_SOURCE
    assert not own & set(digests(tmp_path / "world", "*.mp4").values())
    assert not own & set(digests(tmp_path / "other", "*.mp4").values())
    with pytest.raises(ValueError, match="per_source"):
        write_nano_mtvr(tmp_path / "none", seed=5, per_source=0)
