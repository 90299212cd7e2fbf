"""``vital-eval score`` end to end: tables, JSON, faults, exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.judge.server import MODEL, Server, completion, serve, verdict
from tests.tasks.official_forms import WRITERS
from vital_eval.cli.main import main
from vital_eval.registry import Registry


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, write in WRITERS.items():
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        write(folder)
    return tmp_path / "data"


def score(root: Path, task: str, content: object, *options: str, name: str = "p.json") -> int:
    path = root.parent / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return main(["score", task, "--predictions", str(path), "--data-root", str(root), *options])


@pytest.mark.parametrize("task", sorted(WRITERS))
def test_every_benchmark_prints_every_official_figure(task, root, capsys) -> None:
    benchmark = Registry("task").load(task)()
    samples = benchmark.submission_samples(root / task)
    answers = {
        benchmark.official_id(sample): {
            "answer": sample.target.letter or sample.target.text or sample.target.number,
            "spans": [list(window) for window in sample.target.windows],
        }
        for sample in samples
    }
    assert score(root, task, answers) == 0
    told = capsys.readouterr().out
    for metric in benchmark.metrics:
        assert metric.name in told
    assert "95 % interval" in told
    assert score(root, task, answers, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["metrics"][benchmark.primary]["percent"] > 0
    assert data["outcomes"]["answered"] == len(samples)


def test_whatever_is_wrong_with_the_file_is_named_and_counted(root, capsys) -> None:
    lines = [
        '{"id": "unheard/0", "span": [1, 2]}',
        "{torn",
        '{"id": "V/0", "span": [4, 12]}',
        '{"id": "V/1", "span": [1, 2]}',
        '{"id": "V/1", "span": [1, 3]}',
    ]
    video = next(iter(json.loads((root / "charades_sta" / "charades_test.json").read_text())))
    text = "\n".join(lines).replace("V/", f"{video}/")
    assert score(root, "charades_sta", text, name="p.jsonl") == 3
    told = capsys.readouterr()
    for word in (
        "unreadable: line 2",
        f"conflicting: line 5, id {video}/1",
        "unknown: id unheard/0",
        "missing: 1 of 2",
    ):
        assert word in told.err
    assert "1 answered, 0 unparsed, 1 missing" in told.out


def test_many_faults_are_cut_short_in_words_and_whole_in_json(root, capsys) -> None:
    video = next(iter(json.loads((root / "charades_sta" / "charades_test.json").read_text())))
    content = {f"stranger {number}": "x" for number in range(50)} | {f"{video}/0": "4 to 12"}
    assert score(root, "charades_sta", content) == 3
    told = capsys.readouterr().err
    assert "unknown: and 45 more" in told
    assert score(root, "charades_sta", content, "--json") == 3
    data = json.loads(capsys.readouterr().out)
    assert data["faults"]["counts"] == {"unknown": 50}
    assert len(data["faults"]["list"]) == 50


@pytest.mark.parametrize(
    ("task", "options", "problem"),
    [
        ("charades", (), "did you mean charades_sta"),
        ("charades_sta", ("--question-only", "p.json"), "no gain over a question-only run"),
        ("mmvu", (), "none of the 1 ids is a question of mmvu"),
        ("mmvu", ("--judge-file", "x.jsonl"), "--judge-file names no judge"),
    ],
)
def test_mistakes_are_one_line(task, options, problem, root, capsys, monkeypatch) -> None:
    monkeypatch.chdir(root.parent)
    video = next(iter(json.loads((root / "charades_sta" / "charades_test.json").read_text())))
    assert score(root, task, {f"{video}/0": "b"}, *options) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert problem in told
    assert told.count("\n") == 1


def test_a_data_root_that_is_none_says_what_to_give(root, capsys) -> None:
    assert main(["score", "mmvu", "--predictions", "p.json", "--data-root", str(root / "nowhere")]) == 1
    assert "give the folder that holds one folder per task" in capsys.readouterr().err


def test_the_gain_over_a_question_only_file_is_printed(root, capsys, monkeypatch) -> None:
    monkeypatch.chdir(root.parent)
    task = Registry("task").load("videommmu")()
    samples = task.samples(root / "videommmu")
    right = {sample.id: {"answer": sample.target.letter or sample.target.text} for sample in samples}
    wrong = {name: {"answer": "nothing at all"} for name in right}
    (root.parent / "blind.json").write_text(json.dumps(wrong))
    assert score(root, "videommmu", right, "--question-only", "blind.json") == 0
    assert "gain over question-only, Adaptation: " in capsys.readouterr().out


def test_baselines_stand_beside_and_can_be_left_out(root, capsys) -> None:
    assert score(root, "vue_tr", {"0": []}) in (0, 3)
    assert "whole video" in capsys.readouterr().out
    assert score(root, "vue_tr", {"0": []}, "--no-baselines") in (0, 3)
    assert "whole video" not in capsys.readouterr().out


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


def judge(server: Server) -> tuple[str, ...]:
    return ("--judge-endpoint", server.url, "--judge-model", "judge-1", "--no-baselines")


def test_open_answers_go_to_the_judge_and_both_figures_are_shown(root, server, capsys) -> None:
    (choice, opened) = Registry("task").load("mmvu")().samples(root / "mmvu")
    content = {choice.id: {"answer": "D"}, opened.id: {"answer": "the camera pans"}}
    server.script = lambda call, number: verdict(call.fields["answer"] != "zoom")
    assert score(root, "mmvu", content, "--json", *judge(server)) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["metrics"]["Accuracy"]["percent"] == 50
    assert data["judged"]["Accuracy"]["percent"] == 100
    # Rules alone decide on letters; the metric that no open answer enters is not judged.
    assert "MC accuracy" not in data["judged"]
    assert MODEL in data["judge"]
    calls = len(server.calls)
    assert score(root, "mmvu", content, *judge(server)) == 0
    told = capsys.readouterr().out
    assert len(server.calls) == calls
    assert "rules, then judge" in told
    assert f"judge: {MODEL}" in told


def test_a_judge_that_fails_withholds_the_judged_figures(root, server, capsys) -> None:
    (choice, opened) = Registry("task").load("mmvu")().samples(root / "mmvu")
    content = {choice.id: {"answer": "D"}, opened.id: {"answer": "the camera pans"}}
    server.script = lambda call, number: completion("no json")
    assert score(root, "mmvu", content, *judge(server)) == 3
    told = capsys.readouterr()
    assert "withheld" in told.out
    assert "have no verdict" in told.err


def test_a_judge_for_a_benchmark_without_open_questions_is_refused(root, server, capsys) -> None:
    assert score(root, "video_mme", {"001-1": "A"}, *judge(server)) == 1
    assert "has no open-ended questions" in capsys.readouterr().err


def test_a_judge_that_is_not_there_leaves_the_rules_figures(root, capsys) -> None:
    (_, opened) = Registry("task").load("mmvu")().samples(root / "mmvu")
    options = ("--judge-endpoint", "http://127.0.0.1:9/v1", "--judge-model", "nobody", "--no-baselines")
    assert score(root, "mmvu", {opened.id: {"answer": "the camera pans"}}, *options) == 1
    told = capsys.readouterr()
    assert "Open exact match" in told.out
    assert told.err.startswith("error: ")
