"""Recipes as data: stages in order, the estimate's arithmetic."""

from __future__ import annotations

import dataclasses
import math

import pytest

from vital_eval.errors import UnknownNameError
from vital_eval.protocol import Mode
from vital_eval.training.estimate import estimate_stage
from vital_eval.training.mtvr.records import Form
from vital_eval.training.recipes import RECIPES, recipe
from vital_eval.training.sft import SftStage


@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_comes_after_the_one_it_starts_from(name: str) -> None:
    found = recipe(name)
    seen = {""}
    for stage in found.stages:
        assert stage.init in seen
        assert stage.name not in seen
        assert stage.train.name == stage.name
        assert stage.train.protocol.mode is stage.mode
        seen.add(stage.name)
    main_line = found.chosen(None, ablations=False)
    assert [stage.name[0] for stage in main_line] == ["1", "2", "3", "4"]
    assert not any(stage.ablation for stage in main_line)


@pytest.mark.parametrize("name", RECIPES)
def test_only_supervised_stages_rehearse_and_only_written_solutions(name: str) -> None:
    for stage in recipe(name).stages:
        assert not stage.rehearsed or isinstance(stage.train, SftStage)
        for again in stage.rehearsed:
            assert again.form is Form.COT
            assert again.protocol.mode is not stage.mode
            assert again.every > 1
            # As evaluation asks in that mode.
            assert again.protocol.mode is Mode.BLIND or again.protocol.view == stage.train.protocol.view
    assert any(stage.rehearsed for stage in recipe(name).stages) == name.startswith("nano")


def test_unknown_names_are_told() -> None:
    with pytest.raises(UnknownNameError, match="did you mean nano"):
        recipe("nanno")
    with pytest.raises(UnknownNameError, match="no stage '5-more'"):
        recipe("nano").chosen("5-more", ablations=False)


def test_estimates_follow_their_arithmetic() -> None:
    sft, dgrpo, _, _ = recipe("vital-7b").stages
    one, double = estimate_stage(sft, 25_600, 8.3e9), estimate_stage(sft, 51_200, 8.3e9)
    assert one.conversations == 25_600
    assert double.gpu_hours == pytest.approx(2 * one.gpu_hours)
    assert one.weights_gib == pytest.approx(16 * 8.3e9 / 2**30)
    # 128 frames of 224 x 224: 64 pairs of 64 visual tokens, and the words.
    assert one.tokens == 64 * 64 + 550
    # Two passes over the weights more for the reference and the sampler's prompt, and the frozen copy.
    again = estimate_stage(dgrpo, 6_400, 8.3e9)
    assert again.conversations == 6_400 * 8
    assert again.weights_gib > one.weights_gib


def test_what_trains_nothing_is_refused() -> None:
    stages = {stage.name: stage for stage in recipe("nano").stages}
    rehearsal = stages["1-sft"].rehearsed[0]
    for every in (0, -5):
        with pytest.raises(ValueError, match="cannot rehearse"):
            dataclasses.replace(rehearsal, every=every)
    with pytest.raises(ValueError, match="cannot rehearse"):
        dataclasses.replace(rehearsal, form=Form.RL)
    with pytest.raises(ValueError, match="is not supervised"):
        dataclasses.replace(stages["2-dgrpo"], rehearsed=(rehearsal,))


@pytest.mark.parametrize(
    "change",
    [
        {"rate": -1.0},
        {"rate": math.nan},
        {"rate": math.inf},
        {"steps": -1},
        {"steps": 0, "epochs": 0},
        {"group": 1},
        {"prompts": 0},
        {"clip_norm": 0.0},
        {"clip_norm": math.nan},
        {"micro_batch": 0},
        {"warmup": -1},
    ],
)
def test_impossible_reinforced_stages_are_refused(change: dict[str, float]) -> None:
    (stage,) = (stage.train for stage in recipe("nano").stages if stage.name == "2-dgrpo")
    with pytest.raises(ValueError, match="impossible stage"):
        dataclasses.replace(stage, **change)


@pytest.mark.parametrize(
    "change", [{"rate": math.inf}, {"clip_norm": 0.0}, {"clip_norm": math.nan}, {"floor": math.nan}, {"floor": 2.0}]
)
def test_impossible_supervised_stages_are_refused(change: dict[str, float]) -> None:
    (stage,) = (stage.train for stage in recipe("nano").stages if stage.name == "1-sft")
    with pytest.raises(ValueError, match="impossible stage"):
        dataclasses.replace(stage, **change)
