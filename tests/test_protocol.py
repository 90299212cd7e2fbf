"""Protocols: contradictions are refused, hashes are stable, files round-trip."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from vital_eval.errors import ProtocolError, UnknownNameError
from vital_eval.presets import PRESETS, preset
from vital_eval.protocol import Mode, Protocol, Sampling, View, differing_fields, protocol_from_json

TOOL = preset("vital", Mode.TOOL, "charades_sta")


#: Hashes name the protocols of finished runs, so no change of the code may move them.
HASHES = {
    ("vital", "direct", "charades_sta"): "d76e9b9fb9e7",
    ("vital", "cot", "charades_sta"): "4051306fcc0e",
    ("vital", "tool", "charades_sta"): "b510ec880afb",
    ("vital", "direct", "mmvu"): "0f7032e7beef",
    ("vital", "cot", "mmvu"): "4bbc6fee686f",
    ("vital", "tool", "mmvu"): "128d37c72d5b",
    ("nano", "direct", "charades_sta"): "8e688902f56d",
    ("nano", "cot", "charades_sta"): "34e0c7b1f674",
    ("nano", "tool", "charades_sta"): "38d3d80aba06",
}


def through_json(protocol: Protocol) -> Protocol:
    return protocol_from_json(json.loads(json.dumps(protocol.to_json())))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("mode", Mode)
def test_presets_round_trip_with_their_hash(name: str, mode: Mode) -> None:
    protocol = preset(name, mode, "mmvu")
    again = through_json(protocol)
    assert again == protocol
    assert again.hash == protocol.hash
    assert len(protocol.hash) == 12


@pytest.mark.parametrize(("name", "mode", "task"), HASHES)
def test_known_protocols_keep_their_hashes(name: str, mode: str, task: str) -> None:
    assert preset(name, Mode(mode), task).hash == HASHES[name, mode, task]


@pytest.mark.parametrize("name", PRESETS)
def test_blind_differs_from_direct_in_nothing_that_is_said(name: str) -> None:
    blind, direct = (preset(name, mode, "mmvu") for mode in (Mode.BLIND, Mode.DIRECT))
    assert differing_fields(blind, direct) == ("mode",)
    assert blind.hash != direct.hash
    # So the direct texts must not speak of what only a direct run shows.
    words = f"{blind.prompt.system} {blind.prompt.user}".lower()
    assert not [word for word in ("frame", "shown", "watch", "see ", "look") if word in words]


def test_blind_shows_nothing_else_either() -> None:
    blind = preset("vital", Mode.BLIND, "mmvu")
    with pytest.raises(ProtocolError, match="subtitles"):
        dataclasses.replace(blind, subtitles=True)
    with pytest.raises(ProtocolError, match="blind with tools"):
        dataclasses.replace(blind, tools=TOOL.tools, max_tool_calls=1, max_turns=2)
    assert next(iter(Mode)) is Mode.BLIND


def test_the_label_is_not_part_of_the_hash_everything_else_is() -> None:
    assert dataclasses.replace(TOOL, name="other").hash == TOOL.hash
    changed: list[Protocol] = [
        dataclasses.replace(TOOL, prompt=dataclasses.replace(TOOL.prompt, tool_error="x")),
        dataclasses.replace(TOOL, view=dataclasses.replace(TOOL.view, clock=False)),
        dataclasses.replace(TOOL, clip_view=dataclasses.replace(TOOL.clip_view, fps=3.0)),
        dataclasses.replace(TOOL, decoder="decord"),
        dataclasses.replace(TOOL, max_tool_calls=1),
        dataclasses.replace(TOOL, max_turns=4),
        dataclasses.replace(TOOL, overrun_seconds=1.0),
        dataclasses.replace(TOOL, min_clip_seconds=1.0),
        dataclasses.replace(TOOL, max_seconds=5.0),
        dataclasses.replace(TOOL, subtitles=True),
        dataclasses.replace(TOOL, sampling=dataclasses.replace(TOOL.sampling, seed=1)),
    ]
    hashes = {protocol.hash for protocol in changed}
    assert len(hashes) == len(changed)
    assert TOOL.hash not in hashes


def test_two_and_two_point_zero_are_one_recipe() -> None:
    whole = dataclasses.replace(TOOL, view=View(2, 10, 784, 1000, False), max_seconds=600)
    broken = dataclasses.replace(TOOL, view=View(2.0, 10, 784, 1000, False), max_seconds=600.0)
    assert whole.hash == broken.hash == through_json(whole).hash


def test_modes_of_a_preset_differ_only_in_what_the_comparison_is_about() -> None:
    cot = preset("vital", Mode.COT, "charades_sta")
    fields = {field.partition(".")[0] for field in differing_fields(cot, TOOL)}
    assert fields == {"mode", "prompt", "tools", "max_tool_calls", "max_turns"}
    assert differing_fields(TOOL, dataclasses.replace(TOOL, name="x")) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"tools": ()},
        {"max_tool_calls": 0},
        {"max_turns": 1},
        {"max_turns": 0},
        {"mode": Mode.COT},
        {"max_seconds": 0.0},
        {"overrun_seconds": -1.0},
        {"min_clip_seconds": -1.0},
    ],
)
def test_contradictions_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        dataclasses.replace(TOOL, **change)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0, "top_p": 0.5},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"repetition_penalty": 0.9},
        {"max_new_tokens": 0},
    ],
)
def test_impossible_decoding_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        Sampling(**settings)


@pytest.mark.parametrize(
    "view", [(0.0, 8, 1, 9), (2.0, 0, 1, 9), (2.0, 8, 10, 9), (2.0, 8, 0, 9), (float("nan"), 8, 1, 9)]
)
def test_impossible_views_are_refused(view: tuple[float, int, int, int]) -> None:
    with pytest.raises(ProtocolError):
        View(*view, clock=True)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("max_turn",), 3, "max_turn"),
        (("mode",), "tol", "tol"),
        (("view", "max_frames"), 2.5, "max_frames"),
        (("view", "fps"), "2", "fps"),
        (("view", "clock"), 1, "clock"),
        (("view", "extra"), 1, "extra"),
        (("subtitles",), "no", "subtitles"),
        (("tools",), "get_video_clip_frame", "tools"),
        (("max_turns",), True, "max_turns"),
        (("max_seconds",), float("inf"), "max_seconds"),
        (("sampling", "seed"), None, "seed"),
        (("prompt", "user"), 5, "user"),
        (("prompt",), None, "protocol"),
        (("view",), [], "protocol"),
    ],
)
def test_protocol_files_are_checked_field_by_field(path: tuple[str, ...], value: object, words: str) -> None:
    data = json.loads(json.dumps(TOOL.to_json()))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ProtocolError, match=words):
        protocol_from_json(data)


@pytest.mark.parametrize("field", ["mode", "prompt", "view", "clip_view", "name"])
def test_a_missing_field_is_named(field: str) -> None:
    data = TOOL.to_json()
    del data[field]
    with pytest.raises(ProtocolError, match=field):
        protocol_from_json(data)


def test_unknown_presets_suggest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean nano"):
        preset("nanoo", Mode.COT, "mmvu")


def test_vital_frames_follow_the_benchmark() -> None:
    assert preset("vital", Mode.COT, "mmvu").view.max_frames == 256
    assert preset("vital", Mode.COT, "video_mme").view.max_pixels == 224 * 224
    assert preset("vital", Mode.COT, "a-new-task").view == preset("vital", Mode.COT, "video_mme").view
