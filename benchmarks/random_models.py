"""Random Qwen2.5-VL checkpoints of several shapes, and clips to show them: what the engine benchmarks run on.

Nothing is downloaded. Speed does not depend on what weights say; texts and scores of these models mean nothing. The
tokenizer is vital-nano's own, and the vocabulary is filled up to the family's size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import transformers

from vital_eval.clip import Clip
from vital_eval.conversation import Conversation, Message, TextPart, VideoPart
from vital_eval.span import Span
from vital_eval.training.nano_model import build_tokenizer

_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
_TEXT = {"max_position_embeddings": 32_768, "rms_norm_eps": 1e-6}


def _rope(sections: list[int], base: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": base, "mrope_section": sections}


#: Text and vision settings by name; those of 3b and 7b are the published ones, but for the context's length.
SHAPES: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = MappingProxyType(
    {
        "tiny": (
            {
                **_TEXT,
                "hidden_size": 128,
                "intermediate_size": 256,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 32,
                "tie_word_embeddings": True,
                "rope_parameters": _rope([4, 6, 6], 1e4),
            },
            {
                **_TOWER,
                "depth": 2,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_heads": 2,
                "out_hidden_size": 128,
                "fullatt_block_indexes": [1],
            },
        ),
        "3b": (
            {
                **_TEXT,
                "vocab_size": 151_936,
                "hidden_size": 2048,
                "intermediate_size": 11_008,
                "num_hidden_layers": 36,
                "num_attention_heads": 16,
                "num_key_value_heads": 2,
                "tie_word_embeddings": True,
                "rope_parameters": _rope([16, 24, 24], 1e6),
            },
            {**_TOWER, "out_hidden_size": 2048},
        ),
        "7b": (
            {
                **_TEXT,
                "vocab_size": 152_064,
                "hidden_size": 3584,
                "intermediate_size": 18_944,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "tie_word_embeddings": False,
                "rope_parameters": _rope([16, 24, 24], 1e6),
            },
            {**_TOWER, "out_hidden_size": 3584},
        ),
    }
)


def write_random(folder: Path, shape: str, device: str, dtype: torch.dtype) -> Path:
    """Write a random checkpoint.

    Args:
        folder: new; 3b takes 8 GB in bfloat16, 7b 17 GB.
        shape: one of :data:`SHAPES`.
        device: where weights are drawn; a CPU needs minutes for the large ones.
        dtype: of the weights.

    Returns:
        The folder.
    """
    tokenizer = build_tokenizer()
    text, vision = SHAPES[shape]
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = transformers.Qwen2_5_VLConfig(
        text_config={"vocab_size": len(tokenizer), **text, **ends},
        vision_config=vision,
        tie_word_embeddings=text["tie_word_embeddings"],
        **ids,
    )
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    means = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    (folder / "preprocessor_config.json").write_text(json.dumps(means), encoding="utf-8")
    return folder


def noise(frames: int, start: float, end: float, side: int, seed: int) -> Clip:
    """Return a clip of random pixels at even times; ``side`` is a multiple of 28."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(frames, side, side, 3), dtype=np.uint8)
    return Clip(pixels, tuple(float(time) for time in np.linspace(start, end, frames)), Span(start, end + 1e-6))


def question(clip: Clip) -> Conversation:
    """Return the first message of an episode."""
    return (Message("user", (VideoPart(clip), TextPart("When is the red circle seen?"))),)


def tool_reply(clip: Clip) -> Message:
    """Return what the tool answers."""
    span = f"{clip.span.start:.2f} to {clip.span.end:.2f}"
    return Message("tool", (VideoPart(clip), TextPart(f"The clip from {span}.")))
