"""Ready-made protocols: the paper's settings for each benchmark, and a small one for vital-nano.

Numbers: the release's stage scripts and inference scripts (2 fps; 384 x 384 or 224 x 224 pixels; 64-frame clips at
224 x 224; 1,024 new tokens a turn; temperature 0.01 with top_p 0.001, which is greedy decoding; repetition penalty
1.05; two tool turns). Where the release passes no frame cap, the cap is that of its frame folders (14,400).
"""

from __future__ import annotations

import dataclasses

from vital_eval.errors import UnknownNameError
from vital_eval.prompts import (
    COT_TEXTS,
    DIRECT_TEXTS,
    NANO_COT_TEXTS,
    NANO_DIRECT_TEXTS,
    NANO_TOOL_TEXTS,
    TOOL_TEXTS,
    PromptTexts,
)
from vital_eval.protocol import Mode, Protocol, Sampling, View
from vital_eval.registry import suggest

PRESETS = ("vital", "nano")

_MIN_PIXELS = 4 * 28 * 28
_CLIP_VIEW = View(fps=2.0, max_frames=64, min_pixels=_MIN_PIXELS, max_pixels=224 * 224, clock=True)

#: (max_frames, max_pixels) per benchmark, from the release's evaluation scripts.
_VITAL_VIEWS = {
    "charades_sta": (14_400, 384 * 384),
    "activitynet_mr": (14_400, 384 * 384),
    "next_gqa": (14_400, 384 * 384),
    "rextime": (14_400, 384 * 384),
    "mmvu": (256, 384 * 384),
    "videommmu": (256, 384 * 384),
    "vsi_bench": (256, 384 * 384),
    "vidchapters": (1_024, 224 * 224),
    "vue_tr": (1_024, 224 * 224),
    "longvideo_reason": (1_024, 224 * 224),
    "video_mme": (1_024, 224 * 224),
}
#: For tasks that the paper does not name: its long-video setting.
_DEFAULT_VITAL_VIEW = (1_024, 224 * 224)

#: A blind run is asked word for word as a direct one; see ``docs/decisions/0005-blind.md``.
_TEXTS = {Mode.BLIND: DIRECT_TEXTS, Mode.DIRECT: DIRECT_TEXTS, Mode.COT: COT_TEXTS, Mode.TOOL: TOOL_TEXTS}
_NANO_TEXTS = {
    Mode.BLIND: NANO_DIRECT_TEXTS,
    Mode.DIRECT: NANO_DIRECT_TEXTS,
    Mode.COT: NANO_COT_TEXTS,
    Mode.TOOL: NANO_TOOL_TEXTS,
}

#: 24 frames a view = 12 frame pairs of one visual token each.
NANO_VIEW = View(fps=2.0, max_frames=24, min_pixels=32 * 32, max_pixels=32 * 32, clock=False)


def preset(name: str, mode: Mode, task: str) -> Protocol:
    """Return the protocol of a preset for one mode and task.

    Args:
        name: ``vital`` (the paper's settings) or ``nano``.
        mode: how the model is asked; all modes share frames, pixels and decoding, and blind shows no frames.
        task: registry name; only the frame settings of ``vital`` depend on it.

    Raises:
        UnknownNameError: if there is no such preset.
    """
    if name == "vital":
        max_frames, max_pixels = _VITAL_VIEWS.get(task, _DEFAULT_VITAL_VIEW)
        view = View(fps=2.0, max_frames=max_frames, min_pixels=_MIN_PIXELS, max_pixels=max_pixels, clock=True)
        return _protocol(name, mode, _TEXTS[mode], view, _CLIP_VIEW, Sampling(repetition_penalty=1.05), 2)
    if name == "nano":
        return _protocol(name, mode, _NANO_TEXTS[mode], NANO_VIEW, NANO_VIEW, Sampling(max_new_tokens=112), 1)
    raise UnknownNameError(f"unknown preset {name!r}", suggest(name, PRESETS))


def _protocol(
    name: str, mode: Mode, texts: PromptTexts, view: View, clip_view: View, sampling: Sampling, calls: int
) -> Protocol:
    plain = Protocol(
        name=f"{name}-{mode}", mode=Mode.COT, prompt=texts, view=view, clip_view=clip_view, sampling=sampling
    )
    if mode is not Mode.TOOL:
        return dataclasses.replace(plain, mode=mode)
    return dataclasses.replace(
        plain, mode=mode, tools=("get_video_clip_frame",), max_tool_calls=calls, max_turns=calls + 1
    )
