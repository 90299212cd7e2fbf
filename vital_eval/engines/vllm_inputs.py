"""Clips and decoding settings in the form that vLLM takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vital_eval.clip import Clip
from vital_eval.engines.batch_decode import Vocabulary
from vital_eval.engines.checkpoint import Checkpoint
from vital_eval.engines.pixels import seconds_per_patch
from vital_eval.errors import EngineError
from vital_eval.protocol import Sampling

#: vLLM replaces temperatures between 0 and this by this.
LOWEST_TEMPERATURE = 0.01

#: Frames (uint8, THWC) and what vLLM's processors want to know of them.
VideoInput = tuple[NDArray[np.uint8], dict[str, Any]]


def video_input(clip: Clip, checkpoint: Checkpoint) -> VideoInput:
    """Return a clip with metadata from which the family's processor derives the times and rates that are true.

    An odd tail is filled up by repeating the last frame, as in :func:`~vital_eval.engines.pixels.patchify`.
    """
    temporal = checkpoint.pixels.temporal
    frames, times = clip.frames, list(clip.timestamps)
    missing = -clip.count % temporal
    if missing:
        frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
        times += [times[-1]] * missing
    indices: list[float] = [float(index) for index in range(len(times))]
    if checkpoint.model_type == "qwen3_vl":
        # Times are read as index / fps and may be any number: at one frame a second the index is the time.
        rate, indices = 1.0, times
    else:
        # Seconds per patch are read as temporal / fps and kept as float32.
        rate = temporal / float(np.float32(seconds_per_patch(clip, temporal)))
    metadata = {
        "fps": rate,
        "total_num_frames": len(times),
        "frames_indices": indices,
        "duration": len(times) / rate,
        "video_backend": "vital-eval",
        "do_sample_frames": False,
    }
    return frames, metadata


def sampling_params(
    sampling: Sampling, vocabulary: Vocabulary, banned: Sequence[str], stop: Sequence[str], seed: int, room: int
) -> Any:
    """Return decoding settings with every choice made, so that no default of vLLM or the checkpoint enters.

    Args:
        sampling: the protocol's.
        vocabulary: ids that end a turn.
        banned: tokens that are never sampled; each is one id of its own.
        stop: strings that end a turn.
        seed: of this turn's own random numbers.
        room: tokens that the context leaves.

    Returns:
        A ``vllm.SamplingParams``.

    Raises:
        EngineError: if vLLM refuses a setting, or would replace the temperature by another one.
    """
    from vllm import SamplingParams
    from vllm.exceptions import VLLMError
    from vllm.sampling_params import RequestOutputKind

    if 0 < sampling.temperature < LOWEST_TEMPERATURE:
        raise EngineError(
            f"vLLM does not sample at temperature {sampling.temperature:g}, but at {LOWEST_TEMPERATURE:g}",
            f"use 0 (greedy) or at least {LOWEST_TEMPERATURE:g} in the protocol",
        )
    try:
        return SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            repetition_penalty=sampling.repetition_penalty,
            seed=seed if sampling.temperature > 0 else None,
            max_tokens=min(sampling.max_new_tokens, room),
            stop=list(stop),
            include_stop_str_in_output=True,
            stop_token_ids=sorted(vocabulary.end_ids),
            bad_words=list(banned),
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
    except (VLLMError, ValueError) as error:
        raise EngineError(f"vLLM refuses the decoding settings: {error}", "change the protocol's sampling") from error
