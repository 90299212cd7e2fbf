"""Figures of others: data that is whole, floors that are ours, and tables that rank nothing."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from typing import Any

import pytest

from vital_eval.baselines import whole_video
from vital_eval.errors import DataError
from vital_eval.leaderboards.published import (
    PUBLISHED_TITLE,
    official_splits_from_json,
    published_from_json,
    published_tables,
    read_official_splits,
    read_published,
)
from vital_eval.leaderboards.tables import TextTable
from vital_eval.registry import Registry
from vital_eval.statistics.means import Estimate

#: Figures that no metric of ours is.
_AS_PRINTED = {
    ("longvideo_reason", "Goal acc"),
    ("longvideo_reason", "Plot acc"),
    ("longvideo_reason", "Spatial acc"),
    ("longvideo_reason", "Temporal acc"),
    ("vidchapters", "R@10s"),
    ("videommmu", "delta_knowledge"),
    ("vsi_bench", "overall"),
    ("vue_tr", "precision AUC (vision subset)"),
    ("vue_tr", "recall AUC (vision subset)"),
}

_GOOD: dict[str, Any] = {
    "task": "mmvu",
    "metric": "Accuracy",
    "value": 1.5,
    "model": "m",
    "setting": "s",
    "source": "paper",
    "confidence": "copied",
}


def _rows(table: TextTable) -> list[dict[str, str]]:
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


def test_every_metric_is_official_or_known_not_to_be() -> None:
    registry = Registry("task")
    official = {(name, metric.name) for name in registry.names() for metric in registry.load(name).metrics}
    results = read_published()
    used = {(result.task, result.metric) for result in results if result.task is not None}
    assert len(results) == 180
    assert used - official == _AS_PRINTED
    floors = {(floor.task, floor.metric) for floor in read_official_splits().floors}
    assert floors - official == {("vue_tr", "precision AUC (vision subset)")}


def test_no_figure_is_there_twice() -> None:
    results = read_published()
    assert len(set(results)) == len(results)


def test_no_row_is_something_else_than_a_score_of_a_model() -> None:
    for result in read_published():
        assert not result.model.startswith(("trivial", "oracle", "exploit")), result
        assert "tool execution" not in result.metric + result.setting, result


def test_the_averages_are_the_means_of_their_four_benchmarks() -> None:
    """The note of the paper was copied well: its averages follow from its columns."""
    results = read_published()
    averages = [result for result in results if result.task is None]
    assert len(averages) == 5
    for average in averages:
        row = average.setting.split(";")[1]
        parts = [one.value for one in results if one.task is not None and row in one.setting]
        assert len(parts) == 4, average
        assert average.value == pytest.approx(math.fsum(parts) / 4, abs=0.051), average


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "mmwu"}, "unknown task 'mmwu'"),
        ({"task": 3}, "unknown task 3"),
        ({"value": "1.5"}, "value must be a number"),
        ({"value": True}, "value must be a number"),
        ({"value": math.nan}, "value must be a number"),
        ({"value": 101}, "value must be a number"),
        ({"source": " "}, "field source must be a text"),
        ({"source": None}, "field source must be a text"),
        ({"model": ""}, "field model must be a text"),
        ({"confidence": "sure"}, "confidence 'sure'"),
        ({"more": 1}, "unknown field more"),
    ],
)
def test_a_damaged_entry_is_named(change: dict[str, Any], message: str) -> None:
    assert published_from_json([_GOOD], ["mmvu"])[0].value == 1.5
    with pytest.raises(DataError, match=r"published\.json, entry 2") as caught:
        published_from_json([_GOOD, _GOOD | change], ["mmvu"])
    assert message in str(caught.value)


@pytest.mark.parametrize("field", sorted(_GOOD))
def test_a_missing_field_is_named(field: str) -> None:
    entry = {name: value for name, value in _GOOD.items() if name != field}
    with pytest.raises(DataError, match=f"entry 1 has no field {field}"):
        published_from_json([entry], ["mmvu"])


def test_what_is_no_list_of_objects_is_refused() -> None:
    for data in ({}, None, [1], [[]]):
        with pytest.raises(DataError):
            published_from_json(data, ["mmvu"])


def test_damaged_floors_are_named() -> None:
    floor = {"task": "mmvu", "name": "n", "metric": "m", "value": 2, "source": "s"}
    good: dict[str, Any] = {"samples": {"mmvu": 3}, "floors": [floor]}
    assert official_splits_from_json(good, ["mmvu"]).floors[0].value == 2.0
    for place, value in (("samples", {"mmvu": 0}), ("samples", {"x": 1}), ("floors", [{**floor, "value": None}])):
        damaged = copy.deepcopy(good) | {place: value}
        with pytest.raises(DataError, match=r"published_floors\.json"):
            official_splits_from_json(damaged, ["mmvu"])


def test_tables_say_what_lies_below_a_floor() -> None:
    tables = published_tables(["activitynet_mr", "mmvu", "vue_tr"], {})
    assert [table.title for table in tables] == [f"{PUBLISHED_TITLE}: ActivityNet-MR", f"{PUBLISHED_TITLE}: VUE-TR"]
    assert all(len(row) == len(table.header) for table in tables for row in table.rows)
    remarks = {(row["model"], row["metric"]): row["remark"] for row in _rows(tables[0])}
    assert remarks["Qwen2.5-VL-7B", "mIoU"] == "below the whole-video floor 34.6"
    assert remarks["Qwen2.5-VL-7B", "R1@0.3"] == "below the whole-video floor 48.0"
    assert remarks["VITAL-7B", "mIoU"].startswith("in-domain: ")
    vision = {row["model"]: row for row in _rows(tables[1]) if row["metric"] == "Vision IoU AUC"}
    assert vision["GPT-4o"]["remark"] == "below the whole-video floor 28.4"
    assert vision["Vidi-7B"]["remark"] == ""
    assert vision["GPT-4o"]["value"] == "22"
    assert vision["GPT-4o"]["confidence"] == "first-hand"


def test_floors_of_a_board_count_only_over_the_whole_split() -> None:
    def remarks(n: int, name: str = "random", value: float = 0.5) -> set[str]:
        floors = {"charades_sta": {name: Estimate(value, 0.01, 0.4, 0.6, n, 10)}}
        (table,) = published_tables(["charades_sta"], floors)
        remarks = (row["remark"] for row in _rows(table) if row["metric"] == "mIoU")
        return {remark.partition("; ")[0] for remark in remarks if not remark.startswith("in-domain")}

    assert "below the random floor 50.0" in remarks(3720)
    assert remarks(24) == {""}
    # The official split's own floor is known, so the board's is not asked.
    assert remarks(3720, "whole video", 0.9) == {""}


def test_unknown_and_unpublished_tasks_have_no_table() -> None:
    assert published_tables(["mmvu", "somebody_elses"], {}) == ()


@pytest.mark.parametrize("task", ["activitynet_mr", "charades_sta", "next_gqa", "rextime", "vue_tr"])
def test_whole_video_floors_come_out_of_the_official_files(task: str) -> None:
    folder = Path(os.environ.get("VITAL_SHARED", Path(__file__).parents[3] / "shared")) / "data" / task
    if not folder.is_dir():
        pytest.skip(f"real annotation files not found at {folder}; set VITAL_SHARED")
    benchmark = Registry("task").load(task)()
    samples = benchmark.samples(folder)
    splits = read_official_splits()
    assert splits.samples[task] == len(samples)
    floors = [floor for floor in splits.floors if (floor.task, floor.name) == (task, "whole video")]
    keys = {metric.name: metric.score for metric in benchmark.metrics}
    scores = [whole_video(benchmark, sample) for sample in samples]
    compared = 0
    for floor in floors:
        if floor.metric in keys:
            values = [one[keys[floor.metric]] for one in scores if one is not None]
            kept = [value for value in values if value is not None]
            assert 100 * math.fsum(kept) / len(kept) == pytest.approx(floor.value, abs=0.0051), floor
            compared += 1
    assert compared >= 3
