"""What a server of ours remembers between requests, and what the client makes of servers with other manners."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Message, TextPart, VideoPart
from vital_eval.engine import GenerationRequest
from vital_eval.engines.hf import HFEngine
from vital_eval.engines.hf import load_engine as load_hf
from vital_eval.engines.openai import OpenAIEngine, OpenAIOptions, load_engine
from vital_eval.engines.openai_messages import clip_parts, pixel_pad, read_reply, turn_opening, write_messages
from vital_eval.engines.openai_server import OpenAIServer
from vital_eval.engines.openai_server_memory import ClipMemory, TurnMemory, digest
from vital_eval.engines.video_url import read_mp4, read_url, write_mp4
from vital_eval.generation import FinishReason, Generation
from vital_eval.protocol import Sampling

from .fake_server import fake_server
from .tiny import make_clip, opening, request, write_checkpoint

CLIP = make_clip(0.0, 60.0, 6, 28, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "qwen2_5_vl", "qwen2_5_vl")


@pytest.fixture
def server(folder: Path) -> Iterator[OpenAIServer]:
    running = OpenAIServer(load_hf(folder, "cpu", "float32"), port=0)
    running.start()
    yield running
    running.close()


def connect(url: str) -> OpenAIEngine:
    return load_engine(options=OpenAIOptions(url, attempts=1, reply_seconds=120.0))


def goes_on(first: GenerationRequest, said: Generation, seed: int = 9) -> GenerationRequest:
    tool = Message("tool", (VideoPart(make_clip(3.0, 5.0, 4, 28, seed)), TextPart("3.00 to 5.00")))
    return dataclasses.replace(first, conversation=(*first.conversation, AssistantTurn(said), tool))


def hot() -> GenerationRequest:
    """Ask for a turn whose text does not come back as the same tokens: bytes that make no characters."""
    warm = Sampling(max_new_tokens=60, temperature=1.5)
    return dataclasses.replace(request(opening(CLIP)), sampling=warm, seed=3)


async def play(engine: OpenAIEngine | HFEngine, first: GenerationRequest, turns: int) -> list[Generation]:
    """Write several turns, each going on from what the one before said."""
    told: list[Generation] = []
    asked = first
    for number in range(turns):
        told.append(await engine.generate(asked))
        asked = goes_on(asked, told[-1], seed=number)
    return told


def whole(engine: OpenAIEngine | HFEngine, first: GenerationRequest, turns: int = 3) -> list[Generation]:
    async def and_close() -> list[Generation]:
        try:
            return await play(engine, first, turns)
        finally:
            await engine.close()

    return asyncio.run(and_close())


def essence(told: list[Generation]) -> list[Any]:
    return [(entry.token_ids, entry.text, entry.prompt_tokens, entry.cached_tokens) for entry in told]


def test_later_turns_continue_the_ids_and_keys_of_earlier_ones(server: OpenAIServer, folder: Path) -> None:
    wanted = whole(load_hf(folder, "cpu", "float32"), hot())
    told = whole(connect(server.address), hot())
    assert essence(told) == essence(wanted)
    assert [entry.cached_tokens > 0 for entry in told] == [False, True, True]
    tokenizer = server._engine.parts.tokenizer
    assert all(tuple(tokenizer(entry.text)["input_ids"]) != entry.token_ids for entry in wanted[:-1])


def test_a_forgotten_turn_is_made_tokens_of_again(
    server: OpenAIServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._http.turns, "_most", 0)
    told = whole(connect(server.address), hot(), 2)
    (_, wanted) = whole(load_hf(folder, "cpu", "float32"), hot(), 2)
    assert told[1].cached_tokens == 0
    assert told[1].prompt_tokens != wanted.prompt_tokens


def test_the_same_words_about_other_pixels_share_nothing(server: OpenAIServer, folder: Path) -> None:
    other = make_clip(0.0, 60.0, 6, 28, 77)
    shifted = Clip(CLIP.frames, tuple(2 * time for time in CLIP.timestamps), CLIP.span)
    engine = connect(server.address)

    async def ask() -> list[Generation]:
        try:
            first = await engine.generate(request(opening(CLIP), "a"))
            conversations = [
                dataclasses.replace(goes_on(request(opening(clip)), first), episode=str(place))
                for place, clip in enumerate((other, shifted, CLIP))
            ]
            return [await engine.generate(entry) for entry in conversations]
        finally:
            await engine.close()

    told = asyncio.run(ask())
    assert [entry.cached_tokens > 0 for entry in told] == [False, False, True]
    first = whole(load_hf(folder, "cpu", "float32"), request(opening(CLIP)), 1)[0]
    for clip, entry in zip((other, shifted, CLIP), told, strict=True):
        (wanted,) = whole(load_hf(folder, "cpu", "float32"), goes_on(request(opening(clip)), first), 1)
        assert entry.token_ids == wanted.token_ids


def test_the_last_turn_keeps_no_keys(server: OpenAIServer) -> None:
    engine = connect(server.address)
    held = server._engine._prefixes._entries
    before = len(held)
    asyncio.run(_once(engine, request(opening(CLIP), expect_more=False)))
    assert len(held) == before
    asyncio.run(_once(connect(server.address), request(opening(CLIP), expect_more=True)))
    assert len(held) == before + 1


async def _once(engine: OpenAIEngine, asked: GenerationRequest) -> Generation:
    try:
        return await engine.generate(asked)
    finally:
        await engine.close()


def test_a_clip_travels_once_and_again_if_it_was_forgotten(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect(server.address)
    sent: list[list[bool]] = []
    send = engine._server.send

    async def watch(path: str, body: Any = None) -> Any:
        parts = [part for message in body["messages"] for part in message["content"] if isinstance(part, dict)]
        sent.append([part["video_url"] is not None for part in parts if part["type"] == "video_url"])
        return await send(path, body)

    monkeypatch.setattr(engine._server, "send", watch)
    whole(engine, request(opening(CLIP)))
    assert sent == [[True], [False, True], [False, False, True]]
    sent.clear()
    server._http.clips._budget = 0
    server._http.clips.put("one more", CLIP)
    whole(engine, request(opening(CLIP)), 2)
    assert sent == [[True], [False, True], [True, True]]


def test_clips_are_forgotten_beyond_the_budget_oldest_first() -> None:
    memory = ClipMemory(2 * CLIP.frames.nbytes)
    for name in ("a", "b"):
        memory.put(name, CLIP)
    assert memory.get("a") is CLIP
    memory.put("c", CLIP)
    assert [memory.get(name) is not None for name in "abc"] == [True, False, True]
    memory.put("a", make_clip(0.0, 60.0, 60, 28, 1))
    assert [memory.get(name) for name in "abc"] == [None, None, None]


def test_turns_are_remembered_by_what_was_said_before_them() -> None:
    memory = TurnMemory(most=2)
    memory.put("x", "text", [1])
    memory.put("y", "text", [2])
    assert (memory.get("x", "text"), memory.get("y", "text"), memory.get("x", "other")) == ((1,), (2,), None)
    memory.put("z", "text", [3])
    assert memory.get("x", "text") is None


def test_digests_tell_words_roles_pixels_times_and_ids_apart() -> None:
    moved = Clip(CLIP.frames, tuple(time + 0.5 for time in CLIP.timestamps), CLIP.span)
    changed = CLIP.frames.copy()
    changed[3, 5, 7, 1] ^= 1
    entries = [
        Message("user", (TextPart("a"), TextPart("b"))),
        Message("user", (TextPart("ab"),)),
        Message("tool", (TextPart("ab"),)),
        Message("user", (VideoPart(CLIP),)),
        Message("user", (VideoPart(moved),)),
        Message("user", (VideoPart(Clip(changed, CLIP.timestamps, CLIP.span)),)),
        AssistantTurn(Generation((1, 2), "x", FinishReason.LENGTH, 0)),
        AssistantTurn(Generation((12,), "x", FinishReason.LENGTH, 0)),
    ]
    assert len({digest(before, entry) for entry in entries for before in ("", "b")}) == 2 * len(entries)
    assert digest("", entries[3]) == digest("", Message("user", (VideoPart(make_clip(0.0, 60.0, 6, 28, 1)),)))


@pytest.mark.parametrize("frames", [1, 5, 6])
def test_frames_that_fill_up_are_no_part_of_the_clip(frames: int) -> None:
    clip = make_clip(0.0, 8.0, frames, 28, 3)
    data = write_mp4(clip, multiple=2)
    assert np.array_equal(read_mp4(data).frames, clip.frames)
    assert read_mp4(data).timestamps == clip.timestamps
    strange = read_mp4(data.replace(b'{"seconds"', b'{"sEconds"'))
    assert strange.count == frames + frames % 2
    assert np.array_equal(strange.frames[-1], clip.frames[-1])


def _counting(factor: int, *, floors: bool) -> Any:
    """Return a script that counts tokens as vLLM's loader does for Qwen2.5-VL: an odd last frame is dropped."""

    def script(body: dict[str, Any], before: int) -> tuple[int, dict[str, Any]]:
        content = body["messages"][-1]["content"]
        ids = []
        if not isinstance(content, str):
            data = read_url(content[0]["video_url"]["url"])
            pairs = data.count // 2 if floors else -(-data.count // 2)
            ids = [9] * (pairs * (data.frames.shape[1] // factor) * (data.frames.shape[2] // factor))
        said = {"message": {"content": "x<|im_end|>"}, "finish_reason": "stop", "token_ids": [7]}
        return 200, {"choices": [said], "usage": {"prompt_tokens": len(ids) + 20}, "prompt_token_ids": [1, *ids, 2]}

    return script


def test_a_server_that_drops_an_odd_frame_is_sent_an_even_number(monkeypatch: pytest.MonkeyPatch) -> None:
    # Someone else's server does not know of the tag that names the true frames.
    monkeypatch.setattr("vital_eval.engines.video_url._tagged", lambda tag, count: [])
    for floors, multiple in ((True, 2), (False, 1)):
        with fake_server(_counting(28, floors=floors)) as (url, bodies):
            engine = connect(url)
            assert (engine._manners.multiple, engine._manners.pad, engine._manners.knows_clips) == (multiple, 9, False)
            told = asyncio.run(_once(engine, request(opening(make_clip(0.0, 8.0, 5, 28, 3)))))
            assert told.text == "x"
        sent = read_url(bodies[-1]["messages"][-1]["content"][0]["video_url"]["url"])
        assert sent.count == (6 if floors else 5)


def _reply(text: str = "x", **more: Any) -> dict[str, Any]:
    message = {"content": text} | more.pop("message", {})
    choice = {"message": message, "finish_reason": "stop", "token_ids": [7]} | more.pop("choice", {})
    return {"choices": [choice], "usage": {"prompt_tokens": 50}} | more


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (_reply(message={"tool_calls": [{}]}), "takes turns apart"),
        (_reply(message={"reasoning": "so"}), "takes turns apart"),
        (_reply(message={"reasoning_content": "so"}), "takes turns apart"),
        (_reply(prompt_token_ids=[9] * 7), "7 tokens of pixels, not 8"),
        (_reply(prompt_token_ids=[9] * 9), "9 tokens of pixels, not 8"),
    ],
)
def test_replies_that_are_not_whole_are_refused(body: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_reply(body, ("</answer>",), 8, pad=9)


def test_the_text_of_a_turn_is_that_of_other_engines() -> None:
    assert read_reply(_reply("so<|im_end|>"), (), 0).text == "so"
    cut = _reply("so<|im_end|>", choice={"finish_reason": "length"})
    assert read_reply(cut, (), 0).text == "so<|im_end|>"
    assert read_reply(_reply("so</think>"), (), 0).text == "<think>so</think>"
    assert read_reply(_reply("<think>so</think>"), (), 0).text == "<think>so</think>"
    # The template opened a thought that was never closed.
    assert read_reply(_reply("so", choice={"finish_reason": "length"}), (), 0, "<think>\n").text == "<think>so"


def test_a_thought_that_the_template_opens_goes_back_as_the_template_wrote_it() -> None:
    assert turn_opening({"prompt_text": "a<|im_start|>assistant\n<think>\n"}) == "<think>\n"
    assert turn_opening({"prompt_text": "a<think>b</think><|im_start|>assistant\n"}) == ""
    assert turn_opening({"prompt_text": None}) == ""
    said = Generation((1,), "<think>so</think>", FinishReason.STOP_STRING, 0)
    conversation = (*opening(None), AssistantTurn(said), Message("tool", (TextPart("b"),)))
    (_, _, turn, _) = write_messages(conversation, lambda clip: clip_parts(clip, None), "<think>\n")  # type: ignore[arg-type]
    assert turn == {"role": "assistant", "content": "<think>\nso</think>"}


def test_the_pad_is_the_id_that_fills_the_prompt() -> None:
    assert pixel_pad({"prompt_token_ids": [1, 9, 9, 9, 2, 2]}, 3) == 9
    assert pixel_pad({"prompt_token_ids": [1, 9, 9, 9, 2, 2]}, 4) is None
    assert pixel_pad({"prompt_token_ids": None}, 4) is None
    assert json.dumps(pixel_pad({}, 0)) == "null"
