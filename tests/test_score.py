"""Predictions made elsewhere against samples: outcomes, denominators, ids, and agreement with the run's own path."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from vital_eval.errors import DataError
from vital_eval.outcome import grade
from vital_eval.predictions import FaultKind, Prediction, PredictionFile, read_predictions
from vital_eval.registry import Registry
from vital_eval.score import breakdown, figure, metric_values, read_answer, score_predictions
from vital_eval.score_report import make_report, report_to_json, score_question_only
from vital_eval.task import Unparsed
from vital_eval.trajectory import StopReason, Trajectory

from .tasks.conftest import load, official  # noqa: F401 - fixtures

PUBLISHED = {"GPT-4o": "predictions_gpt-4o.json", "Gemini-2.5-Pro": "predictions_gemini-2.5-pro.json"}


def metric(task, name):
    return next(metric for metric in task.metrics if metric.name == name)


def test_missing_unknown_and_unparsed_stay_in_the_denominator(load) -> None:  # noqa: F811
    task, samples = load("charades_sta")
    assert len(samples) == 2
    file = PredictionFile({samples[0].id: Prediction(windows=((4.0, 12.0),)), "stranger": Prediction(answer="x")}, ())
    scored = score_predictions(task, samples, file)
    assert scored.counts == {"answered": 1, "unparsed": 0, "missing": 1}
    assert figure(scored, task.primary_metric()).value == 0.5
    assert figure(scored, task.primary_metric()).n == 2
    # The naive mean over what was predicted would print 100.
    assert figure(scored, task.primary_metric(), answered_only=True).value == 1.0
    assert [(fault.kind, fault.where) for fault in scored.faults] == [(FaultKind.UNKNOWN, "id stranger")]
    assert not scored.clean


def test_outcomes_add_up_and_reasons_are_counted(load) -> None:  # noqa: F811
    task, samples = load("charades_sta")
    windows = {samples[0].id: ((12.0, 4.0),), samples[1].id: ((5.0, 5.0),)}
    file = PredictionFile({name: Prediction(windows=value) for name, value in windows.items()}, ())
    scored = score_predictions(task, samples, file)
    assert sum(scored.counts.values()) == len(samples)
    assert scored.reasons == {"unparsed: reversed-span": 1, "unparsed: zero-length-span": 1}
    assert figure(scored, task.primary_metric()).value == 0.0


def test_next_gqa_is_known_by_its_official_ids_and_by_ours(load) -> None:  # noqa: F811
    task, samples = load("next_gqa")
    assert task.official_id(samples[0]) == "77_0"
    for name in ("77_0", "77/0"):
        file = PredictionFile({name: Prediction(answer="B", windows=((2.0, 6.0),))}, ())
        assert score_predictions(task, samples, file).counts["answered"] == 1
    both = {"77_0": Prediction(answer="B"), "77/0": Prediction(answer="C")}
    scored = score_predictions(task, samples, PredictionFile(both, ()))
    assert scored.counts["answered"] == 0
    assert [fault.kind for fault in scored.faults] == [FaultKind.CONFLICTING]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("charades_sta", "From 4 to 12"),
        ("next_gqa", "B, 4 to 8"),
        ("next_gqa", "B"),
        ("vue_tr", "0 to 8, 16 to 24"),
        ("mmvu", "(D)"),
        ("vsi_bench", "B."),
        ("video_mme", "The answer is C."),
        ("charades_sta", "no idea"),
        ("charades_sta", "12 to 4"),
    ],
)
def test_a_text_scores_as_the_same_answer_of_a_run(name, text, load) -> None:  # noqa: F811
    task, samples = load(name)
    sample = samples[0]
    run = grade(task, sample, Trajectory((), StopReason.ANSWERED, text, (), 30.0))
    for form in (text, f"<think>9 to 9.5, A</think><answer>{text}</answer>"):
        scored = score_predictions(task, samples[:1], PredictionFile({sample.id: Prediction(text=form)}, ()))
        assert {key: None if value != value else value for key, (value,) in scored.columns.items()} == run.scores
        assert scored.outcomes == (run.outcome.value,)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"arguments": {"start": 4, "end": 12}}</tool_call>',
        "<think>From 4 to 12",
        "<think>From 4 to 12</think> that is it",
        "<answer></answer>",
    ],
)
def test_thoughts_and_tool_calls_are_never_read(text, load) -> None:  # noqa: F811
    task, samples = load("charades_sta")
    assert isinstance(read_answer(task, Prediction(text=text), samples[0]), Unparsed)


def test_one_span_tasks_take_the_first_window_and_say_so(load) -> None:  # noqa: F811
    task, samples = load("charades_sta")
    answer = read_answer(task, Prediction(windows=((4.0, 12.0), (0.0, 1.0))), samples[0])
    assert answer.spans[0].as_window() == (4.0, 12.0)
    assert answer.notes == ("several-spans",)
    # A first window that is reversed is not replaced by the second.
    assert read_answer(task, Prediction(windows=((12.0, 4.0), (4.0, 12.0))), samples[0]) == Unparsed("reversed-span")


def test_a_letter_and_a_window_each_count_without_the_other(load) -> None:  # noqa: F811
    task, samples = load("next_gqa")
    letter = task.score(read_answer(task, Prediction(answer="B"), samples[0]), samples[0])
    window = task.score(read_answer(task, Prediction(windows=((2.0, 6.0),)), samples[0]), samples[0])
    assert (letter["accuracy"], letter["iop"], letter["acc@gqa"]) == (1.0, 0.0, 0.0)
    assert (window["accuracy"], window["iop"], window["acc@gqa"]) == (0.0, 1.0, 0.0)


def test_the_gain_over_a_question_only_file(load) -> None:  # noqa: F811
    task, samples = load("videommmu")
    adaptation = [sample for sample in samples if sample.attributes["track"] == "Adaptation"]

    def answers(right: int) -> PredictionFile:
        return PredictionFile(
            {
                sample.id: Prediction(answer=(sample.target.letter or sample.target.text) if place < right else "Z")
                for place, sample in enumerate(adaptation)
            },
            (),
        )

    n = len(adaptation)
    assert n >= 2
    after = score_predictions(task, samples, answers(n))
    before = score_question_only(task, samples, answers(1))
    report = make_report(after, "hash", {}, before)
    high, low = (figure(each, metric(task, "Adaptation")).value for each in (after, before))
    assert high > low > 0
    assert report.gain.value == pytest.approx((high - low) / (1 - low))
    assert report.gain.n == n
    with pytest.raises(DataError, match="no gain"):
        score_question_only(Registry("task").load("mmvu")(), (), answers(0))


def test_a_question_only_file_with_holes_gives_no_gain(load) -> None:  # noqa: F811
    # A missing answer counts as wrong there, so every hole would pass for knowledge gained.
    task, samples = load("videommmu")
    adaptation = [sample for sample in samples if sample.attributes["track"] == "Adaptation"]
    full = PredictionFile({sample.id: Prediction(answer=sample.target.letter or "x") for sample in samples}, ())
    holes = PredictionFile({sample.id: Prediction(answer="A") for sample in adaptation[1:]}, ())
    after = score_predictions(task, samples, full)
    before = score_question_only(task, samples, holes)
    report = make_report(after, "hash", {}, before)
    assert report.gain is None
    assert report_to_json(report, "p")["question_only"]["outcomes"]["missing"] == 1


def test_a_file_of_another_benchmark_is_refused(load) -> None:  # noqa: F811
    task, samples = load("vue_tr")
    with pytest.raises(DataError, match="none of the 1 ids is a question of vue_tr; the first is '3MSZA/0'"):
        score_predictions(task, samples, PredictionFile({"3MSZA/0": Prediction(answer="x")}, ()))


def test_json_holds_every_figure_with_n_and_interval(load) -> None:  # noqa: F811
    task, samples = load("vue_tr")
    file = PredictionFile({samples[0].id: Prediction(windows=((0.0, 8.0),))}, ())
    data = report_to_json(make_report(score_predictions(task, samples, file), "hash", {}), "p.json")
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert set(data["metrics"]) == {metric.name for metric in task.metrics}
    for entry in data["metrics"].values():
        assert {"percent", "low", "high", "n", "clusters", "source", "answered_only"} <= set(entry)
    assert data["outcomes"] == {"answered": 1, "unparsed": 0, "missing": 1}


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_rows_of_vue_tr_through_the_prediction_file(method, official) -> None:  # noqa: F811
    folder: Path = official("vue_tr")
    task = Registry("task").load("vue_tr")()
    file = read_predictions(folder / PUBLISHED[method], task.submission)
    scored = score_predictions(task, task.submission_samples(folder), file)
    names = {"precision": "Precision AUC", "recall": "Recall AUC", "iou": "IoU AUC"}
    printed = {
        column: {"overall": figure(scored, metric(task, name))}
        | {part.value: part.estimate for part in breakdown(scored, metric(task, name))}
        for column, name in names.items()
    }
    with (folder / "published_rows.csv").open(encoding="utf-8", newline="") as rows:
        published = [row for row in csv.DictReader(rows) if row["method"] == method]
    assert len(published) == 12
    for row in published:
        for column in names:
            assert f"{100 * printed[column][row['attribute']].value:.{task.digits}f}%" == row[column], row
    # The control: without the official value for silence, recall would not agree.
    unsilenced = [item.value for item in metric_values(scored, metric(task, names["recall"])) if item.value != 0.005]
    assert f"{100 * sum(unsilenced) / len(scored.samples):.1f}%" != published[0]["recall"] or method == "GPT-4o"


@pytest.mark.parametrize(
    ("window", "reason"),
    [((0.2, 0.6), "within-the-first-second"), ((4000.0, 12000.0), "ends-after-the-video"), ((4.0, 31.5), None)],
)
def test_spans_that_can_hardly_be_seconds_are_counted(window, reason, load) -> None:  # noqa: F811
    task, samples = load("charades_sta")
    scored = score_predictions(task, samples, PredictionFile({samples[0].id: Prediction(windows=(window,))}, ()))
    assert scored.reasons == ({f"answered: {reason}": 1} if reason else {})
