"""The vllm engine against the hf engine, token for token, and controls that show the tests can fail.

Two engines are started once: for a random Qwen2.5-VL whose words depend strongly on positions, and for vital-nano.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("vllm", reason="vLLM is not installed: tox -e vllm")

import psutil

from tests.timeless import timeless
from vital_eval.clip import Clip
from vital_eval.conversation import Conversation, Message, TextPart, VideoPart
from vital_eval.data_root import read_task
from vital_eval.engine import ContextOverflowError, Engine, GenerationRequest
from vital_eval.engines.hf import load_engine as load_hf
from vital_eval.engines.vllm import VllmEngine, VllmOptions, load_engine
from vital_eval.errors import CheckpointError, EngineError, VitalError
from vital_eval.generation import FinishReason, Generation
from vital_eval.nano.formats import write_world
from vital_eval.plan import RunPlan, TaskPlan, make_manifest, make_plan
from vital_eval.presets import preset
from vital_eval.protocol import Mode, Sampling
from vital_eval.record import Record
from vital_eval.registry import Registries
from vital_eval.run_log import RunLog, read_run
from vital_eval.runner import Settings, run
from vital_eval.span import Span

from .tiny import make_clip, opening, request, turn, write_checkpoint

SMALL = VllmOptions(kv_cache_gib=0.25, enforce_eager=True)
WORLD_TASKS = ("charades_sta", "mmvu", "vidchapters")


def _sharpen(folder: Path) -> Path:
    """Enlarge what text makes of itself and of videos: a random model would say one word whatever it sees."""
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        written = "proj" in name and "visual" not in name and "q_proj" not in name and "k_proj" not in name
        if name.endswith("weight") and (written or "merger" in name):
            weights[name] = value * 4
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _sharpen(write_checkpoint(tmp_path_factory.mktemp("tiny") / "qwen2_5_vl", "qwen2_5_vl"))


@pytest.fixture(scope="module")
def nano_folder() -> Iterator[Path]:
    with as_file(files("vital_eval.nano") / "checkpoint") as folder:
        yield folder


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Iterator[VllmEngine]:
    engine = load_engine(tiny_folder, "cpu", "float32", 16, SMALL)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="module")
def nano(nano_folder: Path) -> Iterator[VllmEngine]:
    engine = load_engine(nano_folder, "cpu", "float32", 16, SMALL)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(params=["tiny", "nano"])
def pair(request: pytest.FixtureRequest) -> tuple[VllmEngine, Path]:
    return request.getfixturevalue(request.param), request.getfixturevalue(f"{request.param}_folder")


def _ask(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Generation]:
    async def together() -> list[Generation]:
        return list(await asyncio.gather(*(engine.generate(entry) for entry in requests)))

    return asyncio.run(together())


def _ask_hf(folder: Path, requests: Sequence[GenerationRequest], weights: dict[str, Any] | None = None) -> Any:
    async def together() -> list[Generation]:
        engine = load_hf(folder, "cpu", "float32", 16)
        if weights is not None:
            await engine.load_weights(weights)
        try:
            return list(await asyncio.gather(*(engine.generate(entry) for entry in requests)))
        finally:
            await engine.close()

    return asyncio.run(together())


def _requests(factor: int, tokens: int = 20) -> list[GenerationRequest]:
    irregular = make_clip(2.0, 2.9, 4, factor, 5)
    irregular = Clip(irregular.frames, (2.0, 2.3667, 2.4, 2.9), Span(2.0, 3.0))
    return [
        request(opening(make_clip(0.0, 60.0, 12, factor, 1)), "a", tokens),
        request(opening(None, "How many shapes are seen?"), "b", tokens),
        request(opening(make_clip(0.0, 3.0, 3, factor, 2, rows=2), "Describe."), "c", tokens),
        request(opening(make_clip(10.0, 11.0, 1, factor, 3)), "d", tokens),
        request(opening(make_clip(0.0, 12 * 0.35, 13, factor, 4), "When: red"), "e", tokens),
        request(opening(irregular), "f", tokens),
    ]


def _second(first: GenerationRequest, said: Generation, factor: int, seed: int = 9) -> GenerationRequest:
    """Go on with a clip of another rate than the first."""
    tool = Message("tool", (VideoPart(make_clip(3.0, 5.0, 6, factor, seed)), TextPart("3.00 to 5.00")))
    conversation: Conversation = (*first.conversation, turn(said.token_ids), tool)
    return dataclasses.replace(first, conversation=conversation)


def _factor(engine: Engine) -> int:
    return engine.info.geometry.spatial_factor


def _essence(generation: Generation) -> tuple[Any, ...]:
    """Return everything that must be equal; cached tokens and times are each engine's own."""
    return dataclasses.astuple(dataclasses.replace(timeless(generation), cached_tokens=0))


