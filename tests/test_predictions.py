"""Prediction files: every form is read, everything odd is named."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vital_eval.errors import DataError
from vital_eval.predictions import FaultKind, Prediction, read_predictions
from vital_eval.task import SubmissionForm

VUE = SubmissionForm("query_id", windows="answer")
REXTIME = SubmissionForm("qid", windows="pred_relevant_windows", answer="ans")


def write(folder: Path, content: str | bytes, name: str = "p.json") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("value", "prediction"),
    [
        ("From 1 to 2", Prediction(text="From 1 to 2")),
        (4, Prediction(answer="4")),
        (4.25, Prediction(answer="4.25")),
        ([1, 2.5], Prediction(windows=((1.0, 2.5),))),
        ([[1, 2], [3, 4]], Prediction(windows=((1.0, 2.0), (3.0, 4.0)))),
        ([], Prediction(windows=())),
        ([[]], Prediction(windows=())),
        ({"answer": "B"}, Prediction(answer="B")),
        ({"answer": "B", "span": [3, 1]}, Prediction(windows=((3.0, 1.0),), answer="B")),
        ({"spans": [[1, 2]]}, Prediction(windows=((1.0, 2.0),))),
        ({"answer": None, "text": "so <answer>B</answer>"}, Prediction(text="so <answer>B</answer>")),
        ({"span": None}, Prediction()),
        ({"answer": [[1, 2]]}, Prediction(windows=((1.0, 2.0),))),
    ],
)
def test_values(value, prediction, tmp_path) -> None:
    for name, content in {
        "object.json": {"a": value},
        "records.json": [{"id": "a", **value}] if isinstance(value, dict) else {"a": value},
    }.items():
        file = read_predictions(write(tmp_path, json.dumps(content), name))
        assert file.predictions == {"a": prediction}
        assert file.faults == ()


@pytest.mark.parametrize(
    "value",
    [
        True,
        None,
        float("nan"),
        {"answer": True},
        {"answer": {}},
        {"span": [1, 2, 3]},
        {"span": "1-2"},
        {"span": [1, 10**400]},
        {"spans": [[1, None]]},
        {"other": 1},
        {"text": 3},
        [[1, 2], 3],
        [float("inf"), 2],
        {"span": [0, 32], "spans": [[100, 101]]},
        {"span": [0, 32], "answer": [[200, 201]]},
        {"span": [0, 1, 0.7]},
    ],
)
def test_values_that_are_no_predictions_are_named_and_cost_only_themselves(value, tmp_path) -> None:
    file = read_predictions(write(tmp_path, json.dumps({"bad": value, "good": "B"})))
    assert set(file.predictions) == {"good"}
    (fault,) = file.faults
    assert fault.kind is FaultKind.UNREADABLE
    assert "bad" in fault.where


def test_json_lines_name_the_line(tmp_path) -> None:
    lines = [
        b'{"id": 1, "answer": "A"}',
        b"",
        b"{torn",
        b'{"answer": "A"}',
        b"\xff\xfe",
        b"[1]",
        b'{"id": 2, "answer": "B"}',
    ]
    file = read_predictions(write(tmp_path, b"\n".join(lines), "p.jsonl"))
    assert set(file.predictions) == {"1", "2"}
    assert [fault.where for fault in file.faults] == ["line 3", "line 4", "line 5", "line 6"]
    assert {fault.kind for fault in file.faults} == {FaultKind.UNREADABLE}


@pytest.mark.parametrize("name", ["p.json", "p.txt"])
def test_json_lines_are_known_by_their_look(name, tmp_path) -> None:
    file = read_predictions(write(tmp_path, '{"id": 1, "answer": "A"}\n{"id": 2, "answer": "B"}\n', name))
    assert set(file.predictions) == {"1", "2"}
    assert set(read_predictions(write(tmp_path, '{"id": 1, "answer": "A"}\n', name)).predictions) == {"1"}


def test_official_records(tmp_path) -> None:
    rows = [
        {"query_id": 7, "video_id": "x", "duration": 3.0, "answer": [[5, 1], [2, 3]]},
        {"query_id": 8, "answer": [[]]},
    ]
    file = read_predictions(write(tmp_path, json.dumps(rows)), VUE)
    assert file.predictions == {"7": Prediction(windows=((5.0, 1.0), (2.0, 3.0))), "8": Prediction(windows=())}
    row = {"qid": "anet_val2", "pred_relevant_windows": [[0, 5]], "ans": "B"}
    file = read_predictions(write(tmp_path, json.dumps(row) + "\n", "r.jsonl"), REXTIME)
    assert file.predictions == {"anet_val2": Prediction(windows=((0.0, 5.0),), answer="B")}


def test_official_records_may_carry_scores_and_may_not_contradict_themselves(tmp_path) -> None:
    rows = [
        {"qid": "a", "pred_relevant_windows": [[0, 5, 0.7], [6, 9, 0.1]], "ans": "B"},
        {"qid": "b", "pred_relevant_windows": [[0, 5]], "ans": "B", "answer": "A"},
    ]
    file = read_predictions(write(tmp_path, json.dumps(rows)), REXTIME)
    assert file.predictions == {"a": Prediction(windows=((0.0, 5.0), (6.0, 9.0)), answer="B")}
    assert "disagree" in file.faults[0].problem


def test_a_pipe_is_read(tmp_path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=('{"a": "B"}',))
    writer.start()
    assert set(read_predictions(path).predictions) == {"a"}
    writer.join()


def test_endless_ids_are_cut_in_messages(tmp_path) -> None:
    file = read_predictions(write(tmp_path, json.dumps({"x" * 100_000: True, "good": "B"})))
    assert len(file.faults[0].where) < 200


def test_the_same_prediction_twice_counts_once_and_is_named(tmp_path) -> None:
    rows = [{"id": "a", "answer": "B"}, {"id": "a", "answer": "B"}]
    file = read_predictions(write(tmp_path, json.dumps(rows)))
    assert file.predictions == {"a": Prediction(answer="B")}
    assert [fault.kind for fault in file.faults] == [FaultKind.REPEATED]


@pytest.mark.parametrize("order", [("A", "B"), ("B", "A"), ("A", "B", "A")])
def test_of_conflicting_predictions_none_counts_whatever_the_order(order, tmp_path) -> None:
    rows = [{"id": "a", "answer": letter} for letter in order] + [{"id": "b", "answer": "C"}]
    file = read_predictions(write(tmp_path, json.dumps(rows)))
    assert set(file.predictions) == {"b"}
    assert {fault.kind for fault in file.faults} == {FaultKind.CONFLICTING}


def test_equal_keys_of_an_object_are_seen(tmp_path) -> None:
    # json.loads alone keeps the last one without a word.
    text = '{"a": "B", "b": "C", "a": "D"}'
    assert json.loads(text) == {"a": "D", "b": "C"}
    file = read_predictions(write(tmp_path, text))
    assert set(file.predictions) == {"b"}
    assert [fault.kind for fault in file.faults] == [FaultKind.CONFLICTING]


def test_a_field_written_twice_is_unreadable_in_every_form(tmp_path) -> None:
    file = read_predictions(write(tmp_path, '{"a": {"span": [1, 2], "span": [3, 4]}, "b": "C"}'))
    assert set(file.predictions) == {"b"}
    assert "span" in file.faults[0].problem
    file = read_predictions(write(tmp_path, '[{"id": "a", "answer": "B", "answer": "C"}, {"id": "b", "answer": "C"}]'))
    assert set(file.predictions) == {"b"}
    assert "answer" in file.faults[0].problem


@pytest.mark.parametrize(
    "content", ["", " \n", "nonsense", "3", '"text"', "[]", "{}", "[1, 2]", "[" * 100_000, "\ufeff"]
)
def test_files_without_predictions_are_one_line(content, tmp_path) -> None:
    with pytest.raises(DataError) as caught:
        read_predictions(write(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert "p.json" in str(caught.value)


def test_missing_file_and_folder(tmp_path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_predictions(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="directory"):
        read_predictions(tmp_path)


def test_a_byte_order_mark_is_no_fault(tmp_path) -> None:
    assert set(read_predictions(write(tmp_path, b'\xef\xbb\xbf{"a": "B"}')).predictions) == {"a"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["answer", "span", "spans", "text", "id"]), inner)
    ),
    max_leaves=6,
)


# An object on one line with a field "id" is a record, not a mapping.
@given(st.dictionaries(st.text(max_size=3).filter(lambda key: key != "id"), json_values, max_size=4))
def test_every_entry_is_a_prediction_or_a_fault(tmp_path_factory, content) -> None:
    path = write(tmp_path_factory.mktemp("p"), json.dumps({"fixed": "B", **content}))
    file = read_predictions(path)
    assert len(file.predictions) + len(file.faults) == len({"fixed", *content})
