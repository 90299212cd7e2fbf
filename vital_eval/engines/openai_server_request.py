"""A chat completion request to a turn to write, and the turn to a chat completion."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vital_eval.conversation import AssistantTurn, Conversation, Message, Part, TextPart, VideoPart
from vital_eval.engine import GenerationRequest
from vital_eval.engines.video_url import read_url
from vital_eval.errors import ProtocolError
from vital_eval.generation import FinishReason, Generation
from vital_eval.protocol import Sampling

#: A field that is not known could move a score; it is refused, not ignored.
_FIELDS = frozenset(
    {"model", "messages", "stop", "include_stop_str_in_output", "max_tokens", "max_completion_tokens", "temperature"}
    | {"top_p", "seed", "repetition_penalty", "return_token_ids", "n", "stream"}
)
#: The model's context is the only limit where the request names none.
_NO_LIMIT = 2**31 - 1
_MOST_STOPS = 16
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
    """

    turn: GenerationRequest
    keep_stop: bool
    return_ids: bool


#: Turns the text of an assistant turn, after the conversation so far, into the ids the model reads.
Tokenise = Callable[[Conversation, str], tuple[int, ...]]


def read_request(body: object, model: str, episode: str, tokenise: Tokenise) -> Asked:
    """Read the body of ``POST /v1/chat/completions``.

    Args:
        body: parsed JSON.
        model: name of the model served.
        episode: identity of the request.
        tokenise: see :data:`Tokenise`.

    Raises:
        BadRequestError: if it asks for what this server does not do.
    """
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    unknown = sorted(set(body) - _FIELDS)
    if unknown:
        raise BadRequestError(f"unsupported: {', '.join(unknown)[:200]}")
    if _get(body, "n", int, 1) != 1 or _get(body, "stream", bool, False):
        raise BadRequestError("one whole answer at a time: n must be 1 and stream false")
    if _get(body, "model", str, model) != model:
        raise BadRequestError(f"the model {body['model']!r:.100} does not exist; this server has {model!r}")
    limit = _get(body, "max_completion_tokens", int, _get(body, "max_tokens", int, _NO_LIMIT))
    try:
        sampling = Sampling(
            max_new_tokens=limit,
            temperature=float(_get(body, "temperature", (int, float), 1.0)),
            top_p=float(_get(body, "top_p", (int, float), 1.0)),
            repetition_penalty=float(_get(body, "repetition_penalty", (int, float), 1.0)),
        )
    except ProtocolError as error:
        raise BadRequestError(str(error)) from error
    seed = _get(body, "seed", int, 0)
    if not 0 <= seed < 2**63:
        raise BadRequestError("seed must be 0 or above and below 2**63")
    turn = GenerationRequest(_conversation(body, tokenise), sampling, _stops(body), seed, episode)
    keep_stop = _get(body, "include_stop_str_in_output", bool, False)
    return Asked(turn, keep_stop, _get(body, "return_token_ids", bool, False))


def completion(asked: Asked, generation: Generation, model: str) -> dict[str, Any]:
    """Return the reply to a request."""
    at_stop = generation.finish is FinishReason.STOP_STRING
    stopped = next((word for word in asked.turn.stop if at_stop and generation.text.endswith(word)), None)
    text = generation.text
    if stopped is not None and not asked.keep_stop:
        text = text.removesuffix(stopped)
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
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": generation.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": generation.prompt_tokens + written,
            "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
        },
    }


def _conversation(body: Mapping[str, Any], tokenise: Tokenise) -> Conversation:
    messages = _get(body, "messages", list, [])
    entries: list[Message | AssistantTurn] = []
    for message in messages:
        if not isinstance(message, dict):
            raise BadRequestError("each message must be an object")
        role = message.get("role")
        if role == "assistant":
            entries.append(_assistant(tuple(entries), message.get("content"), tokenise))
        elif role in _ROLES:
            entries.append(Message(role, _parts(message.get("content"))))
        else:
            raise BadRequestError(f"role {role!r:.40} is not one of system, user, assistant, tool")
    if not entries or isinstance(entries[-1], AssistantTurn):
        raise BadRequestError("messages must end with one that is not the assistant's")
    if any(isinstance(a, AssistantTurn) and isinstance(b, AssistantTurn) for a, b in itertools.pairwise(entries)):
        raise BadRequestError("two messages of the assistant follow each other")
    return tuple(entries)


def _assistant(before: Conversation, content: object, tokenise: Tokenise) -> AssistantTurn:
    text = "".join(_text(part) for part in _parts(content))
    if not before:
        raise BadRequestError("messages must not begin with the assistant's")
    return AssistantTurn(Generation(tokenise(before, text), text, FinishReason.END_OF_TURN, prompt_tokens=0))


def _text(part: Part) -> str:
    if not isinstance(part, TextPart):
        raise BadRequestError("a message of the assistant holds text only")
    return part.text


def _parts(content: object) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    if not isinstance(content, list):
        raise BadRequestError("the content of a message must be a string or a list of parts")
    return tuple(_part(part) for part in content)


def _part(part: object) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind == "text" and isinstance(part.get("text"), str):
        return TextPart(part["text"])
    if isinstance(part, dict) and kind == "video_url":
        held = part.get("video_url")
        url = held.get("url") if isinstance(held, dict) else None
        if not isinstance(url, str):
            raise BadRequestError("a video_url part needs a url")
        try:
            return VideoPart(read_url(url))
        except ValueError as error:
            raise BadRequestError(str(error)) from error
    raise BadRequestError(f"a part of type {kind!r:.40} is not text or video_url")


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    words = [stop] if isinstance(stop, str) else stop if stop is not None else []
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise BadRequestError("stop must be a string or a list of strings")
    if len(words) > _MOST_STOPS:
        raise BadRequestError(f"at most {_MOST_STOPS} stop strings")
    return tuple(words)


def _get(body: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    # To Python, true is a whole number; to nobody else.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadRequestError(f"{name} has the wrong type")
    return value
