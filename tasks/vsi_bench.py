"""VSI-Bench: spatial questions on indoor scans."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vital_eval.metrics.mra import mean_relative_accuracy
from vital_eval.parsing.numbers import parse_number
from vital_eval.parsing.options import parse_option
from vital_eval.sample import Sample, Target
from vital_eval.task import Answer, AnswerKind, Metric, Scores, Task, Unparsed

from .annotations import Record, checked, read_hub_rows, video_path
from .multiple_choice import accuracy

_SOURCE = "vsibench/utils.py of vision-x-nyu/thinking-in-space"
_NUMERIC = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
_DIRECTION = "object_rel_direction"
_CHOICE = ("object_rel_distance", _DIRECTION, "route_planning", "obj_appearance_order")
_LEVELS = ("easy", "medium", "hard")
_QUESTION_TYPES = {task: (task,) for task in _NUMERIC + _CHOICE if task != _DIRECTION} | {
    f"{_DIRECTION}_{level}": (_DIRECTION, level) for level in _LEVELS
}


class VSIBench(Task):
    """VSI-Bench test: four numeric tasks scored by mean relative accuracy, four with options by accuracy.

    The official figure is the unweighted mean of the eight tasks, and relative direction is first averaged over its
    three levels. Answers are read by the house parsers, which accept "(B)" or "about 4 m"; the official script reads
    the first word only, so its figures for wordy models are lower.
    """

    name: ClassVar[str] = "vsi_bench"
    title: ClassVar[str] = "VSI-Bench"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("Average", "score", f"unweighted mean of the eight tasks; {_SOURCE}"),
        *(Metric(task, task, f"mean relative accuracy; {_SOURCE}") for task in _NUMERIC),
        *(Metric(task, task, f"accuracy; {_SOURCE}") for task in _CHOICE),
    )
    primary: ClassVar[str] = "Average"

    def annotation_files(self) -> tuple[str, ...]:
        """Return the two forms of the hub's test table; the first that is there is read."""
        return ("test.jsonl", "test.parquet")

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Read the test questions."""
        return checked((self._question(row) for row in read_hub_rows(folder, "test")), folder)

    def answer_kind(self, sample: Sample) -> AnswerKind:
        """Ask for a letter or for a number, by the type of question."""
        return AnswerKind.NUMBER if sample.target.number is not None else AnswerKind.OPTION

    def parse(self, text: str, sample: Sample) -> Answer | Unparsed:
        """Read the letter or the number."""
        return parse_number(text) if sample.target.number is not None else parse_option(text, sample.options)

    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Score under the average and under the sample's own task."""
        target = sample.target.number
        if target is None:
            value = accuracy(answer, sample)
        else:
            stated = answer.number if answer else None
            value = 0.0 if stated is None else mean_relative_accuracy(stated, target)
        own = _QUESTION_TYPES[sample.attributes["question_type"]][0]
        return {"score": value} | {task: value if task == own else None for task in _NUMERIC + _CHOICE}

    def strata(self, metric: Metric, sample: Sample) -> tuple[str, ...]:
        """Average the eight tasks with equal weight, and relative direction over its levels."""
        path = _QUESTION_TYPES[sample.attributes["question_type"]]
        return path if metric.score == "score" else path[1:]

    def _question(self, row: Record) -> Sample:
        kind = row.text("question_type")
        if kind not in _QUESTION_TYPES:
            raise row.fault(f"unknown question type {kind!r:.60}")
        scene = f"{row.text('dataset')}/{row.text('scene_name')}"
        numeric = kind in _NUMERIC
        options = () if numeric else row.options("options")
        return Sample(
            id=row.key("id"),
            task=self.name,
            video=video_path(row, f"{scene}.mp4"),
            duration=None,
            question=row.text("question"),
            options=options,
            target=Target(number=_size(row)) if numeric else Target(letter=row.letter("ground_truth", options)),
            cluster=scene,
            attributes={"question_type": kind, "dataset": row.text("dataset")},
        )


def _size(row: Record) -> float:
    # The hub stores every ground truth as text. A relative error needs a target above 0.
    value = row.value("ground_truth")
    try:
        number = float(value) if isinstance(value, str) else row.number("ground_truth")
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise row.fault(f"field 'ground_truth' must be a number above 0, got {value!r:.60}")
    return number
