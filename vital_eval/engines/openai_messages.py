"""A turn as the chat completions protocol says it: what is sent, and what is read of the reply."""

from __future__ import annotations

import hashlib
from collections import Counter
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
#: Marks of images and videos: a sampled one would stand for pixels that nobody sent.
_BANNED = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
#: What the families' models end a turn with; it is no part of the turn's text.
_ENDS = ("<|im_end|>", "<|endoftext|>")
_THINK = "<think>"
#: No context is longer.
_MOST_TOKENS = 10**8


class Transport(StrEnum):
    """How frames travel; it decides what a server can know of their times.

    ``mp4-rgb`` carries the sampling rate. ``video-jpeg`` carries none: servers take one frame a second. ``images`` are
    no video at all to the model: more tokens, and no time.
    """

    MP4_RGB = "mp4-rgb"
    VIDEO_JPEG = "video-jpeg"
    IMAGES = "images"


def clip_parts(clip: Clip, transport: Transport, multiple: int = 1) -> Parts:
    """Return the parts of a message that show a clip; every transport keeps each pixel as it is.

    Args:
        clip: what is shown.
        transport: how.
        multiple: the last frame of an MP4 is repeated until their number is a multiple of it.
    """
    if transport is Transport.IMAGES:
        urls = (f"data:image/png;base64,{text}" for text in picture_texts(clip))
        return [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    url = mp4_url(clip, multiple) if transport is Transport.MP4_RGB else pictures_url(clip)
    return [{"type": "video_url", "video_url": {"url": url}}]


def named_parts(parts: Parts) -> Parts:
    """Return parts that carry a ``uuid``: a hash of what they show, times included, so that it can stand for it."""
    return [part | {"uuid": hashlib.sha256(part[part["type"]]["url"].encode()).hexdigest()} for part in parts]


def bare_parts(parts: Parts) -> Parts:
    """Return parts that only name what the server has seen already; see :func:`named_parts`."""
    return [{"type": part["type"], part["type"]: None, "uuid": part["uuid"]} for part in parts]


def request_body(
    request: GenerationRequest, model: str, show: Callable[[Clip], Parts], opening: str = ""
) -> dict[str, Any]:
    """Return what is posted to ``/chat/completions``; nothing that can move a score is left to the server's defaults.

    Args:
        request: the turn to write.
        model: the model's name at the server.
        show: turns a clip into parts, see :func:`clip_parts`.
        opening: what the server's chat template writes of a turn itself, for example ``<think>`` and a line break.
    """
    sampling = request.sampling
    return {
        "model": model,
        "messages": write_messages(request.conversation, show, opening),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
        # Servers take these from the checkpoint's generation_config.json where a request does not say.
        "top_k": -1,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "bad_words": list(_BANNED),
        "seed": request.seed,
        "stop": list(request.stop),
        "include_stop_str_in_output": True,
        "return_token_ids": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    }


def write_messages(
    conversation: Conversation, show: Callable[[Clip], Parts], opening: str = ""
) -> list[dict[str, Any]]:
    """Write a conversation; tools stand in its text, and a turn of the model's goes back as the text it was."""
    messages: list[dict[str, Any]] = []
    for index, entry in enumerate(conversation):
        if isinstance(entry, AssistantTurn):
            text = entry.generation.text
            if opening:
                text = opening + text.removeprefix(_THINK)
            messages.append({"role": "assistant", "content": text})
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


def read_reply(
    body: dict[str, Any], stop: Sequence[str], pixels: int, opening: str = "", pad: int | None = None
) -> Generation:
    """Read a chat completion.

    Args:
        body: the server's reply.
        stop: strings that were to end the turn.
        pixels: tokens of the prompt that must be pixels.
        opening: see :func:`request_body`; where it opens a thought, the text begins with its tag.
        pad: id of a token of pixels, if known; a reply that holds the prompt's ids must have ``pixels`` of them.

    Raises:
        ValueError: if it is no chat completion, holds no token ids, counts other tokens than were shown or written,
            takes the turn apart, or leaves out the string that ended it; says what.
    """
    try:
        (choice,) = body["choices"]
        finish = choice["finish_reason"]
        apart = [name for name in ("tool_calls", "reasoning", "reasoning_content") if choice["message"].get(name)]
        ids, usage = choice.get("token_ids"), body["usage"]
        prompt_tokens, written = usage["prompt_tokens"], usage.get("completion_tokens")
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError("the reply is no chat completion with usage") from error
    text = written_text(body)
    if apart:
        raise ValueError(f"the server takes turns apart ({apart[0]}): start it without a parser of tools or reasoning")
    if finish not in ("stop", "length"):
        raise ValueError(f"the turn ended by {finish!r:.40}")
    if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
        raise ValueError("the server does not return token ids (return_token_ids)")
    if not ids or (written is not None and written != len(ids)):
        raise ValueError(f"the turn has {len(ids)} token ids, and {written} tokens by the server's count")
    if type(prompt_tokens) is not int or type(cached) is not int or not 0 <= cached <= prompt_tokens <= _MOST_TOKENS:
        raise ValueError(f"a prompt of {prompt_tokens!r:.40} tokens, {cached!r:.40} of them cached, cannot be")
    if prompt_tokens < pixels:
        raise ValueError(
            f"the prompt has {prompt_tokens} tokens, not even the {pixels} of its pixels: frames were dropped"
        )
    prompt = body.get("prompt_token_ids")
    if pad is not None and isinstance(prompt, list) and prompt.count(pad) != pixels:
        raise ValueError(f"the prompt has {prompt.count(pad)} tokens of pixels, not {pixels}: frames were dropped")
    reason = _finish(choice, text, stop)
    if reason is FinishReason.END_OF_TURN:
        text = text.removesuffix(next((end for end in _ENDS if text.endswith(end)), ""))
    # Chat templates that open the thought leave its tag out of the turn; with it the text reads whole.
    if opening or ("</think>" in text and _THINK not in text):
        text = _THINK + text
    return Generation(tuple(ids), text, reason, prompt_tokens, cached, pixels)


def pixel_pad(body: dict[str, Any], pixels: int) -> int | None:
    """Return the id of a token of pixels, from a reply about a clip that holds the prompt's ids.

    Returns:
        ``None`` if it holds none, or no id occurs ``pixels`` times and most often.
    """
    prompt = body.get("prompt_token_ids")
    if not isinstance(prompt, list) or not prompt:
        return None
    ((likeliest, count),) = Counter(prompt).most_common(1)
    return likeliest if count == pixels else None


def turn_opening(body: dict[str, Any]) -> str:
    """Return what the chat template wrote of the turn itself, from a reply that says the prompt's text (vLLM's does).

    Returns:
        From ``<think>`` to the prompt's end, white space included; ``""`` if it opens no thought or says no text.
    """
    text = body.get("prompt_text")
    if not isinstance(text, str) or not text.rstrip().endswith(_THINK):
        return ""
    return text[text.rindex(_THINK) :]


def written_text(body: dict[str, Any]) -> str:
    """Return the text of a reply as the server wrote it.

    Raises:
        ValueError: if it is no chat completion.
    """
    try:
        (choice,) = body["choices"]
        text = choice["message"]["content"] or ""
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError("the reply is no chat completion") from error
    if not isinstance(text, str):
        raise ValueError("the turn is no text")
    return text


def _finish(choice: dict[str, Any], text: str, stop: Sequence[str]) -> FinishReason:
    if choice["finish_reason"] == "length":
        return FinishReason.LENGTH
    if text.endswith(tuple(stop)):
        return FinishReason.STOP_STRING
    if isinstance(choice.get("stop_reason"), str):
        raise ValueError("the server leaves the string that ended the turn out of it (include_stop_str_in_output)")
    return FinishReason.END_OF_TURN
