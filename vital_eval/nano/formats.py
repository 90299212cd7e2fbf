"""Write the nano test world as a data root: the 11 official annotation formats, with videos.

The layout is that of real data: one folder a task with the official files and a ``videos/`` folder.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vital_eval.nano.questions import Ask, NanoQuestion, ask_question
from vital_eval.nano.render import write_mp4
from vital_eval.nano.world import FPS, NanoVideo, VideoPlan, World, generator, make_video
from vital_eval.sample import option_letter

_SHORT = VideoPlan(24.0, 40.0)
_MEDIUM = VideoPlan(40.0, 90.0)
_LONG = VideoPlan(80.0, 120.0)

#: Grounding queries asked about one video. Few, so that a small world has many videos: they are what a test counts.
_QUERIES_PER_VIDEO = 2


@dataclass(frozen=True, slots=True)
class _Video:
    """A nano video on disk, the questions' source of chance, and its number within the task."""

    number: int
    name: str
    video: NanoVideo
    rng: np.random.Generator

    def ask(self, ask: Ask, options: int = 0) -> NanoQuestion:
        return ask_question(ask, self.video, self.rng, options)


def write_world(root: Path, seed: int, per_task: int, report: Callable[[str], None] | None = None) -> None:
    """Write the held-out world: 11 task folders below ``root``.

    Args:
        root: data root to write; existing video files are kept, so an interrupted call goes on; each seed needs a
            folder of its own.
        seed: seed of the test world (the train world never shares it).
        per_task: least number of questions a task gets; videos carry two to four each.
        report: called with a task's name when its folder is complete.
    """
    for number, (task, write) in enumerate(_WRITERS.items()):
        folder = root / task
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, seed * 100 + number, per_task)
        if report is not None:
            report(task)


#: Videos behind the annotations of a training split.
_TRAINING_VIDEOS = 60


def _training_videos(seed: int, plan: VideoPlan) -> Iterator[NanoVideo]:
    """Draw videos of the train world for annotations alone: nothing of a training split is ever shown or asked."""
    for number in range(_TRAINING_VIDEOS):
        yield make_video(plan, generator(World.TRAIN, seed, number))