def test_one_and_two_turns_equal_the_hf_engine_single_and_batched(pair: tuple[VllmEngine, Path]) -> None:
    engine, folder = pair
    first = _requests(_factor(engine))
    wanted = _ask_hf(folder, first)
    together = _ask(engine, first)
    assert [_essence(entry) for entry in together] == [_essence(entry) for entry in wanted]
    assert [_essence(_ask(engine, [entry])[0]) for entry in first] == [_essence(entry) for entry in wanted]
    assert len({entry.token_ids for entry in wanted}) > 3, "requests that all say the same would prove nothing"
    second = [_second(entry, said, _factor(engine)) for entry, said in zip(first, wanted, strict=True)]
    wanted = _ask_hf(folder, second)
    assert [_essence(entry) for entry in _ask(engine, second)] == [_essence(entry) for entry in wanted]
    assert len({entry.token_ids for entry in wanted}) > 3


def test_other_times_of_the_same_frames_give_other_tokens(pair: tuple[VllmEngine, Path]) -> None:
    engine, folder = pair
    frames = make_clip(0.0, 60.0, 12, _factor(engine), 1).frames
    slow, fast = (
        request(opening(Clip(frames, tuple(step * index for index in range(12)), Span(0.0, 12 * step))), str(step), 20)
        for step in (5.0, 0.5)
    )
    told = _ask(engine, [slow, fast])
    assert told[0].token_ids != told[1].token_ids, "times must reach the model"
    # The same frames came before: a cache that forgot the times would answer like the first.
    assert [entry.token_ids for entry in told] == [entry.token_ids for entry in _ask_hf(folder, [slow, fast])]


def test_log_probabilities_are_close_to_the_hf_model(pair: tuple[VllmEngine, Path]) -> None:
    from vllm import SamplingParams

    engine, folder = pair
    ask = _requests(_factor(engine))[0]
    prompt, videos = engine._prepare(ask)

    async def sample() -> Any:
        given = {"prompt_token_ids": list(prompt.short), "multi_modal_data": {"video": videos}}
        (rendered,) = await engine._core.renderer.render_cmpl_async([given])
        async for output in engine._core.generate(
            rendered, SamplingParams(temperature=0, max_tokens=8, logprobs=0), "p"
        ):
            last = output
        return last.outputs[0]

    written = asyncio.run(engine._in_loop(sample()))
    theirs = torch.tensor(
        [step[token].logprob for token, step in zip(written.token_ids, written.logprobs, strict=True)]
    )
    hf = load_hf(folder, "cpu", "float32")
    encoded = hf.parts.encoder.encode((*ask.conversation, turn(tuple(written.token_ids))), open_turn=False)
    with torch.inference_mode():
        logits = hf.parts.model(
            input_ids=torch.from_numpy(encoded.ids)[None],
            position_ids=torch.from_numpy(encoded.positions)[:, None],
            pixel_values_videos=torch.from_numpy(encoded.patches),
            video_grid_thw=torch.tensor(encoded.grids),
        ).logits[0]
    places = torch.arange(len(encoded.ids) - len(written.token_ids), len(encoded.ids))
    ours = logits[places - 1].log_softmax(-1)[torch.arange(len(places)), torch.tensor(written.token_ids)]
    assert float((ours - theirs).abs().max()) < 1e-3
    # Control: one place further, the same tokens are not the model's own.
    moved = logits[places].log_softmax(-1)[torch.arange(len(places)), torch.tensor(written.token_ids)]
    assert float((moved - theirs).abs().max()) > 0.1


