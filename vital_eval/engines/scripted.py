"""An engine without a model: it plays replies that a function writes. For tests and for trying out a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from vital_eval.conversation import AssistantTurn, Conversation, Message, TextPart, clips_of
from vital_eval.engine import EngineInfo, FrameGeometry, GenerationRequest
from vital_eval.generation import FinishReason, Generation

#: Writes the next turn. It may raise EngineError or ContextOverflowError.
Reply = Callable[[GenerationRequest], str]


def turns(*texts: str) -> Reply:
    """Return a reply that plays ``texts`` in order in every episode; the last one repeats."""

    def reply(request: GenerationRequest) -> str:
        written = sum(isinstance(entry, AssistantTurn) for entry in request.conversation)
        return texts[min(written, len(texts) - 1)]

    return reply


def question_of(conversation: Conversation) -> str:
    """Return the text of the user message, which is how a script tells samples apart."""
    for entry in conversation:
        if isinstance(entry, Message) and entry.role == "user":
            return "".join(part.text for part in entry.parts if isinstance(part, TextPart))
    return ""


class ScriptedEngine:
    """Plays a script deterministically and remembers every request.

    Args:
        reply: writes the turn for a request.
        delay: seconds each turn takes.
        obeys_limit: whether ``max_new_tokens`` cuts the reply (one token per UTF-8 byte), as a real engine does.
        geometry: what it asks of frames.
        model: name shown in tables.
    """

    def __init__(
        self,
        reply: Reply,
        *,
        delay: float = 0.0,
        obeys_limit: bool = True,
        geometry: FrameGeometry | None = None,
        model: str = "script",
    ) -> None:
        self._reply = reply
        self._delay = delay
        self._obeys_limit = obeys_limit
        self._info = EngineInfo("scripted", model, f"scripted-{model}", geometry or FrameGeometry(32, 2))
        self.requests: list[GenerationRequest] = []
        self.released: list[str] = []
        self.closed = False

    @property
    def info(self) -> EngineInfo:
        """Return who answers."""
        return self._info

    async def generate(self, request: GenerationRequest) -> Generation:
        """Write one turn, cut at the first stop string or at the token limit."""
        self.requests.append(request)
        await asyncio.sleep(self._delay)
        text, finish = _cut_at_stop(self._reply(request), request.stop)
        ids = tuple(text.encode("utf-8", "surrogatepass"))
        limit = request.sampling.max_new_tokens
        if self._obeys_limit and len(ids) > limit:
            ids, finish = ids[:limit], FinishReason.LENGTH
            text = bytes(ids).decode("utf-8", "replace")
        visual = sum(clip.count for clip in clips_of(request.conversation))
        return Generation(ids, text, finish, _text_tokens(request.conversation) + visual, visual_tokens=visual)

    def release(self, episode: str) -> None:
        """Remember that the episode is over."""
        self.released.append(episode)

    async def close(self) -> None:
        """Remember that the engine is closed."""
        self.closed = True


def _cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, FinishReason]:
    ends = [text.find(word) + len(word) for word in stop if word in text]
    return (text[: min(ends)], FinishReason.STOP_STRING) if ends else (text, FinishReason.END_OF_TURN)


def _text_tokens(conversation: Conversation) -> int:
    return sum(
        len(entry.generation.token_ids)
        if isinstance(entry, AssistantTurn)
        else sum(len(part.text.encode()) for part in entry.parts if isinstance(part, TextPart))
        for entry in conversation
    )
