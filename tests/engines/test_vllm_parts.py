"""The parts of the vllm engine that need no vLLM: what it is told, what it is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vital_eval.cli.engine_options import with_options
from vital_eval.clip import Clip
from vital_eval.conversation import Message, TextPart, VideoPart
from vital_eval.engines.background_loop import BackgroundLoop
from vital_eval.engines.checkpoint import Checkpoint, open_checkpoint
from vital_eval.engines.encode import Encoder
from vital_eval.engines.tokens import load_tokenizer, make_encoder
from vital_eval.engines.vllm_folder import processor_settings, write_view
from vital_eval.engines.vllm_guard import MARK, end_marked, marked
from vital_eval.engines.vllm_inputs import video_input
from vital_eval.engines.vllm_start import cause_in
from vital_eval.engines.vllm_weights import check_weights, write_weights
from vital_eval.errors import CheckpointError, MissingExtraError, VitalError
from vital_eval.registry import Registry

from .tiny import make_clip, opening, turn, write_checkpoint

FAMILIES = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_checkpoint(tmp_path_factory.mktemp("tiny") / request.param, request.param))


def _encoder(checkpoint: Checkpoint) -> Encoder:
    return make_encoder(checkpoint, load_tokenizer(checkpoint.folder))


def _factor(checkpoint: Checkpoint) -> int:
    return checkpoint.pixels.patch * checkpoint.pixels.merge


def test_without_vllm_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delitem(sys.modules, "vital_eval.engines.vllm", raising=False)
    engines = Registry("engine")
    if "vllm" not in engines.names():  # an editable installation may know older entry points only
        point = importlib.metadata.EntryPoint("vllm", "vital_eval.engines.vllm:load_engine", "vital_eval.engines")
        engines.add("vllm", point.load)
    with pytest.raises(MissingExtraError) as caught:
        engines.load("vllm")
    assert "engine 'vllm' needs the module 'vllm'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_short_prompt_is_the_long_one_with_one_pad_a_clip(checkpoint: Checkpoint) -> None:
    encoder, factor = _encoder(checkpoint), _factor(checkpoint)
    tool = Message("tool", (VideoPart(make_clip(3.0, 5.0, 7, factor, 2, rows=2)), TextPart("3.00 to 5.00")))
    conversation = (*opening(make_clip(0.0, 30.0, 8, factor, 1)), turn((300, 301)), tool)
    prompt = encoder.prompt(conversation)
    encoded = encoder.encode(conversation)
    assert list(prompt.ids) == encoded.ids.tolist()
    assert prompt.visual_tokens == int(encoded.is_visual.sum()) > 2
    assert prompt.short.count(encoder.video_id) == 2
    text = encoder.tokenizer.decode(list(prompt.short))  # type: ignore[attr-defined]
    assert ("<|vision_start|>" in text) == (checkpoint.model_type == "qwen2_5_vl")
    assert prompt.short[-8:] == prompt.ids[-8:]


@pytest.mark.parametrize("frames", [1, 6, 7])
def test_metadata_say_the_true_times(checkpoint: Checkpoint, frames: int) -> None:
    # Not on a grid: 30 frames a second, every fourth one or so.
    times = tuple(4.0 + round(index * 4.3) / 30 for index in range(frames))
    factor = _factor(checkpoint)
    clip = Clip(np.zeros((frames, factor, factor, 3), dtype=np.uint8), times, make_clip(4.0, 9.0, 2, factor, 0).span)
    pixels, metadata = video_input(clip, checkpoint)
    assert len(pixels) == len(metadata["frames_indices"]) == metadata["total_num_frames"] == frames + frames % 2
    assert metadata["do_sample_frames"] is False
    if checkpoint.model_type == "qwen3_vl":
        read = [index / metadata["fps"] for index in metadata["frames_indices"]]
        assert read[:frames] == list(times)
        assert read[-1] == times[-1]
    elif frames > 1:
        # As the processor does it: sampled rate, then seconds per patch as float32.
        sampled = len(metadata["frames_indices"]) / metadata["total_num_frames"] * metadata["fps"]
        seconds = float(np.float32(2 / sampled))
        assert math.isclose(seconds, 2 * (times[-1] - times[0]) / (frames - 1), rel_tol=1e-6)
        assert seconds == float(np.float32(2 * (times[-1] - times[0]) / (frames - 1)))


def test_steps_are_those_of_the_processors_at_every_rate(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "tiny", "qwen2_5_vl"))
    encoder, moved = _encoder(checkpoint), 0
    for tenths in range(1, 60):
        step = tenths / 10
        clip = make_clip(0.0, 59 * step / 2, 60, 28, 0, columns=1)
        _, metadata = video_input(clip, checkpoint)
        theirs = (np.arange(30) * (float(np.float32(2 / metadata["fps"])) * 2)).astype(np.int64)
        encoded = encoder.encode(opening(clip))
        ours = encoded.positions[1, encoded.is_visual]
        assert np.array_equal(ours - ours[0], theirs), step
        moved += int(not np.array_equal(theirs, np.floor(np.arange(30) * (2 * step)).astype(np.int64)))
    assert moved, "rounding to float32 must matter at some rate, or the test proves nothing"


def test_view_links_the_checkpoint_and_settles_the_processor(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (checkpoint.folder / "processor_config.json").write_text('{"do_sample_frames": true}')
    try:
        write_view(checkpoint, tmp_path, 100)
    finally:
        (checkpoint.folder / "processor_config.json").unlink()
    assert (tmp_path / "model.safetensors").samefile(checkpoint.folder / "model.safetensors")
    assert not (tmp_path / "processor_config.json").exists()
    video = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert video == processor_settings(checkpoint, 100)["video_preprocessor_config.json"]
    assert (video["do_sample_frames"], video["do_resize"]) == (False, False)
    assert open_checkpoint(tmp_path).pixels == checkpoint.pixels


def test_weights_are_checked_tensor_for_tensor(checkpoint: Checkpoint) -> None:
    weights = load_file(checkpoint.folder / "model.safetensors")
    check_weights(weights, checkpoint)
    in_memory = {f"model.language_model.{name.removeprefix('model.')}": value for name, value in weights.items()}
    if checkpoint.model_type == "qwen2_5_vl":
        visual = {f"model.{name}": value for name, value in weights.items() if name.startswith("visual.")}
        check_weights({k: v for k, v in in_memory.items() if ".visual." not in k} | visual, checkpoint)
    name = next(iter(weights))
    with pytest.raises(CheckpointError, match="lack 1 of the model's tensors"):
        check_weights({key: value for key, value in weights.items() if key != name}, checkpoint)
    with pytest.raises(CheckpointError, match="does not have"):
        check_weights({**weights, "model.extra.weight": torch.zeros(1)}, checkpoint)
    with pytest.raises(CheckpointError, match="of shape"):
        check_weights({**weights, name: torch.zeros(3, 5)}, checkpoint)


def test_written_weights_are_read_back_and_go_away(checkpoint: Checkpoint) -> None:
    weights = load_file(checkpoint.folder / "model.safetensors")
    embedding = next(value for name, value in weights.items() if "embed_tokens" in name)
    # As a state dict has it: the tied head is the embedding itself, and another tensor is a view.
    name = next(name for name, value in weights.items() if value.ndim == 2 and value.shape[0] == value.shape[1])
    weights[name] = weights[name].T
    folder = write_weights({**weights, "lm_head.weight": embedding}, checkpoint)
    read = load_file(Path(folder.name) / "model.safetensors")
    assert read.keys() == weights.keys()
    assert torch.equal(read[name], weights[name])
    folder.cleanup()
    assert not Path(folder.name).exists()


def test_background_loop_cancels_what_runs_and_ends() -> None:
    loop, seen = BackgroundLoop("test"), []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("ended")

    async def answer() -> int:
        return 7

    pending = loop.submit(wait())
    assert loop.submit(answer()).result(5) == 7
    loop.stop()
    loop.stop()
    assert pending.cancelled()
    assert seen == ["ended"]
    with pytest.raises(RuntimeError):
        loop.submit(answer())


def test_the_cause_of_a_failed_start_is_the_first_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "(EngineCore) WARNING 11-23 [x.py:1] ImportError: of no account\n"
        "(Worker) ERROR 11-23 [y.py:2] ValueError: Following weights were not initialized: {'a'}\n"
        "Exception: WorkerProc initialization failed due to an exception in a background process.\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert cause_in(log) == "ValueError: Following weights were not initialized: {'a'}"
    assert cause_in(tmp_path / "none") == ""


@dataclasses.dataclass(frozen=True)
class _Options:
    """Of a made-up engine."""

    gpus: int = 1
    share: float | None = None
    eager: bool = False


def _factory(checkpoint: Path, options: _Options | None = None) -> _Options:
    return options or _Options()


def test_engine_options_are_read_by_their_types() -> None:
    made = with_options(_factory, "made-up", ["gpus=2", "share = 0.5", "eager=true"])(Path())
    assert made == _Options(2, 0.5, True)
    assert with_options(_factory, "made-up", [])(Path()) == _Options()


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["gpu=2"], "has no option 'gpu'; did you mean gpus"),
        (["gpus=two"], "must be a whole number, not 'two'"),
        (["eager=perhaps"], "must be true or false"),
        (["gpus"], "has no value"),
        (["gpus=1", "gpus=2"], "given twice"),
    ],
)
def test_wrong_engine_options_are_one_line(texts: list[str], said: str) -> None:
    with pytest.raises(VitalError, match=said):
        with_options(_factory, "made-up", texts)


def test_an_engine_without_options_says_so() -> None:
    with pytest.raises(VitalError, match="no options of its own"):
        with_options(lambda checkpoint: None, "plain", ["a=1"])


def test_vllm_is_loaded_by_nothing_else() -> None:
    for module in ("vital_eval.engines.vllm_folder", "vital_eval.engines.vllm_inputs", "vital_eval.engines.tokens"):
        importlib.import_module(module)
    if "vital_eval.engines.vllm" not in sys.modules:
        assert "vllm" not in sys.modules


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM runs on Linux only")
@pytest.mark.parametrize("ended", ["closed", "killed"])
def test_guard_ends_what_carries_the_mark_and_nothing_else(ended: str) -> None:
    mark = f"test-{os.getpid()}-{ended}"
    sleeper = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    # Grandchildren carry the mark too; the one that guards is killed, or ends its guard by itself.
    script = (
        "import os, subprocess, sys, time\n"
        "from vital_eval.engines.vllm_guard import MARK, Guard\n"
        f"guard = Guard({mark!r})\n"
        f"subprocess.Popen([sys.executable, '-c', {sleeper!r}], env=os.environ | {{MARK: {mark!r}}})\n"
        "print('up', flush=True)\n"
        "sys.stdin.readline()\n"
        "guard.end(0.2)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=os.environ | {MARK: mark + "x"})
    owner = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        _wait(lambda: len(marked(mark)) == 2)
        if ended == "killed":
            owner.kill()
        owner.communicate(b"\n")
        _wait(lambda: not marked(mark))
        assert other.poll() is None
        assert marked(mark + "x") == (other.pid,)
    finally:
        other.kill()
        other.wait()
        end_marked(mark)


def _wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
