"""MTVR's files: read strictly, written back as they were, checked before anything is trained on them."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vital_eval.errors import DataError
from vital_eval.training.mtvr.checks import Fault, check_records, thought_and
from vital_eval.training.mtvr.files import (
    Malformed,
    collect_records,
    form_of,
    read_cot,
    read_records,
    read_rl,
    read_tool_cot,
    write_records,
)
from vital_eval.training.mtvr.records import CotRecord, Form, Media, MtvrRecord, RlRecord, ToolCotRecord
from vital_eval.training.mtvr.sources import Problem, read_sources, sources_from_json

CALL = '{"name": "get_video_clip_frame", "arguments": {"start_time": 1.82, "end_time": 8.94}}'
COT: dict[str, Any] = {
    "id": 7,
    "text": "When does she sit down?\n",
    "solution": "<think>She walks in first.</think><answer>From 2.00 to 9.50 seconds</answer>",
    "video": "a/b.mp4",
    "duration": 30.5,
}
RL: dict[str, Any] = COT | {"solution": [2.0, 9.5], "data_source": "./data/charades"}
TOOL_COT: dict[str, Any] = COT | {
    "solution": [
        f"<think>Look closer.</think><tool_call>{CALL}</tool_call>",
        "<think>Now it shows.</think><answer>2.00 to 8.50</answer>",
    ],
    "tool_params": "(1.82, 8.94)",
    "answer": [2.0, 8.5],
    "data_source": "./data/vidchapter_cutreward",
}
BY_FORM = {Form.COT: COT, Form.RL: RL, Form.TOOL_COT: TOOL_COT, Form.TOOL_RL: RL | {"data_source": "vidchapter"}}


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    def write(form: Form, *records: Any, name: str = "charades") -> Path:
        path = tmp_path / form / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(list(records)), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("form", list(Form))
def test_documented_record_is_read_and_passes_the_checks(form: Form, put: Callable[..., Path], tmp_path: Path) -> None:
    path = put(form, BY_FORM[form])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.mp4").touch()
    assert form_of(path) is form
    records = read_records(path, form)
    assert records[0].id == "7"
    assert records[0].text == "When does she sit down?\n", "its line end belongs to the prompt"
    assert records[0].media == Media("video", "a/b.mp4")
    assert check_records(records, tmp_path).kept == records


def test_data_source_comes_from_record_argument_or_file_name(put: Callable[..., Path]) -> None:
    assert read_cot(put(Form.COT, COT))[0].data_source == "./data/charades"
    assert read_cot(put(Form.COT, COT), "./data/actnet")[0].data_source == "./data/actnet"
    assert read_cot(put(Form.COT, COT | {"data_source": "video_r1/OCR"}), "./data/actnet")[0].data_source == (
        "video_r1/OCR"
    )
    mixed = put(Form.COT, COT, name="Video-R1-data-video")
    assert read_cot(mixed)[0].data_source is None
    assert read_rl(put(Form.TOOL_RL, BY_FORM[Form.TOOL_RL]))[0].data_source == "./data/vidchapter_cutreward"
    nameless = {key: value for key, value in RL.items() if key != "data_source"}
    with pytest.raises(DataError, match=r"Video-R1-data-video.json, record 0: field 'data_source'"):
        read_rl(put(Form.RL, nameless, name="Video-R1-data-video"))
    with pytest.raises(DataError, match=r"'./data/other' is not known; known are ./data/charades, .*vidchapter"):
        read_rl(put(Form.RL, RL | {"data_source": "./data/other"}))


def test_nulls_and_missing_durations_are_no_faults(put: Callable[..., Path]) -> None:
    nulls = RL | {"image": None, "duration": None, "video_kwargs": None}
    image = {key: value for key, value in RL.items() if key not in {"video", "duration"}} | {"image": "x.jpg"}
    one, other = read_rl(put(Form.RL, nulls, image | {"video_kwargs": {"max_frames": 8}}))
    assert (one.duration, one.video_kwargs, one.media.kind) == (None, None, "video")
    assert (other.media, other.video_kwargs) == (Media("image", "x.jpg"), {"max_frames": 8})


@pytest.mark.parametrize(
    ("form", "change", "told"),
    [
        (Form.COT, {"id": None}, "field 'id'"),
        (Form.COT, {"text": " \n"}, "field 'text'"),
        (Form.COT, {"solution": [1, 2]}, "field 'solution'"),
        (Form.COT, {"duration": "30.5"}, "field 'duration'"),
        (Form.COT, {"duration": 0}, "field 'duration'"),
        (Form.COT, {"image": "x.jpg"}, "'video' and 'image'"),
        (Form.COT, {"video": None}, "'video' and 'image'"),
        (Form.COT, {"video_kwargs": [1]}, "'video_kwargs'"),
        (Form.RL, {"solution": [1.0, 2.0, 3.0]}, "field 'solution'"),
        (Form.RL, {"solution": [1.0, True]}, "field 'solution'"),
        (Form.RL, {"solution": 3}, "field 'solution'"),
        (Form.RL, {"data_source": 3}, "field 'data_source'"),
        (Form.TOOL_COT, {"solution": "one turn"}, "field 'solution'"),
        (Form.TOOL_COT, {"solution": ["one turn"]}, "two turns"),
        (Form.TOOL_COT, {"tool_params": "__import__('os').abort()"}, "field 'tool_params'"),
        (Form.TOOL_COT, {"tool_params": "(1, 2, 3)"}, "field 'tool_params'"),
        (Form.TOOL_COT, {"tool_params": "(1, 2) or so"}, "field 'tool_params'"),
        (Form.TOOL_COT, {"tool_params": "(1e999, 2)"}, "field 'tool_params'"),
        (Form.TOOL_COT, {"tool_params": "(nan, 2)"}, "field 'tool_params'"),
        (Form.TOOL_COT, {"answer": None}, "field 'answer'"),
    ],
)
def test_fault_names_file_record_and_field(
    form: Form, change: dict[str, Any], told: str, put: Callable[..., Path]
) -> None:
    path = put(form, BY_FORM[form], BY_FORM[form] | change)
    with pytest.raises(DataError) as raised:
        read_records(path, form)
    assert f"{path}, record 1: " in raised.value.problem
    assert told in raised.value.problem
    assert raised.value.mend


@pytest.mark.parametrize("form", list(Form))
def test_collecting_reads_on_and_numbers_by_the_file(form: Form, put: Callable[..., Path]) -> None:
    good = BY_FORM[form]
    damaged: list[tuple[Any, str, str]] = [
        (7, "", "no-object"),
        (None, "", "no-object"),
        (good | {"id": None}, "", "malformed-id"),
        (good | {"text": 3}, "7", "malformed-text"),
        (good | {"image": "x.jpg"}, "7", "malformed-media"),
        (good | {"duration": 10**400}, "7", "malformed-duration"),
        (good | {"data_source": "./data/other"}, "7", "malformed-data-source"),
        (good | {"video_kwargs": []}, "7", "malformed-video-kwargs"),
        ({key: value for key, value in good.items() if key != "solution"}, "7", "malformed-solution"),
    ]
    if form is Form.TOOL_COT:
        damaged += [(good | {"tool_params": "x"}, "7", "malformed-tool-params")]
        damaged += [(good | {"answer": 3}, "7", "malformed-answer")]
    path = put(form, good, *(record for record, _, _ in damaged), good | {"id": "last"})
    found = collect_records(path, form)
    assert [record.id for record in found.records] == ["7", "last"]
    assert [(one.number, one.id, one.kind) for one in found.malformed] == [
        (number, name, kind) for number, (_, name, kind) in enumerate(damaged, start=1)
    ]
    assert all(one.problem and one.mend and str(path) not in one.problem for one in found.malformed)
    # Training stops at the first of them, and says the same.
    first = found.malformed[0]
    with pytest.raises(DataError, match=r"record 1: it must be an object, not int; .*data check") as raised:
        read_records(path, form)
    assert raised.value.problem == f"{path}, record 1: {first.problem}"
    sound = put(form, good)
    assert collect_records(sound, form).records == read_records(sound, form)


def test_a_file_that_is_no_list_has_no_malformed_records(tmp_path: Path) -> None:
    path = tmp_path / "charades.json"
    for content in (b"", b" \n", b'[{"id": 1}, {"id"', b'[{"id": "\xff"}]', b"{}"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"charades\.json (is not JSON|must hold a list)"):
            collect_records(path, Form.RL)
    path.write_bytes(b"[1]")
    assert collect_records(path, Form.RL).malformed == (
        Malformed(0, "", "no-object", "it must be an object, not int", "compare the file with MTVR's release"),
    )


@pytest.mark.parametrize(
    ("text", "params"),
    [("(1.82, 8.94)", (1.82, 8.94)), ("[3,4]", (3.0, 4.0)), ("( .5 , 1e2 )", (0.5, 100.0)), ("(-1., +2)", (-1.0, 2.0))],
)
def test_tool_params_are_read_from_text(text: str, params: tuple[float, float], put: Callable[..., Path]) -> None:
    assert read_tool_cot(put(Form.TOOL_COT, TOOL_COT | {"tool_params": text}))[0].tool_params == params


@pytest.mark.parametrize("content", ["", "{}", "[1]", "[NaN]", "\udc80", "[" * 100_000])
def test_what_is_no_list_of_records_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "charades.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    for reader in (read_cot, read_rl, read_tool_cot):
        with pytest.raises(DataError, match=r"charades\.json"):
            reader(path)
    with pytest.raises(DataError, match="does not exist"):
        read_cot(tmp_path / "absent.json")
    with pytest.raises(DataError, match="MTVR_CoT, MTVR_RL"):
        form_of(path)


TEXTS = st.text(min_size=1).filter(lambda text: bool(text.strip()))
IDS = TEXTS.filter(lambda text: text == text.strip())
SECONDS = st.floats(allow_nan=False, allow_infinity=False)
WINDOWS = st.tuples(SECONDS, SECONDS)
SHARED = {
    "id": IDS,
    "text": TEXTS,
    "media": st.builds(Media, st.sampled_from(["video", "image"]), TEXTS),
    "duration": st.none() | st.floats(min_value=1e-9, allow_infinity=False),
    "video_kwargs": st.none() | st.dictionaries(st.text(), st.integers(0, 9) | st.booleans() | st.text()),
}
SOURCES = st.sampled_from(sorted(read_sources().data_sources))
RECORDS = {
    # A CoT file's name stands for a data source, so a record cannot have none.
    Form.COT: st.builds(CotRecord, **SHARED, data_source=SOURCES, solution=TEXTS),
    Form.RL: st.builds(RlRecord, **SHARED, data_source=SOURCES, solution=WINDOWS | TEXTS),
    Form.TOOL_COT: st.builds(
        ToolCotRecord,
        **SHARED,
        data_source=SOURCES,
        turns=st.tuples(TEXTS, TEXTS),
        tool_params=WINDOWS,
        answer=WINDOWS | TEXTS,
    ),
}


@pytest.mark.parametrize("form", list(RECORDS))
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_written_records_are_read_back_equal(form: Form, tmp_path: Path, data: st.DataObject) -> None:
    records = tuple(data.draw(st.lists(RECORDS[form], max_size=3)))
    path = tmp_path / form / "nextgqa.json"
    write_records(path, records)
    assert read_records(path, form) == records


def test_written_files_have_the_documented_fields(tmp_path: Path, put: Callable[..., Path]) -> None:
    for form, fields in BY_FORM.items():
        path = put(form, fields)
        write_records(path, read_records(path, form))
        written = json.loads(path.read_text(encoding="utf-8"))[0]
        assert set(written) == set(fields), form
    assert "data_source" not in COT


def cot(**changes: Any) -> CotRecord:
    base = CotRecord(
        id="1", text="q", media=Media("video", "v.mp4"), duration=10.0, data_source="./data/charades",
        solution="<think>t</think>\n<answer>1.0 to 4.0</answer>\n",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def rl(solution: Any, source: str = "./data/charades", **changes: Any) -> RlRecord:
    record = RlRecord(id="1", text="q", media=Media("video", "v.mp4"), duration=10.0, data_source=source, solution="x")
    return dataclasses.replace(record, solution=solution, **changes)


def tool_cot(**changes: Any) -> ToolCotRecord:
    base = ToolCotRecord(
        id="1", text="q", media=Media("video", "v.mp4"), duration=10.0, data_source="./data/charades",
        turns=tuple(TOOL_COT["solution"]), tool_params=(1.82, 8.94), answer=(2.0, 8.5),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def turns(first: str, second: str = TOOL_COT["solution"][1]) -> dict[str, Any]:
    return {"turns": (first, second)}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (cot(media=Media("video", "absent.mp4")), Fault.MISSING_MEDIA),
        (cot(media=Media("video", "../v.mp4")), Fault.OUTSIDE_MEDIA_ROOT),
        (cot(media=Media("video", "/v.mp4")), Fault.OUTSIDE_MEDIA_ROOT),
        (cot(media=Media("video", "link.mp4")), Fault.OUTSIDE_MEDIA_ROOT),
        (cot(data_source="./data/other"), Fault.UNKNOWN_SOURCE),
        (cot(solution="<answer>1 to 2</answer>"), Fault.WRONG_FORM),
        (cot(solution="<think>t</think>1 to 2"), Fault.WRONG_FORM),
        (cot(solution="<think>t</think> so <answer>1 to 2</answer>"), Fault.WRONG_FORM),
        (cot(solution="<think>t</think><answer>1 to 2</answer><answer>1 to 2</answer>"), Fault.WRONG_FORM),
        (cot(solution="<think> </think><answer>1 to 2</answer>"), Fault.WRONG_FORM),
        (cot(solution="<think>t</think><answer>at the end</answer>"), Fault.UNREADABLE_ANSWER),
        (cot(solution="<think>t</think><answer>5 to 2</answer>"), Fault.REVERSED_SPAN),
        (cot(solution="<think>t</think><answer>5 to 12.5</answer>"), Fault.SPAN_OUTSIDE_VIDEO),
        (rl((4.0, 4.0)), Fault.REVERSED_SPAN),
        (rl((4.0, 12.1)), Fault.SPAN_OUTSIDE_VIDEO),
        (rl((-3.0, 4.0), duration=None), Fault.SPAN_OUTSIDE_VIDEO),
        (rl("Red", "video_r1/multiple_choice"), Fault.UNREADABLE_ANSWER),
        (rl("many", "video_r1/numerical"), Fault.UNREADABLE_ANSWER),
        (rl("B", "./data/nextgqa"), Fault.UNREADABLE_ANSWER),
        (tool_cot(answer=(8.5, 2.0)), Fault.REVERSED_SPAN),
        (tool_cot(answer=(3.0, 14.0)), Fault.SPAN_OUTSIDE_VIDEO),
        (tool_cot(tool_params=(1.0, 8.94)), Fault.WRONG_CALL),
        (tool_cot(**turns("<think>t</think><answer>1 to 2</answer>")), Fault.WRONG_FORM),
        (tool_cot(**turns("<think>t</think><tool_call>{</tool_call>")), Fault.WRONG_CALL),
        (tool_cot(**turns(TOOL_COT["solution"][0].replace("clip_frame", "clip"))), Fault.WRONG_CALL),
        (tool_cot(**turns(TOOL_COT["solution"][0].replace("8.94", '"8.94"'))), Fault.WRONG_CALL),
        (tool_cot(**turns(TOOL_COT["solution"][0], TOOL_COT["solution"][0])), Fault.WRONG_FORM),
    ],
)
def test_each_fault_is_found_alone_and_its_record_dropped(record: MtvrRecord, fault: Fault, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "v.mp4").touch()
    (tmp_path / "outside.mp4").touch()
    (tmp_path / "media" / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    good: list[MtvrRecord] = [cot(id="good"), rl((1.0, 11.5), id="late"), rl("B", "video_r1/multiple_choice", id="B")]
    good += [rl("<answer>C. red</answer>", "video_r1/multiple_choice", id="C"), tool_cot(id="tool")]
    report = check_records([*good, record], tmp_path / "media")
    assert report.kept == tuple(good)
    assert set(report.counts) == {fault}
    assert report.counts[fault] == 1
    assert report.examples[fault][0].startswith("1: ")
    assert f"5 of 6 records kept; {fault} 1 (such as 1: " in report.summary()


def test_faults_are_counted_once_a_record_with_a_few_examples() -> None:
    bad = [rl((5.0 + index, 1.0), id=str(index)) for index in range(5)]
    report = check_records([cot(), *bad, cot(id="1")], media_root=None)
    assert report.total == 7
    assert report.counts == {Fault.DUPLICATE_ID: 2, Fault.REVERSED_SPAN: 5}
    assert len(report.examples[Fault.REVERSED_SPAN]) == 3
    twice = check_records([cot(), tool_cot(id="2", tool_params=(9.0, 1.0), answer=(9.0, 1.0))], None)
    assert twice.counts[Fault.REVERSED_SPAN] == 1


def test_nothing_left_is_an_error_that_says_why() -> None:
    with pytest.raises(DataError, match="nothing to train on: 0 of 0"):
        check_records([], None)
    with pytest.raises(DataError, match=r"0 of 1 records kept; reversed-span 1 \(such as 1: .*, not \(4\.0, 2\.0\)"):
        check_records([rl((4.0, 2.0))], None)


def test_parts_of_a_turn() -> None:
    assert thought_and("answer", " <think>a</think>\n<answer> b </answer>\n") == ("a", " b ")
    assert thought_and("tool_call", "<think>a</think><answer>b</answer>") is None
    assert thought_and("answer", "<think>a<answer>b</answer></think>") is None


def test_counts_add_up_to_the_published_totals() -> None:
    sources = read_sources()
    totals = {
        form: sum(file.records or 0 for file in sources.files if file.form is form and file.exact) for form in Form
    }
    assert totals == {Form.COT: 53_730, Form.RL: 0, Form.TOOL_COT: 17_590, Form.TOOL_RL: 15_413}
    assert {form: sum(file.form is form for file in sources.files) for form in Form} == {
        Form.COT: 8, Form.RL: 7, Form.TOOL_COT: 2, Form.TOOL_RL: 2,
    }  # fmt: skip
    assert sources.problem("./data/rextime") is Problem.GROUNDED_QA
    assert sources.problem(None) is None
    assert {source.problem for source in sources.data_sources.values()} == set(Problem)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (("data_sources", 0), {"problem": "riddle"}),
        (("data_sources", 1), {"name": "./data/charades"}),
        (("data_sources", 1), {"source": ""}),
        (("aliases", 0), {"means": "./data/other"}),
        (("aliases", 0), {"name": "./data/charades"}),
        (("files", 0), {"confidence": "sure"}),
        (("files", 0), {"records": 0}),
        (("files", 0), {"records": None}),
        (("files", 0), {"form": "MTVR"}),
        (("files", 1), {"name": "charades"}),
        (("files", 0), {"data_source": "./data/actnet"}),
        (("files", 0), {"more": 1}),
    ],
)
def test_damaged_source_data_is_refused(place: tuple[str, int], change: dict[str, Any]) -> None:
    data = json.loads((files("vital_eval.training") / "mtvr_sources.json").read_text(encoding="utf-8"))
    sources_from_json(copy.deepcopy(data))
    data[place[0]][place[1]] |= change
    with pytest.raises(DataError, match=r"mtvr_sources\.json"):
        sources_from_json(data)
