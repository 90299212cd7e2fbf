"""Tiny random checkpoints of both families, built in a second, and conversations to feed them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Conversation, Message, TextPart, VideoPart
from vital_eval.engine import GenerationRequest
from vital_eval.generation import FinishReason, Generation
from vital_eval.protocol import Sampling
from vital_eval.span import Span
from vital_eval.training.nano_model import build_tokenizer

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def write_checkpoint(folder: Path, model_type: str, seed: int = 0) -> Path:
    """Write a random checkpoint whose logits depend strongly on positions (attention weights times 8)."""
    tokenizer = build_tokenizer()
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    marks = {
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    if model_type == "qwen3_vl":
        text["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        }
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        }
        config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **marks)
        model = transformers.Qwen3VLForConditionalGeneration(config)
        mean, std = [0.5] * 3, [0.5] * 3
    else:
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]}
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        }
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks)
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
        mean, std = CLIP_MEAN, CLIP_STD
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "language_model" in name and ("q_proj" in name or "k_proj" in name) and name.endswith("weight"):
                parameter.mul_(8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    return folder


def make_clip(start: float, end: float, frames: int, factor: int, seed: int, rows: int = 1, columns: int = 2) -> Clip:
    """Make a clip of random frames at evenly spaced times."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, size=(frames, rows * factor, columns * factor, 3), dtype=np.uint8)
    times = tuple(float(time) for time in np.linspace(start, end, frames)) if frames > 1 else (start,)
    return Clip(pixels, times, Span(start, end + 1e-6))


def opening(clip: Clip | None, question: str = "Which colour is seen first?") -> Conversation:
    """Make a first user message."""
    parts = (VideoPart(clip), TextPart(question)) if clip else (TextPart(question),)
    return (Message("system", (TextPart("answer"),)), Message("user", parts))


def request(
    conversation: Conversation, episode: str = "e", tokens: int = 12, *, expect_more: bool = True
) -> GenerationRequest:
    """Make a greedy request."""
    return GenerationRequest(conversation, Sampling(max_new_tokens=tokens), ("</answer>",), 0, episode, expect_more)


def turn(ids: tuple[int, ...]) -> AssistantTurn:
    """Make an assistant turn out of ids."""
    return AssistantTurn(Generation(ids, "", FinishReason.LENGTH, 0))