def test_second_turn_computes_and_sends_only_what_is_new(tiny: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    factor, sent = _factor(tiny), []
    render = tiny._core.renderer.render_cmpl_async

    async def watch(prompts: Any, *arguments: Any, **named: Any) -> Any:
        rendered = await render(prompts, *arguments, **named)
        sent.append([item is not None for item in rendered[0].get("mm_kwargs", {}).get("video", [])])
        return rendered

    monkeypatch.setattr(tiny._core.renderer, "render_cmpl_async", watch)
    first = request(opening(make_clip(0.0, 60.0, 16, factor, 21, rows=4, columns=4)), "long", 8)
    said = _ask(tiny, [first])[0]
    second = _second(first, said, factor, seed=22)
    later = _ask(tiny, [second])[0]
    assert sent == [[True], [False, True]]
    ids = tiny._prepare(second)[0].ids
    pad = tiny._parts.encoder.video_id
    end_of_first_clip = [index for index in range(said.prompt_tokens) if ids[index] == pad][-1]
    # vLLM encodes the clips whose pads lie beyond what it has cached.
    assert said.cached_tokens == 0
    assert end_of_first_clip - 128 < later.cached_tokens <= said.prompt_tokens + len(said.token_ids)
    assert later.prompt_tokens > said.prompt_tokens + len(said.token_ids)


def _waits(told: Generation) -> tuple[float, float]:
    return told.queue_seconds or 0.0, told.prefill_seconds or 0.0


def test_times_tell_waiting_prefill_and_writing_apart(tiny: VllmEngine) -> None:
    asked = [dataclasses.replace(entry, episode=f"t{n}") for n, entry in enumerate(_requests(_factor(tiny)) * 3)]
    told = _ask(tiny, asked)
    for entry in told:
        assert entry.queue_seconds is not None
        assert entry.prefill_seconds is not None
        assert entry.queue_seconds > 0
        assert entry.prefill_seconds > 0
        assert entry.queue_seconds + entry.prefill_seconds < entry.seconds
    # More than it writes at a time: the last ones were taken up when the first had ended.
    assert len(told) > 16
    assert max(waited for waited, _ in map(_waits, told)) > min(waited + read for waited, read in map(_waits, told))


def test_draws_follow_the_seed_and_nothing_else(tiny: VllmEngine) -> None:
    warm = Sampling(max_new_tokens=12, temperature=1.0, top_p=0.9)
    base = _requests(_factor(tiny))[0]
    asked = [dataclasses.replace(base, sampling=warm, seed=seed, episode=str(n)) for n, seed in enumerate((1, 2, 1))]
    one, two, again = _ask(tiny, asked)
    assert one.token_ids == again.token_ids
    assert one.token_ids != two.token_ids
    assert _ask(tiny, asked[1:2])[0].token_ids == two.token_ids
    with pytest.raises(EngineError, match="refuses the decoding settings"):
        _ask(tiny, [dataclasses.replace(base, sampling=Sampling(temperature=3.0))])
    with pytest.raises(EngineError, match=r"0\.005"):
        _ask(tiny, [dataclasses.replace(base, sampling=Sampling(temperature=0.005))])


def test_repetition_penalty_equals_the_hf_engine(tiny: VllmEngine, tiny_folder: Path) -> None:
    strong = Sampling(max_new_tokens=20, repetition_penalty=1.3)
    asked = [dataclasses.replace(entry, sampling=strong) for entry in _requests(_factor(tiny))]
    wanted = _ask_hf(tiny_folder, asked)
    assert [entry.token_ids for entry in _ask(tiny, asked)] == [entry.token_ids for entry in wanted]
    free = _ask(tiny, _requests(_factor(tiny)))
    assert [entry.token_ids for entry in free] != [entry.token_ids for entry in wanted], "it must matter"


def test_stop_strings_and_limits_end_the_turn_as_in_the_hf_engine(tiny: VllmEngine, tiny_folder: Path) -> None:
    base = _requests(_factor(tiny))[0]
    free = _ask(tiny, [base])[0]
    decode = tiny._parts.vocabulary.decode
    stop = decode(free.token_ids[4:6])
    stopped = dataclasses.replace(base, stop=(stop, "</answer>"))
    ended, wanted = _ask(tiny, [stopped])[0], _ask_hf(tiny_folder, [stopped])[0]
    assert _essence(ended) == _essence(wanted)
    assert ended.finish is FinishReason.STOP_STRING
    assert ended.text.endswith(stop)
    assert len(ended.token_ids) < len(free.token_ids)
    assert free.finish is FinishReason.LENGTH


def test_prompt_beyond_the_context_is_an_outcome_and_the_turn_ends_with_it(tiny: VllmEngine, tiny_folder: Path) -> None:
    with pytest.raises(ContextOverflowError):
        _ask(tiny, [request(opening(None, "red " * 3000))])
    close = request(opening(None, "red " * 1980), tokens=500)
    ended, wanted = _ask(tiny, [close])[0], _ask_hf(tiny_folder, [close])[0]
    assert _essence(ended) == _essence(wanted)
    assert ended.prompt_tokens + len(ended.token_ids) == 2048
    assert ended.finish is FinishReason.LENGTH


def test_a_request_that_cannot_run_fails_alone(tiny: VllmEngine) -> None:
    async def ask() -> list[Generation | BaseException]:
        bad = request(opening(None, "a <|video_pad|> b"), "bad")
        odd = make_clip(0.0, 3.0, 4, 20, 1)
        good = request(opening(None), "good", 3)
        asked = (good, bad, request(opening(odd), "odd"))
        return list(await asyncio.gather(*(tiny.generate(entry) for entry in asked), return_exceptions=True))

    good, bad, odd = asyncio.run(ask())
    assert isinstance(good, Generation)
    assert isinstance(bad, EngineError)
    assert isinstance(odd, EngineError)
    assert "multiples of 28" in str(odd)


def test_a_prompt_that_vllm_would_read_otherwise_is_refused(tiny: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = tiny._prepare

    def other(entry: GenerationRequest) -> Any:
        prompt, videos = prepare(entry)
        return dataclasses.replace(prompt, ids=(*prompt.ids[:-1], 7)), videos

    monkeypatch.setattr(tiny, "_prepare", other)
    with pytest.raises(EngineError, match="not the"):
        _ask(tiny, [request(opening(None))])


def test_a_request_given_up_leaves_nothing_behind(tiny: VllmEngine) -> None:
    async def give_up() -> list[BaseException | Generation]:
        tasks = await _busy(tiny)
        for task in tasks:
            task.cancel()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    given_up = asyncio.run(give_up())
    assert any(isinstance(entry, asyncio.CancelledError) for entry in given_up)
    deadline = time.monotonic() + 10
    while tiny._core.get_num_unfinished_requests() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tiny._core.get_num_unfinished_requests() == tiny._under_way == 0
    assert _ask(tiny, [request(opening(None), "next", 3)])[0].token_ids


async def _busy(engine: VllmEngine) -> list[asyncio.Task[Generation]]:
    """Have the engine write long turns, and return once it does."""
    hot = dataclasses.replace(request(opening(None), tokens=900), sampling=Sampling(900, temperature=2.0))
    asked = [dataclasses.replace(hot, seed=seed, episode=f"busy{seed}") for seed in range(4)]
    tasks = [asyncio.create_task(engine.generate(entry)) for entry in asked]
    while not engine._core.get_num_unfinished_requests():
        assert not all(task.done() for task in tasks), [task.exception() or task.result() for task in tasks]
        await asyncio.sleep(0.01)
    return tasks


def _parameters(folder: Path, kind: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Return weights as a trainer has them: by their names in memory."""
    model = load_hf(folder, "cpu", "float32").parts.model
    return {name: value.detach().to(kind) for name, value in model.named_parameters()}


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_new_weights_speak_and_old_ones_are_forgotten(
    pair: tuple[VllmEngine, Path], kind: torch.dtype, tmp_path: Path
) -> None:
    engine, folder = pair
    own = _parameters(folder)
    generator = torch.Generator().manual_seed(3)
    moved = {
        name: (value * (1 + 0.3 * torch.randn(value.shape, generator=generator))).to(kind)
        for name, value in own.items()
    }
    asked = _requests(_factor(engine))
    # Long enough that its keys and values are cached, and its frames encoded.
    asked.append(request(opening(make_clip(0.0, 60.0, 16, _factor(engine), 31, rows=4, columns=4)), "long", 20))
    old = _ask_hf(folder, asked)
    new = _ask_hf(folder, asked, {name: value.float() for name, value in moved.items()})
    assert [entry.token_ids for entry in old] != [entry.token_ids for entry in new]
    assert sum(one.token_ids != other.token_ids for one, other in zip(old, new, strict=True)) >= 3
    before = asyncio.run(engine.weights_fingerprint())
    assert [entry.token_ids for entry in _ask(engine, asked)] == [entry.token_ids for entry in old]
    assert _ask(engine, asked[-1:])[0].cached_tokens > 0
    asyncio.run(engine.load_weights(moved))
    told = _ask(engine, asked[-1:])[0]
    assert told.cached_tokens == 0, "keys and values of the old weights must not be used"
    assert told.token_ids == new[-1].token_ids
    assert [entry.token_ids for entry in _ask(engine, asked)] == [entry.token_ids for entry in new]
    assert asyncio.run(engine.weights_fingerprint()) != before
    asyncio.run(engine.load_weights(own))
    assert asyncio.run(engine.weights_fingerprint()) == before
    assert [entry.token_ids for entry in _ask(engine, asked)] == [entry.token_ids for entry in old]


def test_only_the_vision_tower_changes_and_is_seen_again(tiny: VllmEngine, tiny_folder: Path) -> None:
    own = _parameters(tiny_folder)
    moved = {name: value * 3 if "visual.merger" in name else value for name, value in own.items()}
    ask = _requests(_factor(tiny))[:1]
    new = _ask_hf(tiny_folder, ask, moved)
    old = _ask(tiny, ask)
    assert old[0].token_ids != new[0].token_ids
    asyncio.run(tiny.load_weights(moved))
    # The frames are those of before: features kept from the old tower would say what it said.
    assert _ask(tiny, ask)[0].token_ids == new[0].token_ids
    asyncio.run(tiny.load_weights(own))
    assert _ask(tiny, ask)[0].token_ids == old[0].token_ids


def test_weights_that_do_not_fit_or_come_too_early_change_nothing(tiny: VllmEngine, tiny_folder: Path) -> None:
    own = _parameters(tiny_folder)
    before = asyncio.run(tiny.weights_fingerprint())
    name = next(iter(own))
    with pytest.raises(CheckpointError, match="lack 1"):
        asyncio.run(tiny.load_weights({key: value for key, value in own.items() if key != name}))

    async def too_early() -> None:
        tasks = await _busy(tiny)
        try:
            await tiny.load_weights({key: value * 2 for key, value in own.items()})
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    with pytest.raises(EngineError, match="under way"):
        asyncio.run(too_early())
    assert asyncio.run(tiny.weights_fingerprint()) == before


def test_vision_tokens_are_never_sampled(tiny: VllmEngine, tiny_folder: Path) -> None:
    from vllm import SamplingParams

    own = _parameters(tiny_folder)
    pad = tiny._parts.encoder.video_id
    name = next(key for key in own if "embed_tokens" in key)
    # Head and embedding are one: the sum of many rows, enlarged, makes the pad the likeliest word by far.
    likely = own[name].clone()
    likely[pad] = 50 * own[name][[205, 960, 1334]].sum(0)
    asyncio.run(tiny.load_weights({**own, name: likely}))
    try:
        asked = [entry for entry in _requests(_factor(tiny)) if entry.episode == "b"]
        banned = set(tiny._parts.vocabulary.banned_ids)

        async def unbanned() -> list[int]:
            given = {"prompt_token_ids": list(tiny._prepare(asked[0])[0].short)}
            (rendered,) = await tiny._core.renderer.render_cmpl_async([given])
            async for output in tiny._core.generate(rendered, SamplingParams(temperature=0, max_tokens=8), "u"):
                last = output
            return list(last.outputs[0].token_ids)

        warm = dataclasses.replace(asked[0], sampling=Sampling(max_new_tokens=200, temperature=2.0), episode="w")
        assert not banned & {token for entry in _ask(tiny, [*asked, warm]) for token in entry.token_ids}
        assert banned & set(asyncio.run(tiny._in_loop(unbanned()))), "otherwise this test could not fail"
    finally:
        asyncio.run(tiny.load_weights(own))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_world(root, seed=5, per_task=4)
    return root


def _plan(world: Path) -> RunPlan:
    registries = Registries()
    tasks = (read_task(registries.tasks.load(name)(), world) for name in WORLD_TASKS)
    return make_plan(
        tuple(TaskPlan(data, tuple(preset("nano", mode, data.task.name) for mode in Mode)) for data in tasks),
        registries,
    )


def _play(plan: RunPlan, engine: Engine, out: Path) -> tuple[Record, ...]:
    with RunLog.open(out, make_manifest(plan, engine.info, "nano")) as log:
        assert asyncio.run(run(plan, engine, log, Settings(concurrency=32, decode_workers=1))).owed == 0
    return read_run(out)[1]


def test_whole_episodes_equal_those_of_the_hf_engine(
    nano: VllmEngine, nano_folder: Path, world: Path, tmp_path: Path
) -> None:
    plan = _plan(world)
    theirs = {record.key: record for record in _play(plan, nano, tmp_path / "vllm")}
    ours = {record.key: record for record in _play(plan, load_hf(nano_folder, "cpu", "float32"), tmp_path / "hf")}
    assert theirs.keys() == ours.keys()
    for key, record in ours.items():
        other = theirs[key]
        assert [turn.text for turn in other.trajectory.turns] == [turn.text for turn in record.trajectory.turns], key
        assert (other.outcome, other.answer, other.scores) == (record.outcome, record.answer, record.scores)
        assert [turn.prompt_tokens for turn in other.trajectory.turns] == [
            turn.prompt_tokens for turn in record.trajectory.turns
        ]
    called = [record for record in ours.values() if any(turn.tool_call for turn in record.trajectory.turns)]
    assert called, "an episode without a tool call has one turn only"
    assert read_run(tmp_path / "vllm")[0].engine.details["vllm"]


def test_a_checkpoint_that_vllm_cannot_load_is_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gap"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        if path.name != "model.safetensors":
            (folder / path.name).symlink_to(path)
    weights = {
        name: value for name, value in load_file(tiny_folder / "model.safetensors").items() if "layers.0" not in name
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(CheckpointError) as caught:
        load_engine(folder, "cpu", "float32", 4, SMALL)
    assert "\n" not in str(caught.value)
    assert "not initialized from checkpoint" in str(caught.value)
    assert _living(before) == []
    for device, said in (("cuda", "runs on cpu"), ("nonsense", "runs on cpu")):
        with pytest.raises(CheckpointError, match=said):
            load_engine(tiny_folder, device)
    with pytest.raises(CheckpointError, match="beyond the checkpoint's context"):
        load_engine(tiny_folder, "cpu", "float32", 4, dataclasses.replace(SMALL, max_model_len=4096))
    with pytest.raises(VitalError, match="impossible options"):
        VllmOptions(gpu_memory=1.5)


def _living(before: set[psutil.Process]) -> list[str]:
    """Name the processes of ours that are there now and were not before; Python's own bookkeeping apart."""
    deadline = time.monotonic() + 15
    while True:
        found = [process for process in psutil.Process().children(recursive=True) if process not in before]
        names = [name for name in map(_name, found) if "resource_tracker" not in name]
        if not names or time.monotonic() > deadline:
            return names
        time.sleep(0.2)


def _name(process: psutil.Process) -> str:
    try:
        return "resource_tracker" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return "resource_tracker"


def test_closing_gives_up_what_is_written_and_ends_every_process(tiny_folder: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    engine = load_engine(tiny_folder, "cpu", "float32", 4, dataclasses.replace(SMALL, max_model_len=1024))
    assert _living(before), "vLLM works in processes of its own"
    view, log = Path(engine._parts.view.name), engine._parts.log

    async def close_early() -> list[BaseException | Generation]:
        tasks = await _busy(engine)
        await engine.close()
        await engine.close()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    given_up = asyncio.run(close_early())
    assert any(isinstance(entry, EngineError) for entry in given_up)
    assert all(isinstance(entry, EngineError | Generation) for entry in given_up)
    assert _living(before) == []
    assert not view.exists()
    assert not log.exists()
    with pytest.raises(EngineError, match="closed"):
        _ask(engine, [request(opening(None))])


def _group(leader: int) -> list[str]:
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            same = os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
        if same:
            found.append(" ".join(process.cmdline()))
    return found


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_an_interrupted_run_keeps_what_is_finished_and_leaves_no_process(
    kind: signal.Signals, nano_folder: Path, world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-P", "-m", "vital_eval", "run", "--checkpoint", str(nano_folder)]
    command += ["--data-root", str(world), "--out", str(out), "--preset", "nano", "--tasks", ",".join(WORLD_TASKS)]
    command += ["--engine", "vllm", "--device", "cpu", "--batch-size", "1", "--concurrency", "2"]
    command += ["--engine-option", "kv_cache_gib=0.25", "--engine-option", "enforce-eager=true"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    records = out / "records.jsonl"
    deadline = time.monotonic() + 300
    while not records.exists() or not records.read_bytes().count(b"\n"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if kind is signal.SIGINT:
        os.killpg(process.pid, kind)  # a terminal sends it to all
    else:
        process.send_signal(kind)
    said = process.communicate(timeout=60)
    if kind is signal.SIGINT:
        assert process.returncode == 130, said
        assert "interrupted" in said[1]
    deadline = time.monotonic() + 30
    while _group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _group(process.pid) == []
    manifest, kept = read_run(out)
    assert kept
    assert manifest.engine.details["enforce_eager"] == "true"
