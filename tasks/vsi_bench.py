"""VSI-Bench: spatial questions on indoor scans."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vital_eval.metrics.mra import mean_relative_accuracy
from vital_eval.parsing.numbers import parse_number
from vital_eval.parsing.official import first_word, official_letter, official_number
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
    three levels. The official script reads the first word of the answer and nothing else, so "(B)" and "about 4 m" are
    wrong. Beside it stand the same figure by the house parsers, which accept both, and the mean over questions that
    some reports print instead of the mean over tasks.
    """

    name: ClassVar[str] = "vsi_bench"
    title: ClassVar[str] = "VSI-Bench"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("Average", "official", f"unweighted mean of the eight tasks; {_SOURCE}"),
        Metric("Average (lenient parser)", "lenient", "the same over answers read by the house parsers; ours"),
        Metric("Micro mean", "micro", "mean over questions instead of tasks, official parser; not the official figure"),
        *(Metric(task, task, f"mean relative accuracy; {_SOURCE}") for task in _NUMERIC),
        *(Metric(task, task, f"accuracy; {_SOURCE}") for task in _CHOICE),
    )
    primary: ClassVar[str] = "Average"
    scorer_version: ClassVar[int] = 2
    digits: ClassVar[int] = 1

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
        """Read the letter or the number by the house parsers; keep the text for the official reading.

        An answer that only the official reading takes ("B and C": its first word is B) is noted, not refused.
        """
        if sample.target.number is not None:
            answer, officially = parse_number(text), official_number(text) is not None
        else:
            answer = parse_option(text, sample.options)
            officially = first_word(text).upper() in sample.option_letters()
        if isinstance(answer, Unparsed) and officially:
            return Answer(text.strip(), notes=(answer.reason,))
        return answer

    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Score under the averages and under the sample's own task."""
        target, text = sample.target.number, answer.text if answer else ""
        if target is None:
            official = float(official_letter(text, sample.target.letter or ""))
            lenient = accuracy(answer, sample)
        else:
            official = _relative_accuracy(official_number(text), target)
            lenient = _relative_accuracy(answer.number if answer else None, target)
        own = _QUESTION_TYPES[sample.attributes["question_type"]][0]
        return {"official": official, "lenient": lenient, "micro": official} | {
            task: official if task == own else None for task in _NUMERIC + _CHOICE
        }

    def strata(self, metric: Metric, sample: Sample) -> tuple[str, ...]:
        """Average the eight tasks with equal weight, and relative direction over its levels."""
        if metric.score == "micro":
            return ()
        path = _QUESTION_TYPES[sample.attributes["question_type"]]
        return path if metric.score in ("official", "lenient") else path[1:]

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


def _relative_accuracy(stated: float | None, target: float) -> float:
    return 0.0 if stated is None else mean_relative_accuracy(stated, target)


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
