"""Round trips, specification differences and refusals of manifests."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from vital_eval.engine import EngineInfo, FrameGeometry
from vital_eval.errors import RunLogError
from vital_eval.manifest import (
    SCHEMA_VERSION,
    Entry,
    Manifest,
    differing,
    manifest_from_json,
    manifest_to_json,
    read_manifest,
    write_manifest,
)
from vital_eval.presets import preset
from vital_eval.protocol import Mode

_SAMPLES = (("v1-0", "v1"), ("v1-1", "v1"), ("v2-0", "v2"))


def _entry(mode: Mode = Mode.COT, **changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "task": "moments",
        "scorer_version": 1,
        "primary": "mIoU",
        "metrics": {"mIoU": "iou", "R@0.5": "r05"},
        "protocol": preset("nano", mode, "moments"),
        "data_hash": "d1",
        "samples": _SAMPLES,
    }
    return Entry(**{**fields, **changes})


def _manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "label": "nano",
        "engine": EngineInfo("hf", "nano-1", "f1", FrameGeometry(32, 2), {"torch": "2.8", "dtype": "float32"}),
        "entries": tuple(_entry(mode) for mode in Mode),
        "created": "2026-01-02T03:04:05+00:00",
        "vital_eval": "0.1.0",
        "packages": {"numpy": "2"},
        "git_commit": "abc",
    }
    return Manifest(**{**fields, **changes})


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    manifest = _manifest(limit=3, shard="1/2", attempts=2)
    write_manifest(tmp_path, manifest)
    again = read_manifest(tmp_path)
    assert again == manifest
    assert list(again.entries[0].metrics) == ["mIoU", "R@0.5"]
    assert differing(again, manifest) == ()


def test_samples_are_stored_once_per_task() -> None:
    assert json.dumps(manifest_to_json(_manifest())).count("v1-1") == 1


def test_circumstances_are_no_specification() -> None:
    other = _manifest(created="later", packages={}, git_commit="def")
    assert differing(_manifest(), other) == ()


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"label": "x"}, ("label",)),
        ({"limit": 5, "shard": "0/2"}, ("limit", "shard")),
        ({"attempts": 4, "vital_eval": "9"}, ("attempts", "vital_eval")),
        (
            {"engine": EngineInfo("hf", "nano-1", "f2", FrameGeometry(28, 2), {"torch": "2.9", "flag": "1"})},
            (
                "engine.details.dtype",
                "engine.details.flag",
                "engine.details.torch",
                "engine.fingerprint",
                "engine.geometry",
            ),
        ),
        ({"entries": (_entry(Mode.BLIND), _entry(Mode.DIRECT), _entry(Mode.COT))}, ("entries.moments.tool",)),
        (
            {"entries": tuple(_entry(mode, data_hash="d2", scorer_version=2) for mode in Mode)},
            tuple(
                f"entries.moments.{mode}.{name}" for mode in sorted(Mode) for name in ("data_hash", "scorer_version")
            ),
        ),
        (
            {"entries": tuple(_entry(mode, metrics={"mIoU": "iou"}, samples=_SAMPLES[:1]) for mode in Mode)},
            tuple(f"entries.moments.{mode}.{name}" for mode in sorted(Mode) for name in ("metrics", "samples")),
        ),
    ],
)
def test_differing_names_the_fields(changes: dict[str, Any], fields: tuple[str, ...]) -> None:
    assert differing(_manifest(), _manifest(**changes)) == fields
    assert differing(_manifest(**changes), _manifest()) == fields


def test_differing_looks_into_protocols() -> None:
    plain = preset("nano", Mode.COT, "moments")
    hot = dataclasses.replace(plain, sampling=dataclasses.replace(plain.sampling, temperature=0.7))
    renamed = dataclasses.replace(plain, name="other")
    before = _manifest(entries=(_entry(),))
    assert differing(before, _manifest(entries=(_entry(protocol=hot),))) == (
        "entries.moments.cot.protocol.sampling.temperature",
    )
    assert differing(before, _manifest(entries=(_entry(protocol=renamed),))) == ()


def test_contradictions_are_refused() -> None:
    with pytest.raises(RunLogError, match="headline metric 'x'"):
        _entry(primary="x")
    with pytest.raises(RunLogError, match="'v1-0' occurs twice"):
        _entry(samples=(*_SAMPLES, _SAMPLES[0]))
    with pytest.raises(RunLogError, match="listed twice"):
        _manifest(entries=(_entry(), _entry()))
    with pytest.raises(RunLogError, match="different samples"):
        _manifest(entries=(_entry(), _entry(Mode.TOOL, samples=_SAMPLES[:2])))
    with pytest.raises(RunLogError, match="0 attempts"):
        _manifest(attempts=0)


def test_unreadable_manifests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunLogError, match="no run in"):
        read_manifest(tmp_path)
    path = tmp_path / "manifest.json"
    for text in ("{", "[]", "{}", f'{{"schema_version": {SCHEMA_VERSION}}}'):
        path.write_text(text)
        with pytest.raises(RunLogError, match=r"cannot read|not a manifest"):
            read_manifest(tmp_path)
    data = manifest_to_json(_manifest())
    path.write_text(json.dumps({**data, "schema_version": 99}))
    with pytest.raises(RunLogError, match="schema 99"):
        read_manifest(tmp_path)


def test_an_edited_protocol_is_noticed() -> None:
    data = manifest_to_json(_manifest())
    data["entries"][0]["protocol"]["max_seconds"] = 1.0
    with pytest.raises(RunLogError, match="was edited"):
        manifest_from_json(data)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(tmp_path, _manifest())
    before = (tmp_path / "manifest.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_manifest(tmp_path, _manifest(label="other"))
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert (tmp_path / "manifest.json").read_bytes() == before
