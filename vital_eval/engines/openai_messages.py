"""A turn as the chat completions protocol says it: what is sent, and what is read of the reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Conversation, Message, TextPart
from vital_eval.engine import FrameGeometry, GenerationRequest
from vital_eval.engines.video_url import mp4_url, picture_texts, pictures_url
from vital_eval.generation import FinishReason, Generation

#: A picture's or clip's parts of a message.
Parts = list[dict[str, Any]]


class Transport(StrEnum):
    """How frames travel; it decides what a server can know of their times.

    ``mp4-rgb`` carries the sampling rate. ``video-jpeg`` carries none: servers take one frame a second. ``images`` are
    no video at all to the model: more tokens, and no time.
    """

    MP4_RGB = "mp4-rgb"
    VIDEO_JPEG = "video-jpeg"
    IMAGES = "images"


def clip_parts(clip: Clip, transport: Transport) -> Parts:
    """Return the parts of a message that show a clip; every transport keeps each pixel as it is."""
    if transport is Transport.IMAGES:
        urls = (f"data:image/png;base64,{text}" for text in picture_texts(clip))
        return [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    url = mp4_url(clip) if transport is Transport.MP4_RGB else pictures_url(clip)
    return [{"type": "video_url", "video_url": {"url": url}}]


def request_body(request: GenerationRequest, model: str, show: Callable[[Clip], Parts]) -> dict[str, Any]:
    """Return what is posted to ``/chat/completions``; nothing that can move a score is left to the server's defaults.

    Args:
        request: the turn to write.
        model: the model's name at the server.
        show: turns a clip into parts, see :func:`clip_parts`.
    """
    sampling = request.sampling
    return {
        "model": model,
        "messages": write_messages(request.conversation, show),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": request.seed,
        "stop": list(request.stop),
        "include_stop_str_in_output": True,
        "return_token_ids": True,
    }


def write_messages(conversation: Conversation, show: Callable[[Clip], Parts]) -> list[dict[str, Any]]:
    """Write a conversation; tools stand in its text, and a turn of the model's goes back as the text it was."""
    messages: list[dict[str, Any]] = []
    for index, entry in enumerate(conversation):
        if isinstance(entry, AssistantTurn):
            messages.append({"role": "assistant", "content": entry.generation.text})
            continue
        parts: Parts = []
        for part in entry.parts:
            parts += [{"type": "text", "text": part.text}] if isinstance(part, TextPart) else show(part.clip)
        messages.append({"role": entry.role, "content": _plain(entry, parts)})
        if entry.role == "tool":
            messages[-1]["tool_call_id"] = f"call-{index}"
    return messages


def _plain(entry: Message, parts: Parts) -> str | Parts:
    """Write one run of text as a string, which every chat template reads."""
    only = entry.parts[0] if len(entry.parts) == 1 else None
    return only.text if isinstance(only, TextPart) else parts


def visual_tokens(clips: Sequence[Clip], geometry: FrameGeometry, transport: Transport) -> int:
    """Return how many tokens of the prompt are pixels, without marks and times."""
    temporal = 1 if transport is Transport.IMAGES else geometry.temporal_patch
    factor = geometry.spatial_factor
    return sum(
        -(-clip.count // temporal) * (clip.frames.shape[1] // factor) * (clip.frames.shape[2] // factor)
        for clip in clips
    )


def read_reply(body: dict[str, Any], stop: Sequence[str], pixels: int) -> Generation:
    """Read a chat completion.

    Args:
        body: the server's reply.
        stop: strings that were to end the turn.
        pixels: tokens of the prompt that must be pixels.

    Raises:
        ValueError: if it is no chat completion, holds no token ids, or counts fewer tokens than were shown; says what.
    """
    try:
        (choice,) = body["choices"]
        text, finish = choice["message"]["content"] or "", choice["finish_reason"]
        ids, usage = choice.get("token_ids"), body["usage"]
        prompt_tokens = int(usage["prompt_tokens"])
        cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError("the reply is no chat completion with usage") from error
    if not isinstance(text, str) or finish not in ("stop", "length"):
        raise ValueError(f"the turn ended by {finish!r:.40}")
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise ValueError("the server does not return token ids (return_token_ids)")
    if prompt_tokens < pixels:
        raise ValueError(
            f"the prompt has {prompt_tokens} tokens, not even the {pixels} of its pixels: frames were dropped"
        )
    # Chat templates that open the thought leave its tag out of the turn; with it the text reads whole.
    if "</think>" in text and "<think>" not in text:
        text = "<think>" + text
    return Generation(tuple(ids), text, _finish(choice, text, stop), prompt_tokens, cached, pixels)


def _finish(choice: dict[str, Any], text: str, stop: Sequence[str]) -> FinishReason:
    if choice["finish_reason"] == "length":
        return FinishReason.LENGTH
    at_string = isinstance(choice.get("stop_reason"), str) or text.endswith(tuple(stop))
    return FinishReason.STOP_STRING if at_string else FinishReason.END_OF_TURN