def _videos(
    folder: Path, seed: int, count: int, plans: tuple[VideoPlan, ...], name: Callable[[int], str]
) -> Iterator[_Video]:
    for number in range(count):
        rng = generator(World.TEST, seed, number)
        video = make_video(plans[number % len(plans)], rng)
        file = folder / "videos" / f"{name(number)}.mp4"
        if not file.is_file():
            write_mp4(video, file)
        yield _Video(number, name(number), video, rng)


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _share(per_task: int, per_video: int) -> int:
    return -(-per_task // per_video)


def _moments(
    folder: Path, seed: int, per_task: int, plan: VideoPlan, files: tuple[str, str], name: Callable[[int], str]
) -> None:
    """Write the test file and, as the second of ``files``, the training file."""
    entries = {}
    for item in _videos(folder, seed, _share(per_task, _QUERIES_PER_VIDEO), (plan,), name):
        places = item.rng.permutation(len(item.video.events))[:_QUERIES_PER_VIDEO]
        events = [item.video.events[index] for index in places]
        entries[item.name] = {
            "duration": item.video.duration,
            "timestamps": [list(event.window) for event in events],
            "sentences": [event.name for event in events],
        }
    _write_json(folder / files[0], entries)
    training = {
        f"train{number}": {
            "duration": video.duration,
            "timestamps": [list(event.window) for event in video.events],
            "sentences": [event.name for event in video.events],
        }
        for number, video in enumerate(_training_videos(seed, plan))
    }
    _write_json(folder / files[1], training)


def _charades_sta(folder: Path, seed: int, per_task: int) -> None:
    _moments(
        folder, seed, per_task, _SHORT, ("charades_test.json", "charades_train.json"), lambda number: f"NANO{number}"
    )


def _activitynet_mr(folder: Path, seed: int, per_task: int) -> None:
    _moments(folder, seed, per_task, _MEDIUM, ("val_2.json", "train.json"), lambda number: f"v_nano{number:07d}")


def _vidchapters(folder: Path, seed: int, per_task: int) -> None:
    plan = VideoPlan(_LONG.shortest, _LONG.longest, tiled=True)
    rows: list[dict[str, Any]] = []
    videos = _share(per_task, _QUERIES_PER_VIDEO)
    for item in _videos(folder, seed, videos, (plan,), lambda number: f"nano{number:07d}"):
        rows += [
            {
                "qid": len(rows) + place,
                "query": event.name,
                "vid": f"{item.number}{item.name}",
                "duration": int(item.video.duration),
                "split": "test",
                "relevant_windows": [list(event.window)],
            }
            for place, event in enumerate(item.video.events[:_QUERIES_PER_VIDEO])
        ]
    _write_lines(folder / "chapters_vmr_test.json", rows)
    training = [
        {
            "qid": number,
            "query": [event.name for event in video.events],
            "vid": f"nano{number:07d}",
            "duration": int(video.duration),
            "split": "train",
            "relevant_windows": [list(event.window) for event in video.events],
        }
        for number, video in enumerate(_training_videos(seed, plan))
    ]
    _write_lines(folder / "chapters_vmr_train.json", training)


def _vue_tr(folder: Path, seed: int, per_task: int) -> None:
    plans = (VideoPlan(30.0, 59.0), VideoPlan(60.0, 120.0), VideoPlan(60.0, 120.0, repeated=True))
    rows: list[dict[str, Any]] = []
    videos = _share(per_task, _QUERIES_PER_VIDEO)
    for item in _videos(folder, seed, videos, plans, lambda number: f"nano{number:07d}"):
        queries = {event.name: item.video.windows_of(event.colour) for event in item.video.events}
        for query, windows in list(queries.items())[:_QUERIES_PER_VIDEO]:
            rows.append(
                {
                    "query_id": len(rows),
                    "video_id": item.name,
                    "duration": item.video.duration,
                    "query": query,
                    "gt": [list(window) for window in windows],
                    "task": "temporal_retrieval",
                    "duration_category": "ultra-short" if item.video.duration < 60 else "short",
                    "query_format": "phrase",
                    "query_modality": "vision",
                }
            )
    _write_json(folder / "VUE-TR_ground_truth.json", rows)


def _next_gqa(folder: Path, seed: int, per_task: int) -> None:
    rows, segments, paths = [], {}, {}
    for item in _videos(folder, seed, _share(per_task, 2), (_MEDIUM,), lambda number: f"nano/{1000 + number}"):
        video_id = item.name.removeprefix("nano/")
        paths[video_id] = item.name
        location = {}
        for qid, question in enumerate(_distinct(item, Ask.SHAPE_AND_MOMENT, 2, options=5)):
            frames = round(item.video.duration * FPS)
            rows.append([video_id, frames, 64, 64, question.text, question.word, qid, "CW", *question.options])
            location[str(qid)] = [list(window) for window in question.windows]
        segments[video_id] = {"duration": item.video.duration, "location": location, "fps": FPS}
    with (folder / "test.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        heading = ["video_id", "frame_count", "width", "height", "question", "answer", "qid", "type"]
        writer.writerow([*heading, *(f"a{index}" for index in range(5))])
        writer.writerows(rows)
    _write_json(folder / "gsub_test.json", segments)
    _write_json(folder / "map_vid_vidorID.json", paths)


def _rextime(folder: Path, seed: int, per_task: int) -> None:
    rows: list[dict[str, Any]] = []
    hub: list[dict[str, Any]] = []
    for item in _videos(folder, seed, _share(per_task, 2), (_MEDIUM,), lambda number: f"nano{number:02d}_210.0_360.0"):
        for question in _distinct(item, Ask.SHAPE_AND_MOMENT, 2, options=4):
            start, end = question.windows[0]
            common = {
                "qid": f"qvh_val{len(rows)}",
                "vid": item.name,
                "duration": item.video.duration,
                "ans": question.letter,
            }
            rows.append({**common, "query": question.text, "relevant_windows": [[start, end]]})
            hub.append(
                {
                    **common,
                    "question": question.text,
                    "options": list(question.options),
                    "answer": "From <s0> to <e0>, <option>.",
                    "span": [start, end],
                }
            )
    _write_lines(folder / "rextime_val.jsonl", rows)
    _write_lines(folder / "rextime_val_hub.jsonl", hub)


def _vsi_bench(folder: Path, seed: int, per_task: int) -> None:
    rows: list[dict[str, Any]] = []
    kinds = {
        "object_counting": (Ask.COUNT, 0),
        "object_size_estimation": (Ask.SIZE, 0),
        "object_rel_direction_easy": (Ask.SIDE, 2),
        "obj_appearance_order": (Ask.COLOUR_FIRST, 4),
    }
    for item in _videos(
        folder, seed, _share(per_task, 4), (_SHORT, _MEDIUM), lambda number: f"nano/scene{number:04d}_00"
    ):
        for kind, (ask, count) in kinds.items():
            question = item.ask(ask, count)
            numeric = question.number is not None
            rows.append(
                {
                    "id": len(rows),
                    "dataset": "nano",
                    "scene_name": item.name.removeprefix("nano/"),
                    "question_type": kind,
                    "question": question.text,
                    "options": None if numeric else _lettered(question),
                    "ground_truth": str(question.number) if numeric else question.letter,
                }
            )
    _write_lines(folder / "test.jsonl", rows)


def _mmvu(folder: Path, seed: int, per_task: int) -> None:
    rows: list[dict[str, Any]] = []
    plan = VideoPlan(_MEDIUM.shortest, _MEDIUM.longest, flash=True)
    for item in _videos(folder, seed, _share(per_task, 2), (plan,), lambda number: f"Nano/{number}"):
        for open_ended in (False, True):
            question = item.ask(Ask.COLOUR_BETWEEN, 0 if open_ended else 5)
            letters = {option_letter(i): question.options[i] if question.options else "" for i in range(5)}
            rows.append(
                {
                    "id": f"validation_{len(rows)}",
                    "video": f"https://example.org/MMVU/videos/{item.name}.mp4",
                    "youtube_url": "",
                    "question_type": "open-ended" if open_ended else "multiple-choice",
                    "metadata": {"subject": "Nano", "textbook": "", "knowledge": [], "rationale": ""},
                    "question": question.text,
                    "choices": letters,
                    "answer": question.word if open_ended else question.letter,
                }
            )
    _write_json(folder / "validation.json", rows)


def _videommmu(folder: Path, seed: int, per_task: int) -> None:
    tracks = {"Perception": Ask.COLOUR_FIRST, "Comprehension": Ask.COLOUR_BETWEEN, "Adaptation": Ask.COLOUR_AT_END}
    plan = VideoPlan(_MEDIUM.shortest, _MEDIUM.longest, ends_visible=True)
    written: dict[str, dict[str, Any]] = {track: {} for track in tracks}
    for item in _videos(folder, seed, _share(per_task, 3), (plan,), lambda number: f"Nano/dev_Nano_{number}"):
        for track, ask in tracks.items():
            question = item.ask(ask, 4)
            written[track][str(item.number)] = {
                "id": item.name.removeprefix("Nano/"),
                "link_selected": "",
                "question": question.text,
                "options": list(question.options),
                "answer": question.letter,
                **({"question_type": "multiple-choice"} if track == "Adaptation" else {}),
            }
    for track, questions in written.items():
        _write_json(folder / f"{track.lower()}_video.json", {track: questions})


def _longvideo_reason(folder: Path, seed: int, per_task: int) -> None:
    rows = []
    plan = VideoPlan(_LONG.shortest, _LONG.longest, flash=True)
    for item in _videos(folder, seed, _share(per_task, 2), (plan,), lambda number: f"nano{number:04d}"):
        for question in _distinct(item, Ask.COLOUR_BETWEEN, 2, options=4):
            problem = "\n".join([question.text, *_lettered(question)])
            rows.append(
                {
                    "videos": f"{item.name}.mp4",
                    "problem": problem,
                    "answer": question.letter,
                    "category": "Temporal",
                }
            )
    _write_lines(folder / "test.jsonl", rows)


def _video_mme(folder: Path, seed: int, per_task: int) -> None:
    rows = []
    plans = tuple(VideoPlan(plan.shortest, plan.longest, flash=True) for plan in (_SHORT, _MEDIUM, _LONG))
    buckets = ("short", "medium", "long")
    for item in _videos(folder, seed, _share(per_task, 3), plans, lambda number: f"nano{number:07d}"):
        questions = [*_distinct(item, Ask.COLOUR_BETWEEN, 2, options=4), item.ask(Ask.COLOUR_FIRST, 4)]
        rows += [
            {
                "videoID": item.name,
                "question_id": f"{item.number:03d}-{place + 1}",
                "duration": buckets[item.number % 3],
                "domain": "Nano",
                "sub_category": "Shapes",
                "task_type": "Temporal Perception",
                "question": question.text,
                "options": _lettered(question),
                "answer": question.letter,
            }
            for place, question in enumerate(questions)
        ]
    _write_lines(folder / "test.jsonl", rows)


def _distinct(item: _Video, ask: Ask, count: int, options: int) -> list[NanoQuestion]:
    """Draw questions about different events."""
    found: dict[str, NanoQuestion] = {}
    while len(found) < min(count, len(item.video.events)):
        question = item.ask(ask, options)
        found.setdefault(question.event.colour, question)
    return list(found.values())


def _lettered(question: NanoQuestion) -> list[str]:
    return [f"{option_letter(index)}. {text}" for index, text in enumerate(question.options)]


_WRITERS: dict[str, Callable[[Path, int, int], None]] = {
    "activitynet_mr": _activitynet_mr,
    "charades_sta": _charades_sta,
    "longvideo_reason": _longvideo_reason,
    "mmvu": _mmvu,
    "next_gqa": _next_gqa,
    "rextime": _rextime,
    "vidchapters": _vidchapters,
    "video_mme": _video_mme,
    "videommmu": _videommmu,
    "vsi_bench": _vsi_bench,
    "vue_tr": _vue_tr,
}

#: Tasks the world is written for.
TASKS = tuple(_WRITERS)
