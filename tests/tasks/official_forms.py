"""Small annotation files in the documented official forms, written from scratch."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def moments(file: str, video: str) -> Callable[[Path], None]:
    content = {
        video: {
            "duration": 30.5,
            "timestamps": [[4.0, 12], [20.0, 31.0]],
            "sentences": [" A ball rolls. ", "A ball rolls."],
        }
    }
    return lambda folder: write_json(folder / file, content)


def vidchapters(folder: Path) -> None:
    row = {"duration": 100, "split": "test", "relevant_windows": [[0, 40.5]]}
    write_lines(
        folder / "chapters_vmr_test.json",
        [
            {"qid": 0, "query": "Opening", "vid": "0" + "7abcdefghi_", **row},
            {"qid": 1, "query": "Ending", "vid": "12" + "7abcdefghi_", **row, "relevant_windows": [[40.5, 100.7]]},
        ],
    )


def next_gqa(folder: Path) -> None:
    heading = ["video_id", "frame_count", "width", "height", "question", "answer", "qid", "type"]
    options = ["roll", "jump", "jump", "sit", "eat, drink"]
    with (folder / "test.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*heading, *(f"a{i}" for i in range(5))])
        writer.writerow(["77", "900", "320", "240", "what does the dog do", "jump", "0", "CW", *options])
        writer.writerow(["77", "900", "320", "240", "what does the cat do", "eat, drink", "3", "TN", *options])
    location = {"0": [[2.0, 6.0], [10.0, 12]], "3": [[20, 30]]}
    write_json(
        folder / "gsub_test.json",
        {"77": {"duration": 30, "location": location, "fps": 30}, "78": {"duration": 9, "location": {}, "fps": 30}},
    )
    write_json(folder / "map_vid_vidorID.json", {"77": "0001/77", "78": "0001/78"})


def rextime(folder: Path) -> None:
    rows = [
        {"qid": "qvh_val1", "query": "Why did it fall?", "duration": 150, "vid": "ab_60.0_210.0"},
        {"qid": "anet_val2", "query": "What next?", "duration": 20.5, "vid": "v_xyz"},
    ]
    windows = [[[10, 30]], [[1, 1]]]
    write_lines(
        folder / "rextime_val.jsonl",
        [{**row, "relevant_windows": window, "ans": "B"} for row, window in zip(rows, windows, strict=True)],
    )


def rextime_hub(folder: Path) -> None:
    options = ["it slid", "it was pushed", "wind", "nothing"]
    write_lines(
        folder / "rextime_val_hub.jsonl",
        [
            {"qid": qid, "options": options, "ans": "B", "answer": "From <s0> to <e0>, <option>", "span": [0, 1]}
            for qid in ("anet_val2", "qvh_val1")
        ],
    )


def vsi_rows() -> list[dict[str, Any]]:
    base = {"dataset": "scannet", "scene_name": "scene0000_00"}
    choice = {"options": ["A. left", "B. right", "C. back"], "ground_truth": "B"}
    types = ["object_rel_direction_easy", "object_rel_direction_hard", "object_rel_distance"]
    rows = [{"id": i, "question_type": kind, "question": "Where?", **base, **choice} for i, kind in enumerate(types)]
    count = {"question_type": "object_counting", "question": "How many?", "options": None}
    rows += [{"id": 3 + i, **base, **count, "ground_truth": str(4 + i)} for i in range(2)]
    return rows


def vsi_bench(folder: Path) -> None:
    write_lines(folder / "test.jsonl", vsi_rows())


def mmvu(folder: Path) -> None:
    base = {
        "video": "https://example.org/resolve/main/videos/Art/0.mp4",
        "youtube_url": "",
        "metadata": {"subject": "Art", "textbook": "", "knowledge": [], "rationale": ""},
        "question": "Which one?",
    }
    texts = {"A": "pan", "B": "tilt", "C": "zoom", "D": "dolly", "E": "crane"}
    empty = dict.fromkeys(texts, "")
    write_json(
        folder / "validation.json",
        [
            {"id": "validation_0", "question_type": "multiple-choice", "choices": texts, "answer": "D", **base},
            {"id": "validation_1", "question_type": "open-ended", "choices": empty, "answer": "Pan Shot", **base},
        ],
    )


def videommmu(folder: Path) -> None:
    def question(video: str, options: list[str], answer: str, **more: Any) -> dict[str, Any]:
        return {"id": video, "link_selected": "", "question": "Q?", "options": options, "answer": answer, **more}

    plain = {"0": question("dev_Art_Theory_3", ["x", "y"], "B")}
    write_json(folder / "perception_video.json", {"Perception": plain})
    write_json(folder / "comprehension_video.json", {"Comprehension": plain})
    adaptation = [
        question("dev_Art_Theory_3", ["x", "y", "z"], "C", question_type="multiple-choice"),
        question("new_Math_1", [], "0.286", question_type="open"),
        question("validation_Physics_2", [], "A", question_type="open"),
        question("validation_Math_15", [], "['24/7', '3.429', '3.43]", question_type="open"),
        question("validation_Accounting_13", ["1", "2", "3"], "C"),
    ]
    write_json(folder / "adaptation_video.json", {"Adaptation": {str(i): row for i, row in enumerate(adaptation)}})


def vue_tr(folder: Path) -> None:
    base = {"video_id": "abc", "duration": 32.625, "task": "temporal_retrieval"}
    kinds = {"duration_category": "ultra-short", "query_format": "phrase"}
    write_json(
        folder / "VUE-TR_ground_truth.json",
        [
            {"query_id": 0, "query": "a dog", "gt": [[0, 8], [16, 24]], "query_modality": "vision", **base, **kinds},
            {"query_id": 1, "query": "a bark", "gt": [[0, 32]], "query_modality": "audio", **base, **kinds},
        ],
    )


def longvideo_reason(folder: Path) -> None:
    write_lines(
        folder / "test.jsonl",
        [
            {"videos": "ab.cd.mp4", "problem": "Why?\nA. fear\nB. joy\nC. A. Smith\nD. none", "answer": "B"},
            {"videos": "ab.cd.mp4", "problem": "Who? (A) one (B) two", "answer": "<answer>A</answer>"},
        ],
    )


def mme_rows() -> list[dict[str, Any]]:
    base = {"domain": "Life", "sub_category": "Food", "task_type": "Counting", "question": " How many? "}
    options = ["A. One.", "B. Two.", "C. Three.", "D. Four."]
    return [
        {"videoID": f"vid{i}", "question_id": f"00{i}-1", "duration": bucket, "options": options, "answer": "C", **base}
        for i, bucket in enumerate(("short", "medium", "long"))
    ]


def video_mme(folder: Path) -> None:
    write_lines(folder / "test.jsonl", mme_rows())


WRITERS: dict[str, Callable[[Path], None]] = {
    "activitynet_mr": moments("val_2.json", "v_abc"),
    "charades_sta": moments("charades_test.json", "ABCDE"),
    "longvideo_reason": longvideo_reason,
    "mmvu": mmvu,
    "next_gqa": next_gqa,
    "rextime": rextime,
    "vidchapters": vidchapters,
    "video_mme": video_mme,
    "videommmu": videommmu,
    "vsi_bench": vsi_bench,
    "vue_tr": vue_tr,
}
