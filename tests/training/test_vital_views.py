"""VITAL's training views have one home: rollouts, recipes and evaluation agree where they must."""

from __future__ import annotations

import dataclasses

import pytest

from vital_eval.presets import preset
from vital_eval.protocol import Mode, Sampling
from vital_eval.training.data_run import rollout_protocol
from vital_eval.training.recipes import recipe
from vital_eval.training.vital_views import RL_FRAMES, SFT_FRAMES, training_protocol


@pytest.mark.parametrize("name", ["vital-7b", "vital-3b"])
def test_the_stages_are_asked_by_the_training_protocol(name: str) -> None:
    for stage, frames in zip(recipe(name).stages, (SFT_FRAMES, RL_FRAMES, SFT_FRAMES, RL_FRAMES), strict=True):
        asked = stage.train.protocol
        assert asked == training_protocol(stage.mode, frames, asked.sampling)
        assert asked.sampling.repetition_penalty == 1.0


@pytest.mark.parametrize("mode", [Mode.COT, Mode.TOOL])
def test_rollouts_show_what_reinforcement_shows(mode: Mode) -> None:
    rolled = rollout_protocol("vital", mode, 1.0)
    asked = training_protocol(mode, RL_FRAMES, Sampling(temperature=1.0))
    assert rolled == dataclasses.replace(asked, name=f"vital-{mode}-rollouts")
    # The control: evaluation shows more of the video, and the same of a clip.
    evaluated = preset("vital", mode, "charades_sta")
    assert evaluated.view != asked.view
    assert evaluated.clip_view == asked.clip_view
    assert (asked.view.max_frames, asked.view.max_pixels, asked.view.clock) == (64, 224 * 224, True)
