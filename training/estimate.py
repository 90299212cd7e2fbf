"""What a stage will need, before it is started: memory and GPU-hours, from arithmetic that is written down here.

These are estimates for planning; nothing here was measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from vital_eval.protocol import Mode

from .dgrpo import DgrpoStage
from .recipes import StageRecipe

#: Bytes a trained parameter: weight, gradient and two moments (AdamW), all in float32.
TRAINED_BYTES = 4 + 4 + 4 + 4
#: Bytes of a frozen copy in bfloat16 (the reference of the KL term).
FROZEN_BYTES = 2
#: Floating-point operations a parameter and token: forward 2, backward 4, and the forward once more where activations
#: are recomputed.
FORWARD, BACKWARD = 2.0, 4.0
#: Share of a GPU's peak that training reaches, and that sampling reaches (it is bound by memory, not by arithmetic).
TRAINING_SHARE, SAMPLING_SHARE = 0.35, 0.05
#: Dense bfloat16 peak of an H100, operations a second (vendor's figure).
PEAK = 989e12

#: Pixels behind one visual token (28 x 28), and frames merged in time.
_PIXELS_PER_TOKEN, _FRAMES_PER_TOKEN = 28 * 28, 2
_PROMPT_TOKENS, _SAID_TOKENS = 250, 300


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one stage needs.

    Attributes:
        tokens: tokens of one conversation, visual ones included.
        conversations: conversations trained on.
        weights_gib: weights, gradients, optimiser state and reference, over all GPUs together.
        gpu_hours: of H100s; training and, for DGRPO, sampling.
    """

    tokens: int
    conversations: int
    weights_gib: float
    gpu_hours: float


def estimate_stage(stage: StageRecipe, records: int, parameters: float) -> Estimate:
    """Estimate a stage.

    Args:
        stage: see :class:`~.recipes.StageRecipe`.
        records: records it is trained on.
        parameters: of the model.
    """
    train = stage.train
    tokens = _tokens(stage)
    reinforced = isinstance(train, DgrpoStage)
    if isinstance(train, DgrpoStage):
        conversations = train.length(records) * train.prompts * train.group
    else:
        conversations = train.length(records) * train.batch
    passes = FORWARD + BACKWARD + FORWARD  # activations are recomputed
    operations = conversations * tokens * parameters * passes
    seconds = operations / (PEAK * TRAINING_SHARE)
    if reinforced:
        # The reference's forward pass, and the sampling of every said token behind a prompt that is read once.
        seconds += conversations * tokens * parameters * FORWARD / (PEAK * TRAINING_SHARE)
        seconds += conversations * _SAID_TOKENS * parameters * FORWARD / (PEAK * SAMPLING_SHARE)
    bytes_each = TRAINED_BYTES + (FROZEN_BYTES if reinforced else 0)
    return Estimate(tokens, conversations, parameters * bytes_each / 2**30, seconds / 3600)


def _tokens(stage: StageRecipe) -> int:
    protocol = stage.train.protocol
    views = [protocol.view] + ([protocol.clip_view] if protocol.mode is Mode.TOOL else [])
    visual = sum(view.max_frames / _FRAMES_PER_TOKEN * view.max_pixels / _PIXELS_PER_TOKEN for view in views)
    return int(visual) + _PROMPT_TOKENS + _SAID_TOKENS
