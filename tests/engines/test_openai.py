"""A server between harness and model: the same tokens as without, and no failure that looks like an answer."""

from __future__ import annotations

import asyncio
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.toy_world import TASK, write_data_root
from vital_eval.chat_server import ChatServer, Patience
from vital_eval.cli.main import main
from vital_eval.clip import Clip
from vital_eval.engine import ContextOverflowError, Engine, EngineInfo, FrameGeometry, GenerationRequest
from vital_eval.engines.hf import load_engine as load_hf
from vital_eval.engines.openai import OpenAIEngine, OpenAIOptions, load_engine
from vital_eval.engines.openai_identity import Identity
from vital_eval.engines.openai_messages import Transport
from vital_eval.engines.openai_server import OpenAIServer
from vital_eval.engines.video_url import pictures_url, read_mp4, read_url, write_mp4
from vital_eval.episode import Attempt, Footage, run_episode
from vital_eval.errors import EngineError, VitalError
from vital_eval.generation import Generation
from vital_eval.nano.render import draw
from vital_eval.nano.world import VideoPlan, World, generator, make_video
from vital_eval.presets import preset
from vital_eval.protocol import Mode, View
from vital_eval.sample import Sample, Target
from vital_eval.span import Span
from vital_eval.task import AnswerKind
from vital_eval.toolbox import GetVideoClipFrame
from vital_eval.trajectory import StopReason, Trajectory

from .fake_server import fake_server
from .tiny import make_clip, opening, request

NANO = Path(str(files("vital_eval.nano") / "checkpoint"))
VIDEO = make_video(VideoPlan(20, 30), generator(World.TEST, 5, 1))
SAMPLE = Sample(
    "one", "charades_sta", "one.mp4", VIDEO.duration, VIDEO.events[1].name, Target((VIDEO.events[1].window,)), "one"
)


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    running = OpenAIServer(load_hf(NANO, "cpu", "float32", cache_bytes=0), port=0)
    running.start()
    yield running
    running.close()


def connect(url: str, **options: Any) -> OpenAIEngine:
    quick = {"attempts": 3, "first_pause": 0.01, "reply_seconds": 60.0}
    return load_engine(options=OpenAIOptions(base_url=url, **(quick | options)))


