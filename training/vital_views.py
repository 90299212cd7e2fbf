"""What VITAL's model sees while it is trained: frames of the video and of a clip.

Numbers: the stage scripts of VITAL's release. Evaluation shows more, benchmark by benchmark
(:mod:`vital_eval.presets`).
"""

from __future__ import annotations

import dataclasses

from vital_eval.presets import preset
from vital_eval.protocol import Mode, Protocol, Sampling, View

#: Frames of the whole video in the supervised stages.
SFT_FRAMES = 128
#: Frames of the whole video in the reinforcement stages.
RL_FRAMES = 64
#: Frames of a clip that a tool call shows, in all stages.
CLIP_FRAMES = 64


def training_view(frames: int) -> View:
    """Return two frames a second, at most so many, of at most 224 x 224 pixels, with the time drawn in."""
    return View(fps=2.0, max_frames=frames, min_pixels=4 * 28 * 28, max_pixels=224 * 224, clock=True)


def training_protocol(mode: Mode, frames: int, sampling: Sampling) -> Protocol:
    """Return how VITAL asks in training: the texts and tools of its evaluation, the views of its training.

    Args:
        mode: ``cot`` or ``tool``.
        frames: of the whole video, :data:`SFT_FRAMES` or :data:`RL_FRAMES`.
        sampling: without a repetition penalty. The release samples with one of 1.05, which its log-probabilities do
            not know.
    """
    return dataclasses.replace(
        preset("vital", mode, ""), view=training_view(frames), clip_view=training_view(CLIP_FRAMES), sampling=sampling
    )
