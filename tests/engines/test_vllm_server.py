"""The openai engine against vLLM's own API server, token for token, and what it must refuse there.

Four servers are started, one after another, each once and always ended: a random Qwen2.5-VL whose template opens a
thought, with the options for MP4 and with those for lists of pictures; vital-nano; and vital-nano with the defaults.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: tox -e vllm")

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Conversation, Message, TextPart, VideoPart, clips_of
from vital_eval.engine import ContextOverflowError, Engine, EngineInfo, GenerationRequest
from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.engines.hf import HFEngine
from vital_eval.engines.hf import load_engine as load_hf
from vital_eval.engines.openai import OpenAIEngine, OpenAIOptions, load_engine
from vital_eval.engines.pixels import patchify
from vital_eval.engines.positions import VisionBlock, mrope_positions
from vital_eval.engines.video_url import frame_gap
from vital_eval.engines.vllm_folder import write_view
from vital_eval.errors import EngineError, VitalError
from vital_eval.generation import FinishReason, Generation
from vital_eval.protocol import Mode, Sampling
from vital_eval.span import Span

from .test_openai import play
from .test_vllm import _requests, _sharpen
from .tiny import make_clip, opening, request, write_checkpoint

MP4 = ("--media-io-kwargs", json.dumps({"video": {"num_frames": -1, "fps": 1000}}))
PICTURES = ("--media-io-kwargs", json.dumps({"video": {"num_frames": -1}}))
#: As on a page of the checkpoint's: what a server would decode by if a request left it open.
OWN_DEFAULTS = {"do_sample": True, "top_k": 1, "min_p": 0.9, "repetition_penalty": 1.8, "temperature": 0.1}


@contextlib.contextmanager
def _serve(folder: Path, log: Path, *options: str) -> Iterator[str]:
    """Run vLLM's server on a checkpoint as long as the context lasts; no process of it is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", folder.name, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--enable-prompt-tokens-details", "--max-num-seqs", "16"]
    command += ["--limit-mm-per-prompt", json.dumps({"video": 8, "image": 64}), *options]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, start_new_session=True)
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 1800
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return
        told = log.read_text(errors="replace")[-2000:]
        assert process.poll() is None, told
        assert time.monotonic() < deadline, told
        time.sleep(0.5)


def _end(process: subprocess.Popen[bytes]) -> None:
    for kind, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        deadline = time.monotonic() + patience
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        while time.monotonic() < deadline:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.2)
    pytest.fail("a process of vLLM's server is left")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL; its template opens a thought, and its own decoding settings are not the protocol's."""
    source = _sharpen(write_checkpoint(tmp_path_factory.mktemp("tiny") / "source", "qwen2_5_vl"))
    template = (source / "chat_template.jinja").read_text()
    end = template.rindex("<|im_start|>assistant\n") + len("<|im_start|>assistant\n")
    template = template[:end] + "<think>\n" + template[end:]
    image = "{% elif part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    parts = template.replace("{% else %}{{ part.text }}", image + "{% else %}{{ part.text }}")
    assert parts != template
    (source / "chat_template.jinja").write_text(parts)
    # The check at the start shows 40 frames, which are more tokens as images.
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 4096
    (source / "config.json").write_text(json.dumps(config))
    own = json.loads((source / "generation_config.json").read_text())
    (source / "generation_config.json").write_text(json.dumps(own | OWN_DEFAULTS))
    return _view(source, tmp_path_factory.mktemp("view") / "tiny")


