"""A chat completion request to a turn to write, and the turn to a chat completion."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Conversation, Message, Part, TextPart, VideoPart, clips_of
from vital_eval.engine import EngineInfo, GenerationRequest
from vital_eval.engines.batch_decode import STOP_TOKENS
from vital_eval.engines.openai_server_memory import ClipMemory, digest
from vital_eval.engines.video_url import read_url
from vital_eval.errors import ProtocolError
from vital_eval.generation import FinishReason, Generation
from vital_eval.protocol import Sampling

#: A field that is not known could move a score; it is refused, not ignored.
_FIELDS = frozenset(
    {"model", "messages", "stop", "include_stop_str_in_output", "max_tokens", "max_completion_tokens", "temperature"}
    | {"top_p", "seed", "repetition_penalty", "return_token_ids", "n", "stream", "bad_words", "expect_more"}
)
#: What is always so here; a request may say it, and nothing else.
_FIXED: Mapping[str, object] = {
    "top_k": -1,
    "min_p": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
}
#: The model's context is the only limit where the request names none.
_NO_LIMIT = 2**31 - 1
_MOST_STOPS = 16
_LONGEST_NAME = 256
_ROLES = ("system", "user", "tool")


class BadRequestError(Exception):
    """The client asked for something that cannot be done; the text says what."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was understood.

    Attributes:
        turn: what is to be written.
        keep_stop: whether the string that ended the turn stays in its text.
        return_ids: whether token ids are wanted.
        digest: of the conversation, see :func:`~vital_eval.engines.openai_server_memory.digest`.
        spoken: the same up to the last turn of the model's; ``""`` if there is none.
    """

    turn: GenerationRequest
    keep_stop: bool
    return_ids: bool
    digest: str
    spoken: str


#: Turns the text of an assistant turn into the ids the model reads, given the conversation before it and its digest.
Tokenise = Callable[[Conversation, str, str], tuple[int, ...]]


def read_request(
    body: object,
    info: EngineInfo,
    episode: str,
    tokenise: Tokenise,
    clips: ClipMemory,
    banned: Collection[str] = (),
) -> Asked:
    """Read the body of ``POST /v1/chat/completions``.

    Args:
        body: parsed JSON.
        info: of the engine that serves.
        episode: identity of the request.
        tokenise: see :data:`Tokenise`.
        clips: those that were named before; new ones are added.
        banned: words that stand for pixels: never written here, a request may ban them again, and refused in a message.

    Raises:
        BadRequestError: if it asks for what this server does not do.
    """
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    unknown = sorted(set(body) - _FIELDS - _FIXED.keys())
    if unknown:
        raise BadRequestError(f"unsupported: {', '.join(unknown)[:200]}")
    if _get(body, "n", int, 1) != 1 or _get(body, "stream", bool, False):
        raise BadRequestError("one whole answer at a time: n must be 1 and stream false")
    for name, value in _FIXED.items():
        if body.get(name) not in (None, value):
            raise BadRequestError(f"{name} is always {json.dumps(value)} here")
    if not set(map(str, _get(body, "bad_words", list, []))) <= set(banned):
        raise BadRequestError(f"bad_words can only be those that are always banned: {', '.join(banned)}")
    if _get(body, "model", str, info.model) != info.model:
        raise BadRequestError(f"the model {body['model']!r:.100} does not exist; this server has {info.model!r}")
    limit = _get(body, "max_completion_tokens", int, _get(body, "max_tokens", int, _NO_LIMIT))
    try:
        sampling = Sampling(
            max_new_tokens=limit,
            temperature=_real(body, "temperature"),
            top_p=_real(body, "top_p"),
            repetition_penalty=_real(body, "repetition_penalty"),
        )
    except ProtocolError as error:
        raise BadRequestError(str(error)) from error
    seed = _get(body, "seed", int, 0)
    if not 0 <= seed < 2**63:
        raise BadRequestError("seed must be 0 or above and below 2**63")
    conversation, said, spoken = _conversation(body, tokenise, clips)
    _check(conversation, info.geometry.spatial_factor, banned)
    more = _get(body, "expect_more", bool, True)
    turn = GenerationRequest(conversation, sampling, _stops(body), seed, episode, more)
    keep_stop = _get(body, "include_stop_str_in_output", bool, False)
    return Asked(turn, keep_stop, _get(body, "return_token_ids", bool, False), said, spoken)


def told_text(asked: Asked, generation: Generation) -> tuple[str, str | None]:
    """Return the text of a turn as the client is told it, and the stop string that ended it."""
    at_stop = generation.finish is FinishReason.STOP_STRING
    stopped = next((word for word in asked.turn.stop if at_stop and generation.text.endswith(word)), None)
    text = generation.text
    if stopped is not None and not asked.keep_stop:
        text = text.removesuffix(stopped)
    return text, stopped


def completion(asked: Asked, generation: Generation, info: EngineInfo) -> dict[str, Any]:
    """Return the reply to a request, with who wrote it."""
    text, stopped = told_text(asked, generation)
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "length" if generation.finish is FinishReason.LENGTH else "stop",
        "stop_reason": stopped,
    }
    if asked.return_ids:
        choice["token_ids"] = list(generation.token_ids)
    written = len(generation.token_ids)
    return {
        "id": f"chatcmpl-{asked.turn.episode}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": info.model,
        "system_fingerprint": info.fingerprint,
        "choices": [choice],
        "usage": {
            "prompt_tokens": generation.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": generation.prompt_tokens + written,
            "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
        },
    }


def _conversation(body: Mapping[str, Any], tokenise: Tokenise, clips: ClipMemory) -> tuple[Conversation, str, str]:
    """Return the conversation, its digest, and the digest up to the last turn of the model's."""
    messages = _get(body, "messages", list, [])
    entries: list[Message | AssistantTurn] = []
    said = spoken = ""
    for message in messages:
        if not isinstance(message, dict):
            raise BadRequestError("each message must be an object")
        role = message.get("role")
        if role == "assistant":
            entries.append(_assistant(tuple(entries), said, _parts(message.get("content"), clips), tokenise))
        elif role in _ROLES:
            entries.append(Message(role, _parts(message.get("content"), clips)))
        else:
            raise BadRequestError(f"role {role!r:.40} is not one of system, user, assistant, tool")
        said = digest(said, entries[-1])
        spoken = said if role == "assistant" else spoken
    if not entries or isinstance(entries[-1], AssistantTurn):
        raise BadRequestError("messages must end with one that is not the assistant's")
    if any(isinstance(a, AssistantTurn) and isinstance(b, AssistantTurn) for a, b in itertools.pairwise(entries)):
        raise BadRequestError("two messages of the assistant follow each other")
    return tuple(entries), said, spoken


