"""A model behind a server that speaks the OpenAI chat completions protocol: ``vital-eval serve``, or vLLM's.

Three things differ from engines in this process. A turn of the model's goes back as text, which the server makes tokens
of again; text may not give the ids that were sampled. Times of frames reach other servers as a rate only, so
Qwen3-VL, which is told times in words, counts each clip from zero there. And what the server does to frames can
only be seen in its token counts, which are checked at the start and in every reply.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vital_eval.chat_server import ChatServer, NoConnection, Patience, Refusal, RequestFailure, check_address
from vital_eval.clip import Clip
from vital_eval.conversation import Message, TextPart, VideoPart, clips_of
from vital_eval.engine import ContextOverflowError, EngineInfo, FrameGeometry, GenerationRequest
from vital_eval.engines.openai_identity import MODELS, Identity, listed_models
from vital_eval.engines.openai_messages import (
    Parts,
    Transport,
    bare_parts,
    clip_parts,
    named_parts,
    pixel_pad,
    read_reply,
    request_body,
    turn_opening,
    visual_tokens,
    written_text,
)
from vital_eval.engines.openai_probe import find_fault, odd_clip, probe_clips
from vital_eval.errors import EngineError, VitalError
from vital_eval.generation import Generation
from vital_eval.protocol import Sampling

_CHAT = "/chat/completions"
_MEND = "start the server with the options that docs/server.md names"
#: Servers that know a clip again by the ``uuid`` of its part, and what they say when they have forgotten it.
_KNOW_CLIPS = frozenset({"vllm", "vital-eval"})
_FORGOTTEN = "Cache miss"


@dataclasses.dataclass(frozen=True, slots=True)
class OpenAIOptions:
    """Which server, and how to talk to it.

    Attributes:
        base_url: address up to, not including, ``/chat/completions``, for example ``http://localhost:8000/v1``.
        model: the model's name there; may be left out where the server has one.
        transport: see :class:`~vital_eval.engines.openai_messages.Transport`.
        spatial_factor: height and width of frames are multiples of it (Qwen2.5-VL: 28, Qwen3-VL: 32). 0 asks the
            server, which only ours can say, and else takes 28. The start-up check refuses a wrong one.
        reply_seconds: longest wait for one turn.
        attempts: times that a request is sent if the server is busy, broken or silent.
        first_pause: seconds before the second attempt; doubled before each further one.
        api_key_env: environment variable that holds the key, if the server wants one.
    """

    base_url: str = ""
    model: str = ""
    transport: str = Transport.MP4_RGB.value
    spatial_factor: int = 0
    reply_seconds: float = 600.0
    attempts: int = 5
    first_pause: float = 1.0
    api_key_env: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.transport not in [transport.value for transport in Transport]:
            raise VitalError(f"unknown transport {self.transport!r}", f"known: {', '.join(Transport)}")
        if self.spatial_factor < 0 or self.attempts < 1 or not self.reply_seconds > 0 or self.first_pause < 0:
            raise VitalError(f"impossible options {self}", "attempts must be at least 1, seconds above 0")


def load_engine(
    checkpoint: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 16,
    options: OpenAIOptions | None = None,
) -> OpenAIEngine:
    """Connect to a server and check what it does to frames.

    Args:
        checkpoint: must be ``None``: the server has one.
        device: must be ``auto``: the server decides.
        dtype: likewise.
        batch_size: most requests under way at a time.
        options: see :class:`OpenAIOptions`.

    Raises:
        VitalError: if the options do not name a server, it cannot be reached, does not have the model, returns no token
            ids, or does not show the model every frame as it is.
    """
    options = options or OpenAIOptions()
    if checkpoint is not None or (device, dtype) != ("auto", "auto"):
        raise VitalError("engine 'openai' takes no checkpoint, device or dtype", "they are the server's; drop them")
    if not options.base_url:
        raise VitalError("engine 'openai' needs the address of a server", "give --base-url http://localhost:8000/v1")
    key = os.environ.get(options.api_key_env) if options.api_key_env else None
    if options.api_key_env and not key:
        raise VitalError(
            f"the environment variable {options.api_key_env!r} of api_key_env is not set", "put the key there"
        )
    patience = Patience(options.reply_seconds, options.attempts, options.first_pause)
    try:
        check_address(options.base_url, "server")
        server = ChatServer(options.base_url, key, batch_size, patience)
    except ValueError as error:
        raise VitalError(str(error), "give the address before /chat/completions with --base-url") from error
    return asyncio.run(_connect(server, options, batch_size))


@dataclasses.dataclass(frozen=True, slots=True)
class Manners:
    """What is known of a server's ways.

    Attributes:
        multiple: frames of an MP4 must come in multiples of it; others are filled up with the last one.
        opening: what its chat template writes of every turn itself, see
            :func:`~vital_eval.engines.openai_messages.turn_opening`.
        knows_clips: whether a name can stand for a clip that it has been shown.
        takes_hints: whether it wants to know that no further turn follows.
        pad: id of a token of pixels, with which every reply is checked; ``None`` if it does not say the prompt's ids.
    """

    multiple: int = 1
    opening: str = ""
    knows_clips: bool = False
    takes_hints: bool = False
    pad: int | None = None


@dataclasses.dataclass(slots=True, eq=False)
class _Shown:
    """A clip of an episode as it is sent; kept beside its parts, so that its identity stays its own."""

    clip: Clip
    parts: Parts
    held: bool = False


class OpenAIEngine:
    """An :class:`~vital_eval.engine.Engine` over a server.

    Args:
        server: where requests go.
        info: who answers.
        identity: sees to it that nobody else does.
        transport: how frames travel.
        concurrency: most requests under way at a time.
        manners: see :class:`Manners`.
    """

    def __init__(
        self,
        server: ChatServer,
        info: EngineInfo,
        identity: Identity,
        transport: Transport,
        concurrency: int,
        manners: Manners | None = None,
    ) -> None:
        self._server = server
        self._info = info
        self._identity = identity
        self._transport = transport
        self._concurrency = asyncio.Semaphore(concurrency)
        self._manners = manners or Manners()
        self._shown: dict[str, dict[int, _Shown]] = {}

    @property
    def info(self) -> EngineInfo:
        """Return who answers. The server's address is no part of it: the same model may move."""
        return self._info

    async def generate(self, request: GenerationRequest) -> Generation:
        """Write one turn; see :class:`~vital_eval.engine.Engine`.

        Raises:
            EngineError: if no attempt brought a reply that can be used; never an answer of the model's.
            ContextOverflowError: if the server says that the prompt is too long.
        """
        started = time.monotonic()
        pixels = visual_tokens(clips_of(request.conversation), self._info.geometry, self._transport)
        async with self._concurrency:
            try:
                body = await self.post(request)
                await self._identity.check(body)
                reply = read_reply(body, request.stop, pixels, self._manners.opening, self._manners.pad)
            except Refusal as refusal:
                if refusal.status == 400 and "context length" in refusal.detail:
                    raise ContextOverflowError(refusal.detail) from refusal
                raise EngineError(f"the server refused a turn: {refusal}") from refusal
            except (RequestFailure, ValueError) as error:
                raise EngineError(f"the server gave no turn: {error}") from error
        return dataclasses.replace(reply, seconds=time.monotonic() - started)

    def release(self, episode: str) -> None:
        """Forget the clips of a finished episode."""
        self._shown.pop(episode, None)

    async def close(self) -> None:
        """Close all connections."""
        self._shown.clear()
        await self._server.close()

    async def post(self, request: GenerationRequest) -> dict[str, Any]:
        """Post a turn; clips that the server has seen go by name, and whole again if it has forgotten one.

        Returns:
            The reply as it came.

        Raises:
            RequestFailure: if none came.
        """
        shown = self._shown.setdefault(request.episode, {})
        try:
            reply = await self._server.send(_CHAT, await asyncio.to_thread(self._body, request, shown))
        except Refusal as refusal:
            if _FORGOTTEN not in refusal.detail or not any(entry.held for entry in shown.values()):
                raise
            for entry in shown.values():
                entry.held = False
            reply = await self._server.send(_CHAT, await asyncio.to_thread(self._body, request, shown))
        for entry in shown.values():
            entry.held = self._manners.knows_clips
        return reply

    def _body(self, request: GenerationRequest, shown: dict[int, _Shown]) -> dict[str, Any]:
        """Write a request; a clip is written once an episode, however many turns show it again."""
        manners, pair = self._manners, self._info.geometry.temporal_patch

        def show(clip: Clip) -> Parts:
            if id(clip) not in shown:
                # No family's processor takes a single frame everywhere.
                multiple = pair if clip.count == 1 else manners.multiple
                parts = clip_parts(clip, self._transport, multiple)
                shown[id(clip)] = _Shown(clip, named_parts(parts) if manners.knows_clips else parts)
            entry = shown[id(clip)]
            return bare_parts(entry.parts) if entry.held else entry.parts

        body = request_body(request, self._info.model, show, manners.opening)
        return body | {"expect_more": request.expect_more} if manners.takes_hints else body