@pytest.fixture(scope="module")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vital-nano; its template writes a bare pad for a video, as docs/server.md says."""
    with as_file(files("vital_eval.nano") / "checkpoint") as folder:
        view = _view(folder, tmp_path_factory.mktemp("view") / "nano")
        template = (folder / "chat_template.jinja").read_text()
    bare = template.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
    assert bare != template
    (view.parent / "bare.jinja").write_text(bare)
    return view


def _view(source: Path, folder: Path) -> Path:
    folder.mkdir()
    write_view(open_checkpoint(source), folder, 2048)
    return folder


@pytest.fixture(scope="module")
def tiny_server(tiny_folder: Path) -> Iterator[str]:
    with _serve(tiny_folder, tiny_folder.parent / "mp4.log", *MP4) as address:
        yield address


def _connect(address: str, **options: Any) -> OpenAIEngine:
    return load_engine(options=OpenAIOptions(address, **({"attempts": 2, "first_pause": 0.01} | options)))


def _ask(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Generation]:
    async def together() -> list[Generation]:
        try:
            return list(await asyncio.gather(*(engine.generate(entry) for entry in requests)))
        finally:
            await engine.close()

    return asyncio.run(together())


def _essence(generation: Generation) -> tuple[Any, ...]:
    # At the limit, vLLM keeps a character back of which bytes are missing.
    text = generation.text.rstrip("\ufffd")
    return (generation.token_ids, text, generation.finish, generation.prompt_tokens, generation.visual_tokens)


def _as_read(clip: Clip) -> Clip:
    """Return a clip with the times that a server reads off an MP4: the mean rate, counted from zero."""
    gap = float(frame_gap(clip))
    times = tuple(index * gap for index in range(clip.count))
    return Clip(clip.frames, times, Span(0.0, times[-1] + 1e-6))


def _shown_as_read(conversation: Conversation) -> Conversation:
    def part(given: Any) -> Any:
        return VideoPart(_as_read(given.clip)) if isinstance(given, VideoPart) else given

    return tuple(
        Message(entry.role, tuple(map(part, entry.parts))) if isinstance(entry, Message) else entry
        for entry in conversation
    )


SAID = ("It is red</answer>", '<tool_call>{"name": "a", "arguments": {}}</tool_call>', "blue, then 3.00", "no")


def _second(first: GenerationRequest, engine: HFEngine, text: str) -> GenerationRequest:
    """Go on with a turn of plain words and a clip of another rate than the first.

    What a random model says is no text: its bytes make no characters, and would come back as other tokens.
    """
    ids = tuple(engine.parts.tokenizer(text, add_special_tokens=False)["input_ids"])
    said = AssistantTurn(Generation(ids, "<think>" + text, FinishReason.STOP_STRING, 0))
    tool = Message("tool", (VideoPart(make_clip(3.0, 5.0, 7, 28, seed=9)), TextPart("3.00 to 5.00")))
    return dataclasses.replace(first, conversation=(*first.conversation, said, tool))


def test_mp4_equals_the_hf_engine_in_two_turns_under_a_template_that_opens_a_thought(
    tiny_server: str, tiny_folder: Path
) -> None:
    engine = _connect(tiny_server)
    assert engine.info.details["server"] == "vllm"
    first = _requests(28)
    assert {clip.count % 2 for entry in first for clip in clips_of(entry.conversation)} == {0, 1}
    wanted = _ask(load_hf(tiny_folder, "cpu", "float32"), first)
    told = _ask(engine, first)
    assert [_essence(entry) for entry in told] == [_essence(entry) for entry in wanted]
    assert all(entry.text.startswith("<think>") for entry in told)
    assert len({entry.token_ids for entry in wanted}) > 3, "requests that all say the same would prove nothing"
    hf = load_hf(tiny_folder, "cpu", "float32")
    second = [_second(entry, hf, SAID[place % len(SAID)]) for place, entry in enumerate(first)]
    wanted = _ask(hf, second)
    assert [_essence(entry) for entry in _ask(engine, second)] == [_essence(entry) for entry in wanted]
    assert len({entry.token_ids for entry in wanted}) > 3


def test_stop_strings_and_a_full_context_are_told_apart(tiny_server: str, tiny_folder: Path) -> None:
    hf = load_hf(tiny_folder, "cpu", "float32")
    base = _requests(28)[0]
    (free,) = _ask(hf, [base])
    words = [hf.parts.vocabulary.decode(free.token_ids[at : at + 2]) for at in range(2, 18)]
    stop = next(word for word in words if word.isascii() and word.isprintable())
    stopped = dataclasses.replace(base, stop=(stop, "</answer>"))
    (wanted,) = _ask(load_hf(tiny_folder, "cpu", "float32"), [stopped])
    (told,) = _ask(_connect(tiny_server), [stopped])
    assert _essence(told) == _essence(wanted)
    assert told.finish is FinishReason.STOP_STRING
    assert told.text.endswith(stop)
    with pytest.raises(ContextOverflowError):
        _ask(_connect(tiny_server), [request(opening(None, "red " * 6000))])


def test_decoding_settings_of_the_checkpoint_do_not_creep_in(tiny_server: str) -> None:
    warm = Sampling(max_new_tokens=12, temperature=1.0)
    base = _requests(28)[1]
    drawn = _ask(
        _connect(tiny_server),
        [dataclasses.replace(base, sampling=warm, seed=seed, episode=str(seed)) for seed in range(4)],
    )
    # With the server's own top_k of 1 or min_p of 0.9 all would be the same.
    assert len({entry.token_ids for entry in drawn}) == 4


def test_a_turn_ends_without_the_mark_that_ended_it(tiny_server: str) -> None:
    hot = Sampling(max_new_tokens=1500, temperature=1.9)
    base = _requests(28)[1]
    asked = [dataclasses.replace(base, sampling=hot, seed=seed, episode=str(seed)) for seed in range(6)]
    ended = [entry for entry in _ask(_connect(tiny_server), asked) if entry.finish is FinishReason.END_OF_TURN]
    assert ended
    assert not any(entry.text.endswith("<|im_end|>") for entry in ended)
    # Marks elsewhere are part of what was said; other engines keep them too.
    assert any("<|" in entry.text for entry in ended)


def _watched(engine: OpenAIEngine, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    bodies: list[Any] = []
    send = engine._server.send

    async def watch(path: str, body: Any = None) -> Any:
        bodies.append(body)
        return await send(path, body)

    monkeypatch.setattr(engine._server, "send", watch)
    return bodies


def _addresses(body: Any) -> list[str | None]:
    parts = [part for message in body["messages"] for part in message["content"] if isinstance(part, dict)]
    return [part["video_url"] and part["video_url"]["url"] for part in parts if part["type"] == "video_url"]


def test_a_clip_travels_once_and_again_if_it_was_forgotten(
    tiny_server: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, hf = _connect(tiny_server), load_hf(tiny_folder, "cpu", "float32")
    bodies = _watched(engine, monkeypatch)
    first = request(opening(make_clip(0.0, 60.0, 16, 28, 41, rows=4, columns=4)), "long", 8)
    second = _second(first, hf, SAID[1])
    wanted = _ask(hf, [second])

    async def turns() -> tuple[Generation, Generation]:
        await engine.generate(first)
        told = await engine.generate(second)
        for shown in engine._shown["long"].values():
            shown.parts = [part | {"uuid": f"unknown {part['uuid']}"} for part in shown.parts]
        again = await engine.generate(second)
        await engine.close()
        return told, again

    told, again = asyncio.run(turns())
    assert _essence(told) == _essence(again) == _essence(wanted[0])
    assert told.cached_tokens >= 128
    sent = [[address is not None for address in _addresses(body)] for body in bodies]
    assert sent == [[True], [False, True], [False, False], [True, True]]


def test_images_equal_the_model_given_images(tiny_server: str, tiny_folder: Path) -> None:
    engine = _connect(tiny_server, transport="images")
    clip = make_clip(0.0, 60.0, 5, 28, 1)
    asked = request(opening(clip), tokens=8)
    reply = asyncio.run(_raw(engine, asked))
    (told,) = _ask(_connect(tiny_server, transport="images"), [asked])
    assert told.visual_tokens == 5 * 2
    hf = load_hf(tiny_folder, "cpu", "float32")
    settings = hf.parts.checkpoint.pixels
    still = [Clip(frame[None], (0.0,), Span(0.0, 1.0)) for frame in clip.frames]
    patches, grids = zip(*(patchify(frame, settings) for frame in still), strict=True)
    ids = list(reply["prompt_token_ids"])
    pad = hf.parts.model.config.image_token_id
    written: list[int] = []
    with torch.inference_mode():
        for _ in range(8):
            array = torch.tensor(ids + written)
            blocks = [VisionBlock((1, h // settings.merge, w // settings.merge), 1.0) for _, h, w in grids]
            logits = hf.parts.model(
                input_ids=array[None],
                position_ids=torch.from_numpy(mrope_positions((array == pad).numpy(), blocks))[:, None],
                pixel_values=torch.cat([torch.from_numpy(patch) for patch in patches]),
                image_grid_thw=torch.tensor(grids),
            ).logits[0, -1]
            logits[list(hf.parts.vocabulary.banned_ids)] = -torch.inf
            written.append(int(logits.argmax()))
    assert list(told.token_ids) == written
    asyncio.run(hf.close())


async def _raw(engine: OpenAIEngine, asked: GenerationRequest) -> dict[str, Any]:
    try:
        return await engine.post(asked)
    finally:
        await engine.close()


def test_more_frames_a_second_than_the_server_reads_are_an_error(tiny_server: str) -> None:
    fast = request(opening(make_clip(0.0, 0.5, 32, 28, 3)))
    with pytest.raises(EngineError, match="frames were dropped"):
        _ask(_connect(tiny_server), [fast])


def test_pictures_equal_the_hf_engine_and_mp4_is_refused_where_it_would_be_thinned(tiny_folder: Path) -> None:
    with _serve(tiny_folder, tiny_folder.parent / "pictures.log", *PICTURES) as address:
        told = _ask(_connect(address, transport="video-jpeg"), _requests(28))
        with pytest.raises(VitalError) as refused:
            _connect(address)
    assert "frames" in str(refused.value)
    assert "docs/server.md" in str(refused.value)
    assert "\n" not in str(refused.value)

    def a_second(part: Any) -> Any:
        if not isinstance(part, VideoPart):
            return part
        frames = part.clip.frames
        return VideoPart(Clip(frames, tuple(float(index) for index in range(len(frames))), Span(0.0, len(frames))))

    read = [
        dataclasses.replace(
            entry,
            conversation=tuple(
                Message(message.role, tuple(map(a_second, message.parts)))
                for message in entry.conversation
                if isinstance(message, Message)
            ),
        )
        for entry in _requests(28)
    ]
    wanted = _ask(load_hf(tiny_folder, "cpu", "float32"), read)
    assert [_essence(entry) for entry in told] == [_essence(entry) for entry in wanted]


class _ReadsLikeAServer:
    """The hf engine, shown clips with the times that a server reads off them."""

    def __init__(self, engine: HFEngine) -> None:
        self._engine = engine

    @property
    def info(self) -> EngineInfo:
        """As the engine."""
        return self._engine.info

    async def generate(self, asked: GenerationRequest) -> Generation:
        """Write a turn."""
        return await self._engine.generate(
            dataclasses.replace(asked, conversation=_shown_as_read(asked.conversation), episode=f"{asked.seed}")
        )

    def release(self, episode: str) -> None:
        """Nothing is kept: every turn is computed in full."""

    async def close(self) -> None:
        """As the engine."""
        await self._engine.close()


def test_nano_plays_whole_episodes_as_the_hf_engine_does(nano_folder: Path) -> None:
    options = ("--mm-processor-kwargs", '{"do_sample_frames": false}', "--generation-config", "vllm")
    template = ("--chat-template", str(nano_folder.parent / "bare.jinja"))
    with _serve(nano_folder, nano_folder.parent / "nano.log", *MP4, *options, *template) as address:
        with pytest.raises(VitalError, match=r"server\.md"):
            _connect(address)  # takes the spatial factor of the other family
        for mode in (Mode.DIRECT, Mode.COT, Mode.TOOL):
            here, local = play(_ReadsLikeAServer(load_hf(nano_folder, "cpu", "float32")), mode)
            there, remote = play(_connect(address, spatial_factor=32), mode)
            assert [_essence(entry) for entry in remote] == [_essence(entry) for entry in local], mode
            assert (there.stop, there.answer_text) == (here.stop, here.answer_text)
        assert "<tool_call>" in remote[0].text
        assert len(remote) == 2


def test_a_server_with_its_own_defaults_is_refused(nano_folder: Path) -> None:
    with _serve(nano_folder, nano_folder.parent / "wrong.log", "--generation-config", "vllm") as address:
        for transport in ("mp4-rgb", "video-jpeg"):
            with pytest.raises(VitalError, match="frames"):
                _connect(address, transport=transport, spatial_factor=32)