def _check(conversation: Conversation, factor: int, banned: Collection[str]) -> None:
    """Refuse what the model cannot be shown."""
    for clip in clips_of(conversation):
        _, height, width, _ = clip.frames.shape
        if height % factor or width % factor:
            raise BadRequestError(f"frames of {height} x {width} pixels; both must be multiples of {factor}")
    for text in map(_words, conversation):
        if word := next((word for word in banned if word in text), None):
            raise BadRequestError(f"{word} in a text would stand for pixels that nobody sent")


def _words(entry: Message | AssistantTurn) -> str:
    if isinstance(entry, AssistantTurn):
        return entry.generation.text
    return "".join(part.text if isinstance(part, TextPart) else "\n" for part in entry.parts)


def _assistant(before: Conversation, said: str, parts: tuple[Part, ...], tokenise: Tokenise) -> AssistantTurn:
    text = "".join(_text(part) for part in parts)
    if not before:
        raise BadRequestError("messages must not begin with the assistant's")
    return AssistantTurn(Generation(tokenise(before, said, text), text, FinishReason.END_OF_TURN, prompt_tokens=0))


def _text(part: Part) -> str:
    if not isinstance(part, TextPart):
        raise BadRequestError("a message of the assistant holds text only")
    return part.text


def _parts(content: object, clips: ClipMemory) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(_sound(content)),)
    if not isinstance(content, list):
        raise BadRequestError("the content of a message must be a string or a list of parts")
    return tuple(_part(part, clips) for part in content)


def _part(part: object, clips: ClipMemory) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind == "text" and isinstance(part.get("text"), str):
        return TextPart(_sound(part["text"]))
    if isinstance(part, dict) and kind == "video_url":
        return VideoPart(_clip(part, clips))
    raise BadRequestError(f"a part of type {kind!r:.40} is not text or video_url")


def _sound(text: str) -> str:
    """Return a text that can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequestError(f"a text holds half of a character at {error.start}") from error
    return text


def _clip(part: Mapping[str, Any], clips: ClipMemory) -> Clip:
    held, name = part.get("video_url"), part.get("uuid")
    url = held.get("url") if isinstance(held, dict) else None
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME):
        raise BadRequestError(f"a uuid must be a text of at most {_LONGEST_NAME} characters")
    if held is None and name is not None:
        known = clips.get(name)
        if known is None:
            # The words of vLLM's server, by which clients know that they must send it again.
            raise BadRequestError(f"Cache miss for video {name!r:.80} but data is not provided.")
        return known
    if not isinstance(url, str):
        raise BadRequestError("a video_url part needs a url, or the uuid of one that was sent before")
    try:
        clip = read_url(url)
    except ValueError as error:
        raise BadRequestError(str(error)) from error
    if name is not None:
        clips.put(name, clip)
    return clip


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    words = [stop] if isinstance(stop, str) else stop if stop is not None else []
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise BadRequestError("stop must be a string or a list of strings")
    if len(words) > _MOST_STOPS:
        raise BadRequestError(f"at most {_MOST_STOPS} stop strings")
    # No word has more tokens than bytes.
    if any(len(_sound(word).encode()) > STOP_TOKENS for word in words):
        raise BadRequestError(f"a stop string may have {STOP_TOKENS} bytes")
    return tuple(words)


def _real(body: Mapping[str, Any], name: str) -> float:
    try:
        return float(_get(body, name, (int, float), 1.0))
    except OverflowError as error:
        raise BadRequestError(f"{name} is too large") from error


def _get(body: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    # To Python, true is a whole number; to nobody else.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadRequestError(f"{name} has the wrong type")
    return value