async def _connect(server: ChatServer, options: OpenAIOptions, concurrency: int) -> OpenAIEngine:
    transport = Transport(options.transport)
    try:
        listed = _served(await _first(server, options), options)
        factor = options.spatial_factor or int(listed.get("spatial_factor") or 28)
        info = EngineInfo(
            name="openai",
            model=str(listed["id"]),
            fingerprint=str(listed.get("fingerprint") or hashlib.sha256(f"served {listed['id']}".encode()).hexdigest()),
            geometry=FrameGeometry(factor, int(listed.get("temporal_patch") or 2)),
            details=MappingProxyType(
                {"transport": transport.value, "server": str(listed.get("owned_by") or "unknown")}
            ),
        )
        identity = Identity(server, listed)
        manners = await _probe(server, info, identity, transport)
    except RequestFailure as failure:
        raise VitalError(f"the server at {options.base_url} cannot be used: {failure}") from failure
    finally:
        # The run has an event loop of its own; connections belong to this one.
        await server.close()
    return OpenAIEngine(server, info, identity, transport, concurrency, manners)


async def _first(server: ChatServer, options: OpenAIOptions) -> dict[str, Any]:
    """Ask for the list of models; nobody listening is told at once, for it is most often a wrong address."""
    try:
        return await server.send_once(MODELS)
    except NoConnection as failure:
        raise VitalError(
            f"cannot connect to {options.base_url} ({failure.detail})", "start the server, or check --base-url"
        ) from failure
    except RequestFailure:
        return await server.send(MODELS)


