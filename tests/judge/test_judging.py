"""Rules first, then the judge; what fails is neither right nor wrong."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from vital_eval.chat_server import Patience
from vital_eval.errors import DataError
from vital_eval.judge.client import ChatJudge
from vital_eval.judge.errors import JudgeError
from vital_eval.judge.figures import JudgedFigure, judged_figures
from vital_eval.judge.judged import judged_scores, needs_judge
from vital_eval.judge.judging import FAILURES_IN_A_ROW, JudgeReport, judge_all
from vital_eval.judge.question import JudgeQuestion
from vital_eval.judge.run_questions import questions_of_run
from vital_eval.judge.verdicts import Verdicts, VerdictStore, read_verdict_file
from vital_eval.protocol import Mode
from vital_eval.summary import summarise
from vital_eval.task import Answer

from .open_run import ANSWERS, CHOICES, OPEN, REFERENCE, TASK, make_run, read_data, write_data_root
from .server import MODEL, Answered, Call, Server, by_word, completion, verdict

QUICK = Patience(attempts=2, first_pause=0.01, longest_pause=0.02)
QUESTIONS = tuple(JudgeQuestion(TASK, f"s{n}", "Which?", "Pan", "right" if n % 2 else "no") for n in range(6))


def judge(
    server: Server,
    path: Path,
    questions: tuple[JudgeQuestion, ...] = QUESTIONS,
    model: str = "judge-1",
    at_once: int = 2,
) -> tuple[JudgeReport, Verdicts]:
    client = ChatJudge(server.url, model, patience=QUICK, concurrency=at_once)
    with VerdictStore.open(path, client.identity) as store:
        store.declare(TASK, "d1", {question.sample_id for question in questions})
        return asyncio.run(judge_all(questions, client, store)), store.verdicts


def test_every_question_once_and_again_none(server: Server, tmp_path: Path) -> None:
    report, verdicts = judge(server, tmp_path / "j", QUESTIONS + QUESTIONS)
    assert (report.judged, report.reused, report.right, report.failed) == (6, 0, 3, 0)
    assert (report.prompt_tokens, report.completion_tokens) == (600, 60)
    assert len(server.real) == 6
    assert [verdicts.right(TASK, f"s{n}", "right" if n % 2 else "no") for n in range(6)] == [False, True] * 3
    before, calls = (tmp_path / "j").read_bytes(), len(server.calls)
    report, _ = judge(server, tmp_path / "j")
    assert (report.judged, report.reused, report.right, report.failed) == (0, 6, 3, 0)
    assert len(server.calls) == calls
    assert (tmp_path / "j").read_bytes() == before


def test_failures_stay_owed_and_only_they_are_judged_again(server: Server, tmp_path: Path) -> None:
    server.script = lambda call, number: Answered(500) if call.fields["answer"] == "right" else verdict(False)
    report, verdicts = judge(server, tmp_path / "j")
    assert (report.judged, report.failed, report.failures) == (3, 3, {"http 500": 3})
    assert verdicts.right(TASK, "s1", "right") is None
    server.script, done = by_word, len(server.real)
    report, verdicts = judge(server, tmp_path / "j")
    assert (report.judged, report.reused, report.right, report.failed) == (3, 3, 3, 0)
    assert len(server.real) == done + 3
    assert verdicts.right(TASK, "s1", "right") is True


def test_a_reply_that_cannot_be_read_is_not_a_wrong_answer(server: Server, tmp_path: Path) -> None:
    server.script = lambda call, number: completion("the answer is right")
    report, verdicts = judge(server, tmp_path / "j")
    assert (report.judged, report.failed, report.failures) == (0, 6, {"malformed reply": 6})
    assert not verdicts.by_place


def test_a_judge_that_is_down_is_not_asked_on_and_on(server: Server, tmp_path: Path) -> None:
    server.script = lambda call, number: Answered(500)
    report, _ = judge(server, tmp_path / "j")
    assert (report.judged, report.failed, report.failures) == (0, 6, {"http 500": 1})
    assert server.real == []
    many = tuple(JudgeQuestion(TASK, f"s{n}", "Which?", "Pan", "x") for n in range(100))
    server.script = lambda call, number: completion("?")
    report, _ = judge(server, tmp_path / "k", many)
    assert report.failed == 100
    assert FAILURES_IN_A_ROW <= len(server.real) <= FAILURES_IN_A_ROW + 2


def test_another_model_is_refused_by_name_and_what_was_judged_is_kept(server: Server, tmp_path: Path) -> None:
    judge(server, tmp_path / "j", QUESTIONS[:2])
    server.script = lambda call, number: verdict(True, model="judge-2")
    with pytest.raises(JudgeError, match=f"answers as model 'judge-2', before it was '{MODEL}'"):
        judge(server, tmp_path / "j")
    assert len(server.real) == 2
    server.script = by_word
    report, _ = judge(server, tmp_path / "j")
    assert (report.judged, report.reused) == (4, 2)


def test_a_model_swapped_in_the_middle_is_refused(server: Server, tmp_path: Path) -> None:
    def script(call: Call, number: int) -> Answered:
        return verdict(True, model="judge-2" if number > 3 else MODEL)

    server.script = script
    with pytest.raises(JudgeError, match="'judge-2'"):
        judge(server, tmp_path / "j", at_once=1)
    server.script = by_word
    report, verdicts = judge(server, tmp_path / "j")
    assert (report.judged, report.reused) == (3, 3)
    assert verdicts.model == MODEL


def test_a_server_with_two_models_behind_one_name_is_refused_from_the_first_reply(
    server: Server, tmp_path: Path
) -> None:
    def script(call: Call, number: int) -> Answered:
        return verdict(True, model="judge-2" if number else MODEL)

    server.script = script
    with pytest.raises(JudgeError, match=f"answers as model 'judge-2', before it was '{MODEL}'"):
        judge(server, tmp_path / "j")
    stored = read_verdict_file(tmp_path / "j")
    assert stored is not None
    assert not stored.by_place


def test_nothing_to_judge_asks_nobody(tmp_path: Path) -> None:
    client = ChatJudge("http://127.0.0.1:9/v1", "m")
    with VerdictStore.open(tmp_path / "j", client.identity) as store:
        report = asyncio.run(judge_all((), client, store))
    assert (report.judged, report.failed) == (0, 0)


def test_which_answers_need_a_judge() -> None:
    wrong, right = {"a": 0.0, "b": None}, {"a": 1.0, "b": None}
    assert needs_judge(Answer("x"), wrong)
    assert needs_judge(Answer("x"), {"a": 0.5})
    assert not needs_judge(Answer("x"), right)
    assert not needs_judge(None, wrong)
    assert not needs_judge(Answer(" "), wrong)
    assert not needs_judge(Answer("x"), {"b": None})


def test_a_verdict_only_adds() -> None:
    scores = {"a": 0.0, "b": 0.5, "c": None}
    assert judged_scores(scores, True) == {"a": 1.0, "b": 1.0, "c": None}
    assert judged_scores(scores, False) == scores


def judged_run(
    server: Server, tmp_path: Path, modes: tuple[Mode, ...] = (Mode.COT,), **changes: object
) -> tuple[JudgedFigure, ...]:
    data = read_data(write_data_root(tmp_path))
    manifest, records = make_run(data, modes=modes, **changes)  # type: ignore[arg-type]
    asked = questions_of_run(manifest, records, {TASK: data})
    client = ChatJudge(server.url, "judge-1", patience=QUICK)
    with VerdictStore.open(tmp_path / "j", client.identity) as store:
        for name, scope in asked.scopes.items():
            store.declare(name, scope.data_hash, scope.samples)
        asyncio.run(judge_all(asked.questions, client, store))
        return judged_figures(manifest, records, store.verdicts)


def open_match(figures: tuple[JudgedFigure, ...]) -> JudgedFigure:
    """Return the only figure of the metric over open questions alone."""
    (figure,) = (figure for figure in figures if figure.metric == "Open exact match")
    return figure


def test_only_open_answers_that_the_rules_do_not_accept_are_asked(tmp_path: Path) -> None:
    data = read_data(write_data_root(tmp_path))
    manifest, records = make_run(data)
    asked = questions_of_run(manifest, records, {TASK: data})
    assert {question.sample_id for question in asked.questions} == {f"open_{n}" for n in (1, 2, 3, 4, 8)}
    assert {question.reference for question in asked.questions} == {REFERENCE}
    assert asked.scopes[TASK].samples == set(ANSWERS)
    changed = read_data(write_data_root(tmp_path, question="Which other?"))
    with pytest.raises(DataError, match="annotation files of mmvu"):
        questions_of_run(manifest, records, {TASK: changed})


def test_figures_by_rule_and_by_judge(server: Server, tmp_path: Path) -> None:
    figures = judged_run(server, tmp_path, (Mode.COT, Mode.DIRECT))
    assert [(figure.mode, figure.metric) for figure in figures] == [
        (mode, metric) for mode in (Mode.COT, Mode.DIRECT) for metric in ("Open exact match", "Accuracy")
    ]
    manifest, records = make_run(read_data(tmp_path / "data"), modes=(Mode.COT, Mode.DIRECT))
    cells = {cell.mode: cell for cell in summarise(manifest, records).cells}
    # By hand: two right by the rules, three by the judge, of ten open ones; empty ones and none stay wrong, and so do
    # the two letters, which no judge sees.
    sizes = {"Open exact match": OPEN, "Accuracy": OPEN + CHOICES}
    for figure in figures:
        n = sizes[figure.metric]
        assert figure.rules == cells[figure.mode].metrics[figure.metric]
        assert figure.rules.value == pytest.approx(2 / n)
        assert figure.judged is not None
        assert figure.judged.value == pytest.approx(5 / n)
        assert figure.judged.n == figure.rules.n == n
        assert figure.judged.low is not None
        assert figure.judged.low < 5 / n
        assert (figure.sent, figure.failed, figure.owed) == (5, 0, 0)
        assert figure.judge.startswith(MODEL)
    # Both modes gave the same answers; each was sent once.
    assert len(server.real) == 5
    sent = {call.fields["answer"] for call in server.real}
    assert sent == {ANSWERS[f"open_{n}"] for n in (1, 2, 3, 4, 8)}


def test_the_judge_sees_nothing_but_three_fields(server: Server, tmp_path: Path) -> None:
    judged_run(server, tmp_path)
    for call in server.real:
        assert set(call.fields) == {"question", "reference_answer", "answer"}
        assert len(call.request["messages"]) == 2


def test_a_failure_withholds_the_judged_figure(server: Server, tmp_path: Path) -> None:
    server.script = lambda call, number: completion("?") if call.fields["answer"] == "a tilt" else by_word(call, number)
    figure = open_match(judged_run(server, tmp_path))
    assert figure.judged is None
    assert (figure.sent, figure.failed) == (5, 1)
    assert figure.rules.value == pytest.approx(2 / OPEN)
    server.script = by_word
    figure = open_match(judged_run(server, tmp_path))
    assert figure.judged is not None
    assert figure.judged.value == pytest.approx(5 / OPEN)


def test_owed_samples_show(server: Server, tmp_path: Path) -> None:
    figure = open_match(judged_run(server, tmp_path, failed=("open_8", "choice_0")))
    assert (figure.sent, figure.owed) == (4, 2)


def test_verdicts_for_other_data_are_refused(server: Server, tmp_path: Path) -> None:
    data = read_data(write_data_root(tmp_path))
    manifest, records = make_run(data)
    client = ChatJudge(server.url, "judge-1")
    with VerdictStore.open(tmp_path / "j", client.identity) as store:
        store.declare(TASK, "other", ["open_0"])
        with pytest.raises(JudgeError, match="annotation files other"):
            judged_figures(manifest, records, store.verdicts)


def test_a_judge_that_calls_all_right_or_all_wrong_gives_the_bounds(server: Server, tmp_path: Path) -> None:
    server.script = lambda call, number: verdict(False)
    figure = open_match(judged_run(server, tmp_path))
    assert figure.judged == figure.rules
    (tmp_path / "j").unlink()
    server.script = lambda call, number: verdict(True)
    figure = open_match(judged_run(server, tmp_path))
    assert figure.judged is not None
    assert figure.judged.value == pytest.approx(7 / OPEN)


def test_figures_do_not_depend_on_the_order_of_records(server: Server, tmp_path: Path) -> None:
    figure = open_match(judged_run(server, tmp_path))
    manifest, records = make_run(read_data(tmp_path / "data"))
    client = ChatJudge(server.url, "judge-1")
    with VerdictStore.open(tmp_path / "j", client.identity) as store:
        again = open_match(judged_figures(manifest, records[::-1], store.verdicts))
    assert dataclasses.asdict(again) == dataclasses.asdict(figure)