class Kept:
    """An engine that keeps what it generated."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.written: list[Generation] = []

    @property
    def info(self) -> EngineInfo:
        """As the engine."""
        return self.engine.info

    async def generate(self, request: GenerationRequest) -> Generation:
        """As the engine."""
        self.written.append(await self.engine.generate(request))
        return self.written[-1]

    def release(self, episode: str) -> None:
        """As the engine."""
        self.engine.release(episode)

    async def close(self) -> None:
        """As the engine."""
        await self.engine.close()


async def read(span: Span | None, view: View) -> Clip:
    """Draw frames of the video at true times, as a decoder would give them."""
    span = span or Span(0.0, VIDEO.duration)
    inside = [time for time in VIDEO.frame_times if span.start <= time < span.end]
    chosen = [inside[round(at)] for at in np.linspace(0, len(inside) - 1, min(view.max_frames, len(inside)))]
    side = int(view.max_pixels**0.5)
    pictures = [Image.fromarray(draw(VIDEO.scene, VIDEO.event_at(time), time)) for time in chosen]
    return Clip(np.stack([np.asarray(picture.resize((side, side))) for picture in pictures]), tuple(chosen), span)


async def footage() -> Footage:
    return Footage(VIDEO.duration, VIDEO.frame_times[-1], read)


def play(engine: Engine, mode: Mode) -> tuple[Trajectory, list[Generation]]:
    tools = {"get_video_clip_frame": GetVideoClipFrame()} if mode is Mode.TOOL else {}
    attempt = Attempt(SAMPLE, AnswerKind.SPAN, preset("nano", mode, SAMPLE.task), tools)
    kept = Kept(engine)

    async def whole() -> Trajectory:
        try:
            return await run_episode(attempt, kept, footage)
        finally:
            await kept.close()

    return asyncio.run(whole()), kept.written


@pytest.mark.parametrize("mode", [Mode.DIRECT, Mode.COT, Mode.TOOL])
def test_an_episode_through_a_server_is_the_one_in_process(server: OpenAIServer, mode: Mode) -> None:
    here, local = play(load_hf(NANO, "cpu", "float32"), mode)
    there, remote = play(connect(server.address), mode)
    assert [turn.token_ids for turn in remote] == [turn.token_ids for turn in local]
    for one, other in zip(local, remote, strict=True):
        assert (one.text, one.finish, one.prompt_tokens, one.visual_tokens) == (
            (other.text, other.finish, other.prompt_tokens, other.visual_tokens)
        )
    assert (there.stop, there.answer_text) == (here.stop, here.answer_text)
    assert len(local) == (2 if mode is Mode.TOOL else 1)


def test_a_transport_without_times_changes_what_the_model_says(server: OpenAIServer) -> None:
    with_times, _ = play(connect(server.address), Mode.DIRECT)
    without, _ = play(connect(server.address, transport="video-jpeg"), Mode.DIRECT)
    assert with_times.answer_text != without.answer_text


@pytest.mark.parametrize(("frames", "end"), [(1, 3.0), (2, 3.5), (24, 14.5), (33, 3.0 + 32 * 7 * 1001 / 30000)])
def test_mp4_rgb_keeps_every_pixel_and_time(frames: int, end: float) -> None:
    clip = make_clip(3.0, end, frames, 28, seed=1)
    back = read_mp4(write_mp4(clip))
    assert np.array_equal(back.frames, clip.frames)
    assert back.timestamps == clip.timestamps


def test_without_the_tag_the_container_says_the_rate() -> None:
    clip = make_clip(3.0, 13.5, 8, 28, seed=1)
    data = write_mp4(clip).replace(b'{"seconds"', b'{"sEconds"')
    assert read_mp4(data).timestamps == pytest.approx([index * 1.5 for index in range(8)], abs=1e-9)
    wrong = write_mp4(clip, gap=0.5).replace(b'{"seconds"', b'{"sEconds"')
    assert read_mp4(wrong).timestamps == pytest.approx([index * 0.5 for index in range(8)], abs=1e-9)


def test_pictures_keep_every_pixel_and_lose_the_times() -> None:
    clip = make_clip(3.0, 13.5, 8, 28, seed=1)
    back = read_url(pictures_url(clip))
    assert np.array_equal(back.frames, clip.frames)
    assert back.timestamps == tuple(float(index) for index in range(8))


@pytest.mark.parametrize("url", ["file:///etc/hostname", "http://127.0.0.1/x.mp4", "data:video/mp4;base64,AAAA", ""])
def test_only_whole_videos_inside_the_request_are_read(url: str) -> None:
    with pytest.raises(ValueError, match="video"):
        read_url(url)


def ask(server: OpenAIServer, body: Any) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(server.address + "/chat/completions", data, timeout=60) as reply:  # noqa: S310
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


SAYS_HI = {"role": "user", "content": "hi"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


ODD_SIZE = {"type": "video_url", "video_url": {"url": pictures_url(make_clip(0.0, 4.0, 2, 36, seed=1))}}
HELLO = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 3}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        ([], "JSON object"),
        (HELLO | {"tools": []}, "unsupported: tools"),
        (HELLO | {"n": 2}, "n must be 1"),
        (HELLO | {"max_tokens": True}, "max_tokens has the wrong type"),
        (HELLO | {"top_p": 0.5}, "temperature 0 with top_p"),
        (HELLO | {"model": "other"}, "does not exist"),
        (HELLO | {"messages": []}, "messages must end"),
        (HELLO | {"messages": [{"role": "god", "content": "x"}]}, "role 'god'"),
        (HELLO | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'image_url' is not text"),
        (HELLO | {"messages": [{"role": "user", "content": "x" * 40_000}]}, "context length"),
        (HELLO | {"messages": [{"role": "user", "content": "\ud800"}]}, "half of a character"),
        (HELLO | {"messages": [{"role": "user", "content": "a <|video_pad|>"}]}, "pixels that nobody sent"),
        (HELLO | {"messages": [{"role": "user", "content": [ODD_SIZE]}]}, "multiples of 32"),
        (HELLO | {"messages": [{"role": "user", "content": [text("<|video_"), text("pad|>")]}]}, "nobody sent"),
        (HELLO | {"messages": [SAYS_HI, {"role": "assistant", "content": "<|video_pad|>"}, SAYS_HI]}, "nobody sent"),
        (HELLO | {"temperature": 10**400}, "temperature is too large"),
        (HELLO | {"stop": ["x" * 25]}, "24 bytes"),
    ],
)
def test_what_the_server_cannot_do_is_said(server: OpenAIServer, body: Any, words: str) -> None:
    status, told = ask(server, body)
    assert status == 400
    assert words in told["error"]["message"]


def test_token_ids_and_stop_strings_as_asked(server: OpenAIServer) -> None:
    _, plain = ask(server, HELLO)
    assert "token_ids" not in plain["choices"][0]
    assert plain["usage"]["completion_tokens"] == 3
    assert plain["choices"][0]["finish_reason"] == "length"
    longer = HELLO | {"max_tokens": 40}
    text = ask(server, longer)[1]["choices"][0]["message"]["content"]
    stop = text[len(text) // 2]
    _, kept = ask(server, longer | {"stop": stop, "include_stop_str_in_output": True, "return_token_ids": True})
    _, cut = ask(server, longer | {"stop": [stop]})
    assert kept["choices"][0]["stop_reason"] == stop
    assert kept["choices"][0]["message"]["content"] == cut["choices"][0]["message"]["content"] + stop
    assert len(kept["choices"][0]["token_ids"]) == kept["usage"]["completion_tokens"]


def test_a_prompt_that_is_too_long_is_the_samples_outcome(server: OpenAIServer) -> None:
    async def long() -> None:
        engine = connect_here(server.address)
        try:
            await engine.generate(request(opening(None, "x" * 40_000)))
        finally:
            await engine.close()

    with pytest.raises(ContextOverflowError):
        asyncio.run(long())


def connect_here(url: str, attempts: int = 3) -> OpenAIEngine:
    """Return an engine without the check at the start."""
    chat = ChatServer(url, None, 4, Patience(20.0, attempts, 0.01, 0.05))
    info = EngineInfo("openai", "checkpoint", "f", FrameGeometry(32, 2))
    return OpenAIEngine(chat, info, Identity(chat, {"id": "m", "owned_by": "fake"}), Transport.MP4_RGB, 4)


def reply(prompt_tokens: int, **choice: Any) -> dict[str, Any]:
    said = {"index": 0, "message": {"content": "<answer>1</answer>"}, "finish_reason": "stop", "token_ids": [7, 8]}
    return {"choices": [said | choice], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 2}}


def counted(**usage: Any) -> dict[str, Any]:
    whole = reply(100)
    return whole | {"usage": whole["usage"] | usage}


def generate(url: str, frames: int = 8) -> Generation:
    async def run() -> Generation:
        engine = connect_here(url)
        try:
            return await engine.generate(request(opening(make_clip(0.0, 4.0, frames, 32, seed=1))))
        finally:
            await engine.close()

    return asyncio.run(run())


def test_a_busy_server_is_asked_again() -> None:
    with fake_server(lambda body, before: (503, {}) if before < 2 else (200, reply(100))) as (url, bodies):
        assert generate(url).token_ids == (7, 8)
    assert len(bodies) == 3
    assert bodies[0]["stop"] == ["</answer>"]
    assert bodies[0]["include_stop_str_in_output"] is True


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (503, {}, "http 503"),
        (400, {"error": {"message": "no such option"}}, "no such option"),
        (200, {"choices": []}, "no chat completion"),
        (200, reply(100, token_ids=None), "does not return token ids"),
        (200, reply(100, finish_reason="content_filter"), "content_filter"),
        (200, reply(7), "frames were dropped"),
        (200, reply(100, token_ids=[7, -8]), "does not return token ids"),
        (200, reply(100, token_ids=[7]), "1 token ids, and 2 tokens"),
        (200, reply(100, token_ids=[], message={"content": None}), "0 token ids"),
        (200, reply(100, stop_reason="</answer>", message={"content": "<answer>1"}), "leaves the string"),
        (200, counted(prompt_tokens=10**12), "cannot be"),
        (200, counted(prompt_tokens=100.5), "cannot be"),
        (200, counted(prompt_tokens="100"), "cannot be"),
        (200, counted(prompt_tokens_details={"cached_tokens": -7}), "cannot be"),
        (200, counted(prompt_tokens_details={"cached_tokens": 101}), "cannot be"),
    ],
)
def test_a_reply_that_cannot_be_used_is_no_answer(status: int, body: dict[str, Any], words: str) -> None:
    with fake_server(lambda asked, before: (status, body)) as (url, _), pytest.raises(EngineError, match=words):
        generate(url)


def test_a_server_that_dies_leaves_the_episode_owed() -> None:
    running = OpenAIServer(load_hf(NANO, "cpu", "float32", cache_bytes=0), port=0)
    running.start()
    engine = connect(running.address)
    running.close()
    trajectory, written = play(engine, Mode.DIRECT)
    assert trajectory.stop is StopReason.ENGINE_FAILED
    assert trajectory.answer_text is None
    assert "no connection" in trajectory.error
    assert not written


def counting(most: int, factor: int) -> Any:
    """Return a script that counts tokens as a server would that keeps so many frames at most."""

    def script(body: dict[str, Any], before: int) -> tuple[int, dict[str, Any]]:
        if isinstance(body["messages"][0]["content"], str):
            return 200, reply(20)
        _, height, width, _ = (clip := read_url(body["messages"][0]["content"][0]["video_url"]["url"])).frames.shape
        pairs = -(-min(clip.count, most) // 2)
        return 200, reply(20 + pairs * (height // factor) * (width // factor))

    return script


def test_replies_of_another_model_are_no_answers() -> None:
    def script(body: dict[str, Any], before: int) -> tuple[int, dict[str, Any]]:
        return 200, reply(100) | {"model": "m" if before < 2 else "other"}

    async def run(url: str) -> None:
        engine = connect_here(url)
        turn = request(opening(make_clip(0.0, 4.0, 8, 32, seed=1)))
        for _ in range(2):
            await engine.generate(turn)
        with pytest.raises(EngineError, match="another model than before: 'other', not 'm'"):
            await engine.generate(turn)
        await engine.close()

    with fake_server(script) as (url, _):
        asyncio.run(run(url))


def test_a_server_that_comes_back_with_other_weights_gives_no_answers(tmp_path: Path) -> None:
    other = tmp_path / "checkpoint"
    shutil.copytree(NANO, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, other / "model.safetensors")

    async def run(again: str, words: str | None) -> None:
        running = OpenAIServer(load_hf(NANO, "cpu", "float32", cache_bytes=0), port=0)
        running.start()
        engine = await asyncio.to_thread(connect, running.address, attempts=20, first_pause=0.05)
        port = int(running.address.split(":")[2].split("/")[0])
        turn = request(opening(make_clip(0.0, 4.0, 8, 32, seed=1)))
        await engine.generate(turn)
        await asyncio.to_thread(running.close)
        running = OpenAIServer(load_hf(Path(again), "cpu", "float32", cache_bytes=0), port=port)
        running.start()
        try:
            if words is None:
                await engine.generate(turn)
            else:
                for _ in range(2):
                    with pytest.raises(EngineError, match=words):
                        await engine.generate(turn)
        finally:
            await engine.close()
            await asyncio.to_thread(running.close)

    asyncio.run(run(str(NANO), None))
    asyncio.run(run(str(other), "other weights than before"))


@pytest.mark.parametrize("lasting", [True, False])
def test_what_a_server_lists_is_compared_again_after_a_lost_connection(lasting: bool) -> None:
    listed = {"id": "checkpoint", "root": "/models/one", "created": 1}

    async def run(url: str) -> None:
        engine = connect_here(url)
        engine._identity = Identity(engine._server, listed if lasting else listed | {"root": "/models/two"})
        turn = request(opening(make_clip(0.0, 4.0, 8, 32, seed=1)))
        await engine.generate(turn)  # nothing was lost, so nobody asks
        engine._server.troubles += 1
        if lasting:
            await engine.generate(turn)
        else:
            with pytest.raises(EngineError, match="another model now"):
                await engine.generate(turn)
        await engine.close()

    with fake_server(lambda body, before: (200, reply(100)), models=({**listed, "created": 2},)) as (url, _):
        asyncio.run(run(url))


@pytest.mark.parametrize("plain", ["Nothing moves.", "A video is"])
def test_a_server_that_swallows_stop_strings_is_refused(plain: str) -> None:
    count = counting(10_000, 28)

    def script(body: dict[str, Any], before: int) -> tuple[int, dict[str, Any]]:
        status, said = count(body, before)
        written = plain
        for word in body["stop"]:
            written = written.partition(word)[0].strip()
        said["choices"][0]["message"]["content"] = written
        return status, said

    with fake_server(script) as (url, _), pytest.raises(VitalError, match="out of its text"):
        connect(url)


def test_a_server_that_shows_every_frame_is_taken() -> None:
    with fake_server(counting(10_000, 28)) as (url, _):
        info = connect(url).info
    assert (info.model, info.geometry.spatial_factor, info.details["transport"]) == ("m", 28, "mp4-rgb")
    assert url not in str(info)


@pytest.mark.parametrize(
    ("most", "factor", "words"),
    [(32, 28, "not the model"), (4, 28, "dropped"), (10_000, 32, "spatial factor")],
)
def test_a_server_that_drops_or_resizes_frames_is_refused(most: int, factor: int, words: str) -> None:
    with fake_server(counting(most, factor)) as (url, _), pytest.raises(VitalError) as refused:
        connect(url)
    assert "\n" not in str(refused.value)
    assert words in str(refused.value) or "frames were dropped" in str(refused.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": ""}, "needs the address"),
        ({"base_url": "nonsense"}, "not the address of a server"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "cannot connect"),
        ({"transport": "pigeon"}, "unknown transport"),
        ({"model": "other"}, "has no model 'other'"),
        ({"api_key_env": "VITAL_NO_SUCH_VARIABLE"}, "is not set"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    with fake_server(counting(10_000, 28)) as (url, _), pytest.raises(VitalError, match=words):
        connect(**({"url": url} | {"url" if key == "base_url" else key: value for key, value in options.items()}))


PLUGIN = """
from vital_eval.engines.openai import load_engine

def register(registries):
    registries.engines.add("served", lambda: load_engine)
"""


def test_a_run_over_a_server(server: OpenAIServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    write_data_root(tmp_path, 2)
    arguments = ["run", "--engine", "served", "--plugin", str(tmp_path / "plugin.py"), "--preset", "nano"]
    arguments += ["--tasks", TASK, "--modes", "direct", "--limit", "2", "--data-root", str(tmp_path / "data")]
    arguments += ["--out", str(tmp_path / "run")]
    assert main(arguments) == 1
    assert "--checkpoint is missing" in capsys.readouterr().err
    arguments += ["--base-url", server.address, "--model", "checkpoint", "--transport", "mp4-rgb"]
    assert main(arguments) == 0, capsys.readouterr()
    engine = json.loads((tmp_path / "run" / "manifest.json").read_text())["engine"]
    assert (engine["name"], engine["model"], engine["details"]["transport"]) == ("openai", "checkpoint", "mp4-rgb")
    assert "127.0.0.1" not in json.dumps(engine)
