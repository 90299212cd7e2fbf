"""An untrained vital-nano: Qwen3-VL architecture, own small tokenizer, a few megabytes.

Numbers of one to three digits are single tokens, and so is the fixed text of a tool call: every token that a tiny
model need not spell is one less thing to learn.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from vital_eval.nano.world import COLOURS, SHAPES, SIDES
from vital_eval.prompts import NANO_COT_TEXTS, NANO_DIRECT_TEXTS, NANO_TOOL_TEXTS, render_system
from vital_eval.toolbox import GetVideoClipFrame

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>")
#: The fixed parts of a tool call and the tool's schema, one token each.
FIXED_TEXTS = (
    json.dumps(GetVideoClipFrame().schema()),
    '{"name": "get_video_clip_frame", "arguments": {"start_time": ',
    ', "end_time": ',
    "}}",
)

CHAT_TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on every word of the nano world; any other text falls back to bytes."""
    words = [*COLOURS, *SHAPES, *SIDES, "ABCDEFGHIJ"]
    corpus = [
        *(f" {word}\n{word}, {word}" for word in words),
        *(render_system(texts, ("",)) for texts in (NANO_DIRECT_TEXTS, NANO_COT_TEXTS, NANO_TOOL_TEXTS)),
        *(text for text in dataclasses.asdict(NANO_TOOL_TEXTS).values()),
        "system\n user\n assistant\n tool\n <12.4 seconds> 12 s. letter, span\nWhen: red circle, "
        "seen from to at nothing green",
        "Which shape is red? Which colour is seen from 3 to 9? Which colour is seen first? How many shapes are seen?",
        "Which colour is in the last frame? Describe. List. On which side is red? How large is red? "
        "last first side size count A red yes, B red no",
    ] * 4
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d{1,3}| ?\p{L}+| ?[^\s\p{L}\d]+|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    plain = [*_TAGS, *FIXED_TEXTS, *(str(number) for number in range(1000))]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106 - not a password
        pad_token="<|endoftext|>",  # noqa: S106
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    """Build the model with random weights (seed torch before)."""
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    _prepare_for_copying(model, tokenizer)
    return model


@torch.no_grad()
def _prepare_for_copying(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Start from weights that match and copy.

    Copying times is what a tiny model learns last. Three changes of the random start shorten it (the first two after
    Trockman and Kolter, 2023, "Mimetic initialization"): attention outputs undo their value projections, so that what
    is attended to is what comes out; half the heads ask for what they themselves offer, so that like attends to like;
    numbers share components with numbers of equal digits, so that copying one number helps to copy its neighbours.
    """
    text = model.model.language_model
    table = text.embed_tokens.weight
    width = table.shape[1]
    table.normal_(0, 0.1)
    digits = torch.randn(3, 10, width) * 0.045
    for number in range(1000):
        places = digits[0, number // 100] + digits[1, number // 10 % 10] + digits[2, number % 10]
        table[tokenizer.convert_tokens_to_ids(str(number))] = places + torch.randn(width) * 0.03
    for layer in text.layers:
        attention = layer.self_attn
        values = torch.linalg.qr(torch.randn(width, attention.v_proj.out_features)).Q.T * 0.7
        attention.v_proj.weight.copy_(values)
        size = attention.head_dim
        outputs = torch.randn(width, attention.o_proj.in_features) * 0.01
        for head in range(attention.o_proj.in_features // size):
            group = head // attention.num_key_value_groups
            outputs[:, head * size : (head + 1) * size] += 0.5 * values[group * size : (group + 1) * size].T
        attention.o_proj.weight.copy_(outputs)
        # The heads of the first group look for tokens like their own.
        shared = attention.num_key_value_groups
        keys = attention.k_proj.weight[:size]
        attention.q_proj.weight[: shared * size].copy_(keys.repeat(shared, 1))


def save_checkpoint(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a checkpoint folder that the hf engine (and any Qwen3-VL loader) reads."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    processor = {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "processor_class": "Qwen3VLProcessor",
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_resize": False,
        "do_sample_frames": False,
        "size": {"shortest_edge": 1024, "longest_edge": 1024 * 64},
    }
    (folder / "video_preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