def _served(body: dict[str, Any], options: OpenAIOptions) -> dict[str, Any]:
    listed = listed_models(body)
    names = ", ".join(str(entry["id"]) for entry in listed) or "none"
    if not options.model and len(listed) == 1:
        return listed[0]
    if not options.model:
        raise VitalError(f"the server at {options.base_url} has these models: {names}", "choose one with --model")
    for entry in listed:
        if entry["id"] == options.model:
            return entry
    raise VitalError(f"the server at {options.base_url} has no model {options.model!r}", f"it has: {names}")


async def _probe(server: ChatServer, info: EngineInfo, identity: Identity, transport: Transport) -> Manners:
    """Show the server clips of known cost, and find out its manners.

    Raises:
        VitalError: if it fails, or does not show the model every frame as it is.
    """
    engine = OpenAIEngine(server, info, identity, transport, 1)
    counts = [await _cost(engine, clip) for clip in probe_clips(info.geometry)]
    fault = find_fault((counts[0], counts[1], counts[2]), info.geometry, transport)
    if fault:
        raise VitalError(f"the server does not show the model the frames that it is sent: {fault}", _MEND)
    await _check_stop(server, info)
    owner = info.details["server"]
    few = probe_clips(info.geometry)[0]
    try:
        pairs_up = await _cost(engine, odd_clip(info.geometry)) == counts[0]
    except VitalError:
        pairs_up = False
    manners = Manners(
        multiple=1 if pairs_up else info.geometry.temporal_patch,
        knows_clips=owner in _KNOW_CLIPS,
        takes_hints=owner == "vital-eval",
        pad=pixel_pad(await engine.post(_question(few)), visual_tokens([few], info.geometry, transport)),
    )
    if owner == "vllm":
        asked = request_body(_question(None), info.model, lambda clip: [])
        told = await server.send(_CHAT, asked | {"return_prompt_text": True})
        manners = dataclasses.replace(manners, opening=turn_opening(told))
    return manners


async def _check_stop(server: ChatServer, info: EngineInfo) -> None:
    """See to it that a string that ends a turn stays in its text; without it no answer can be read.

    Raises:
        VitalError: if the server leaves it out.
    """
    # Once may be chance where a server does not write the same twice.
    if await _swallows(server, info) and await _swallows(server, info):
        raise VitalError("the server leaves the string that ends a turn out of its text", _MEND)


async def _swallows(server: ChatServer, info: EngineInfo) -> bool:
    plain = await _written(server, info, ())
    for at in range(1, len(plain)):
        word = plain[at]
        if not word.isspace() and word not in plain[:at]:
            # Some strip what they cut.
            return (await _written(server, info, (word,))).strip() == plain[:at].strip()
    return False


async def _written(server: ChatServer, info: EngineInfo, stop: tuple[str, ...]) -> str:
    sampling = Sampling(max_new_tokens=8)
    request = dataclasses.replace(_question(None), sampling=sampling, stop=stop)
    try:
        return written_text(await server.send(_CHAT, request_body(request, info.model, lambda clip: [])))
    except ValueError as error:
        raise VitalError(f"the server failed on a question without frames: {error}", _MEND) from error


async def _cost(engine: OpenAIEngine, clip: Clip) -> int:
    """Return the prompt tokens of a question about a clip."""
    try:
        return (await engine.generate(_question(clip))).prompt_tokens
    except (EngineError, ContextOverflowError) as error:
        raise VitalError(f"the server failed on a clip of {clip.count} frames: {error}", _MEND) from error


def _question(clip: Clip | None) -> GenerationRequest:
    parts = (VideoPart(clip), TextPart("What is seen?")) if clip else (TextPart("What is seen?"),)
    return GenerationRequest((Message("user", parts),), Sampling(max_new_tokens=1), ("</answer>",), 0, "probe")
