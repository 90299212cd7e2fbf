"""The Hugging Face engine: paths that must agree, and controls that show the tests can fail."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from vital_eval.conversation import Conversation, Message, TextPart, VideoPart
from vital_eval.engine import ContextOverflowError, GenerationRequest
from vital_eval.engines.checkpoint import open_checkpoint
from vital_eval.engines.encode import Encoded
from vital_eval.engines.hf import HFEngine, load_engine
from vital_eval.engines.prefix_cache import CachedPrefix, PrefixCache
from vital_eval.errors import CheckpointError, EngineError
from vital_eval.generation import Generation
from vital_eval.protocol import Sampling

from .tiny import make_clip, opening, request, turn, write_checkpoint

FAMILIES = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / request.param, request.param)


def _generate(
    folder: Path, requests: Sequence[GenerationRequest], *, batch_size: int = 8, cache: int = 1 << 30
) -> list[Generation]:
    """Run requests that arrive together."""

    async def run() -> list[Generation]:
        engine = load_engine(folder, "cpu", "float32", batch_size, cache)
        try:
            return list(await asyncio.gather(*(engine.generate(entry) for entry in requests)))
        finally:
            await engine.close()

    return asyncio.run(run())


def _factor(folder: Path) -> int:
    pixels = open_checkpoint(folder).pixels
    return pixels.patch * pixels.merge


def _logits(engine: HFEngine, encoded: Encoded) -> torch.Tensor:
    """Run a full forward pass, no cache; returns (length, vocabulary)."""
    with torch.inference_mode():
        return engine._model(
            input_ids=torch.from_numpy(encoded.ids)[None],
            attention_mask=torch.ones(1, len(encoded.ids), dtype=torch.int64),
            position_ids=torch.from_numpy(encoded.positions)[:, None],
            pixel_values_videos=torch.from_numpy(encoded.patches) if encoded.grids else None,
            video_grid_thw=torch.tensor(encoded.grids) if encoded.grids else None,
        ).logits[0]


def _two_turns(engine: HFEngine, first_ids: tuple[int, ...], tool_seed: int) -> Conversation:
    factor = engine.info.geometry.spatial_factor
    tool = Message("tool", (VideoPart(make_clip(3.0, 5.0, 6, factor, tool_seed)), TextPart("3.00 to 5.00")))
    return (*opening(make_clip(0.0, 30.0, 8, factor, 1)), turn(first_ids), tool)


def test_batch_gives_the_same_tokens_as_one_by_one(folder: Path) -> None:
    factor = _factor(folder)
    requests = [
        request(opening(make_clip(0.0, 60.0, 12, factor, 1)), "a"),
        request(opening(None, "How many shapes are seen?"), "b"),
        request(opening(make_clip(0.0, 3.0, 3, factor, 2, rows=2), "Describe."), "c", tokens=5),
        request(opening(make_clip(10.0, 11.0, 1, factor, 3)), "d"),
    ]
    together = _generate(folder, requests)
    alone = [_generate(folder, [entry])[0] for entry in requests]
    assert [entry.token_ids for entry in together] == [entry.token_ids for entry in alone]
    assert len({entry.token_ids for entry in alone}) > 1, "rows that all say the same would prove nothing"


def test_a_batch_without_any_video_gives_the_same_tokens_as_one_by_one(folder: Path) -> None:
    questions = ("Which colour is seen first?", "How many shapes are seen in the whole video?", "When: red bar")
    # A random model says one token for ever; the penalty makes what it says depend on its own prompt.
    varied = Sampling(max_new_tokens=12, repetition_penalty=50.0)
    requests = [
        dataclasses.replace(request(opening(None, text), f"blind{index}"), sampling=varied)
        for index, text in enumerate(questions)
    ]
    clip = make_clip(0.0, 9.0, 6, _factor(folder), 4)
    seen = dataclasses.replace(request(opening(clip, questions[0]), "seen"), sampling=varied)
    together = _generate(folder, requests)
    alone = [_generate(folder, [entry])[0] for entry in requests]
    mixed = _generate(folder, [*requests, seen])
    assert [entry.token_ids for entry in together] == [entry.token_ids for entry in alone]
    assert [entry.token_ids for entry in mixed[:3]] == [entry.token_ids for entry in alone]
    assert all(entry.visual_tokens == 0 for entry in together)
    assert mixed[3].visual_tokens > 0
    assert len({entry.token_ids for entry in alone}) > 1, "rows that all say the same would prove nothing"


def test_decoding_equals_greedy_full_passes_without_cache(folder: Path) -> None:
    engine = load_engine(folder, "cpu", "float32")
    conversation = opening(make_clip(0.0, 40.0, 10, _factor(folder), 4))
    written: tuple[int, ...] = ()
    for _ in range(6):
        encoded = (
            engine._encoder.encode((*conversation, turn(written)), open_turn=False)
            if written
            else engine._encoder.encode(conversation)
        )
        logits = _logits(engine, encoded)[-1].clone()
        logits[list(engine._vocabulary.banned_ids)] = -torch.inf
        written = (*written, int(logits.argmax()))
    assert _generate(folder, [request(conversation, tokens=6)])[0].token_ids == written


def test_cache_reuse_across_turns_gives_the_tokens_of_a_full_pass(folder: Path) -> None:
    async def play(cache: int) -> tuple[Generation, Generation]:
        engine = load_engine(folder, "cpu", "float32", 8, cache)
        try:
            # A neighbour shares the batch, so that prefixes of different lengths meet.
            first, _ = await asyncio.gather(
                engine.generate(request(opening(make_clip(0.0, 30.0, 8, _factor(folder), 1)), "a")),
                engine.generate(request(opening(None), "b")),
            )
            conversation = _two_turns(engine, first.token_ids, tool_seed=9)
            second, _ = await asyncio.gather(
                engine.generate(request(conversation, "a")),
                engine.generate(request(opening(make_clip(0.0, 9.0, 4, _factor(folder), 5)), "c")),
            )
            return first, second
        finally:
            await engine.close()

    with_cache, without = asyncio.run(play(1 << 30)), asyncio.run(play(0))
    assert [g.token_ids for g in with_cache] == [g.token_ids for g in without]
    assert with_cache[1].cached_tokens > 0
    assert without[1].cached_tokens == 0


def test_times_tell_waiting_prefill_and_writing_apart(folder: Path) -> None:
    clip = make_clip(0.0, 9.0, 6, _factor(folder), 4)
    asked = [request(opening(clip), name) for name in "ab"]
    first, second = _generate(folder, asked, batch_size=1)
    together = _generate(folder, asked)
    for told in (first, second, *together):
        assert min(_times(told)) > 0
        assert sum(_times(told)) < told.seconds
    # One at a time: the second waits as long as the first is written. Both in one batch: they are taken up together.
    assert _times(second)[0] > sum(_times(first))
    assert _times(together[0])[1] == _times(together[1])[1]


def _times(told: Generation) -> tuple[float, float]:
    assert told.queue_seconds is not None
    assert told.prefill_seconds is not None
    return told.queue_seconds, told.prefill_seconds


def test_half_of_a_batch_that_does_not_fit_waits_for_the_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vital_eval.engines.hf as hf

    real = hf.decode_batch

    def small_memory(model, rows, vocabulary, stopping) -> None:
        if len(rows) > 1:
            raise torch.OutOfMemoryError("no room")
        real(model, rows, vocabulary, stopping)

    monkeypatch.setattr(hf, "decode_batch", small_memory)
    first, second = _generate(folder, [request(opening(None), name) for name in "ab"])
    assert _times(second)[0] > sum(_times(first))


def test_changing_the_tool_clip_changes_only_what_comes_after_it(folder: Path) -> None:
    engine = load_engine(folder, "cpu", "float32")
    one = engine._encoder.encode(_two_turns(engine, (300, 301, 302), tool_seed=9))
    other = engine._encoder.encode(_two_turns(engine, (300, 301, 302), tool_seed=10))
    assert np.array_equal(one.ids, other.ids)
    last_sampled = int(np.flatnonzero(one.is_sampled)[-1])
    clip_starts = int(np.flatnonzero(one.is_visual[last_sampled:])[0]) + last_sampled
    difference = (_logits(engine, one) - _logits(engine, other)).abs().amax(-1)
    assert float(difference[:clip_starts].max()) < 1e-5
    assert float(difference[-1]) > 1e-3


def test_frame_rate_moves_the_logits(folder: Path) -> None:
    engine = load_engine(folder, "cpu", "float32")
    factor = _factor(folder)
    slow = engine._encoder.encode(opening(make_clip(0.0, 70.0, 8, factor, 1)))
    fast = engine._encoder.encode(opening(make_clip(0.0, 7.0, 8, factor, 1)))
    assert float((_logits(engine, slow)[-1] - _logits(engine, fast)[-1]).abs().max()) > 1e-3


def test_second_prompt_is_the_first_plus_its_ids_plus_new_text(folder: Path) -> None:
    engine = load_engine(folder, "cpu", "float32")
    # Ids that decode to text which would tokenise differently: "1", "2" are one number token when read again.
    one, two = (engine._tokenizer.convert_tokens_to_ids(digit) for digit in "12")
    first = engine._encoder.encode(_two_turns(engine, (one, two), 9)[:2])
    second = engine._encoder.encode(_two_turns(engine, (one, two), 9))
    assert second.ids[: len(first.ids)].tolist() == first.ids.tolist()
    assert second.ids[len(first.ids) : len(first.ids) + 2].tolist() == [one, two]
    again = engine._tokenizer(engine.parts.vocabulary.decode([one, two]), add_special_tokens=False)["input_ids"]
    assert again != [one, two], "otherwise this test could not fail"


def test_end_of_turn_token_is_not_doubled(folder: Path) -> None:
    engine = load_engine(folder, "cpu", "float32")
    end = engine._tokenizer.eos_token_id
    closed = engine._encoder.encode(_two_turns(engine, (300, end), 9)).ids.tolist()
    left_open = engine._encoder.encode(_two_turns(engine, (300,), 9)).ids.tolist()
    assert closed == left_open


def test_sampling_is_seeded_per_request_and_independent_of_the_batch(folder: Path) -> None:
    from dataclasses import replace

    warm = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9)
    base = request(opening(None), "a")
    requests = [replace(base, sampling=warm, seed=seed, episode=str(seed)) for seed in (1, 2, 1)]
    one, two, again = _generate(folder, requests)
    assert one.token_ids == again.token_ids
    assert one.token_ids != two.token_ids
    assert _generate(folder, requests[1:2])[0].token_ids == two.token_ids


def test_vision_tokens_are_never_sampled(folder: Path) -> None:
    engine = load_engine(folder, "cpu", "float32")
    banned = set(engine._vocabulary.banned_ids)
    with torch.no_grad():
        # Make a pad the likeliest token by far; without the ban it would be sampled at once.
        engine._model.get_output_embeddings().weight[engine._encoder.video_id] *= 100

    async def run() -> Generation:
        try:
            return await engine.generate(request(opening(None), tokens=8))
        finally:
            await engine.close()

    assert not banned & set(asyncio.run(run()).token_ids)


def test_question_with_control_tokens_fails_alone(folder: Path) -> None:
    async def run() -> list[Generation | BaseException]:
        engine = load_engine(folder, "cpu", "float32")
        try:
            good, bad = request(opening(None), "a", tokens=2), request(opening(None, "a <|video_pad|> b"), "b")
            return list(await asyncio.gather(engine.generate(good), engine.generate(bad), return_exceptions=True))
        finally:
            await engine.close()

    good, bad = asyncio.run(run())
    assert isinstance(good, Generation)
    assert isinstance(bad, EngineError)


def test_prompt_beyond_the_context_is_an_outcome(folder: Path) -> None:
    with pytest.raises(ContextOverflowError):
        _generate(folder, [request(opening(None, "red " * 3000))])


def test_stop_string_ends_the_turn_and_stays_in_the_text(folder: Path) -> None:
    from dataclasses import replace

    free = _generate(folder, [request(opening(None), tokens=8)])[0]
    engine = load_engine(folder, "cpu", "float32")
    third = engine.parts.vocabulary.decode(free.token_ids[2:3])
    assert third
    stopped = _generate(folder, [replace(request(opening(None), tokens=8), stop=(third,))])[0]
    assert stopped.text.endswith(third)
    assert len(stopped.token_ids) <= 3


def test_pickled_and_remote_code_checkpoints_are_refused(folder: Path, tmp_path: Path) -> None:
    import json
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(CheckpointError, match="remote code"):
        load_engine(copy)
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors"):
        load_engine(copy)
    (copy / "model.safetensors").write_bytes(b"\x80\x04\x95pickle pickle pickle")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_engine(copy)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_engine(tmp_path / "nowhere")


_TOOL_AS_USER = (
    "{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.role == 'tool' %}<tool_response>\n{% endif %}"
    "{% for p in m.content %}{% if p.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% if m.role == 'tool' %}\n</tool_response>{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("template", [None, _TOOL_AS_USER], ids=["own", "tool-as-user"])
def test_prompt_of_a_later_turn_is_what_the_template_says(folder: Path, template: str | None) -> None:
    engine = load_engine(folder, "cpu", "float32")
    tokenizer = engine._tokenizer
    if template:
        tokenizer.chat_template = template
    said = "<think> red 3 to 5</think><tool_call>x</tool_call>"
    conversation = _two_turns(engine, tuple(tokenizer(said, add_special_tokens=False)["input_ids"]), 9)
    video = {"type": "video"}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "answer"}]},
        {"role": "user", "content": [video, {"type": "text", "text": "Which colour is seen first?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": said}]},
        {"role": "tool", "content": [video, {"type": "text", "text": "3.00 to 5.00"}]},
    ]
    rendered = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    before, between, after = rendered.split("<|vision_start|><|video_pad|><|vision_end|>")
    text = engine.parts.vocabulary.decode(engine._encoder.encode(conversation).ids.tolist())
    assert text.startswith(before)
    assert between in text
    assert text.endswith(after)


def test_batch_that_does_not_fit_is_halved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vital_eval.engines.hf as hf

    requests = [request(opening(make_clip(0.0, 9.0, 4, _factor(folder), seed)), str(seed)) for seed in range(3)]
    wanted = [generation.token_ids for generation in _generate(folder, requests)]
    real, sizes = hf.decode_batch, []

    def small_memory(model, rows, vocabulary, stopping) -> None:
        sizes.append(len(rows))
        if len(rows) > 1:
            rows[0].written.append(1)
            raise torch.OutOfMemoryError("no room")
        real(model, rows, vocabulary, stopping)

    monkeypatch.setattr(hf, "decode_batch", small_memory)
    assert [generation.token_ids for generation in _generate(folder, requests)] == wanted
    assert max(sizes) > 1


def test_older_file_layout_loads_the_same(folder: Path, tmp_path: Path) -> None:
    import json
    import shutil

    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    config = json.loads((copy / "config.json").read_text())
    if config["model_type"] == "qwen2_5_vl":
        # The published Qwen2.5-VL checkpoints keep the text settings flat, with the rope under its old name.
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        text.pop("model_type")
        config = {**text, **config, "rope_theta": rope["rope_theta"]}
        config["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        (copy / "config.json").write_text(json.dumps(config))
    ask = request(opening(make_clip(0.0, 30.0, 8, _factor(folder), 1)))
    assert _generate(copy, [ask])[0].token_ids == _generate(folder, [ask])[0].token_ids


def test_repetition_penalty_applies_to_prompt_and_output(folder: Path) -> None:
    from dataclasses import replace

    plain = request(opening(None), "a", tokens=12)
    strong = replace(plain, sampling=Sampling(max_new_tokens=12, repetition_penalty=50.0), episode="b")
    repeated, varied = _generate(folder, [plain, strong])
    assert len(set(varied.token_ids)) == len(varied.token_ids)
    assert varied.token_ids != repeated.token_ids
    assert _generate(folder, [strong])[0].token_ids == varied.token_ids


def _rewrite_weights(folder: Path, copy: Path, drop: str = "", cut: int = 0) -> Path:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, copy)
    weights = copy / "model.safetensors"
    if drop:
        tensors = {name: tensor for name, tensor in load_file(weights).items() if drop not in name}
        save_file(tensors, weights, metadata={"format": "pt"})
    if cut:
        weights.write_bytes(weights.read_bytes()[:-cut])
    return copy


def test_checkpoint_with_missing_tensors_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lacks"):
        load_engine(_rewrite_weights(folder, tmp_path / "missing", drop="layers.0."))


def test_truncated_weights_and_unknown_devices_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot load"):
        load_engine(_rewrite_weights(folder, tmp_path / "cut", cut=1000))
    for device in ("meta", "mps", "nonsense"):
        with pytest.raises(CheckpointError, match="device"):
            load_engine(folder, device)
    (tmp_path / "cut" / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer_config"):
        load_engine(tmp_path / "cut")


def test_broken_template_and_bugs_reach_whoever_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(template: str | None) -> None:
        engine = load_engine(folder, "cpu", "float32")
        if template:
            engine._tokenizer.chat_template = template
        else:
            monkeypatch.setattr(engine, "_prepare", lambda request: 1 // 0)
        try:
            await asyncio.wait_for(engine.generate(request(opening(None))), timeout=20)
        finally:
            await engine.close()

    with pytest.raises(EngineError, match="chat template"):
        asyncio.run(run("{{ raise_exception('no') }}"))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run(None))


def test_closing_gives_up_the_batch_at_once(folder: Path) -> None:
    import time

    async def run() -> float:
        engine = load_engine(folder, "cpu", "float32")
        task = asyncio.create_task(engine.generate(request(opening(None), tokens=1900)))
        await asyncio.sleep(0.5)
        assert not task.done()
        started = time.monotonic()
        await engine.close()
        task.cancel()
        return time.monotonic() - started

    assert asyncio.run(run()) < 1.5


def test_turn_ends_where_the_context_ends(folder: Path) -> None:
    engine = load_engine(folder, "cpu", "float32")
    question = "red " * 1980
    room = engine._limit - len(engine._encoder.encode(opening(None, question)).ids)
    assert 0 < room < 100
    assert len(_generate(folder, [request(opening(None, question), tokens=500)])[0].token_ids) <= room


@pytest.mark.parametrize("size", [0, -2])
def test_a_batch_of_nothing_is_refused(folder: Path, size: int) -> None:
    with pytest.raises(ValueError, match="never ends"):
        load_engine(folder, "cpu", "float32", size)


def test_closing_tells_those_who_wait(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "c", "qwen3_vl")

    async def run() -> None:
        engine = load_engine(checkpoint, "cpu", "float32", 1)
        asked = [asyncio.create_task(engine.generate(request(opening(None, "hi"), tokens=400))) for _ in range(3)]
        await asyncio.sleep(0.05)
        await engine.close()
        done, waiting = await asyncio.wait(asked, timeout=10)
        assert not waiting
        assert any("closed" in str(task.exception()) for task in done)

    asyncio.run(run())


def test_a_prefix_larger_than_the_cache_leaves_the_others_in_it() -> None:
    def prefix(length: int) -> CachedPrefix:
        tensor = torch.zeros(1, length, 4)
        return CachedPrefix(np.arange(length), ((tensor, tensor),))

    cache = PrefixCache(3 * prefix(10).nbytes)
    cache.put("small", prefix(10))
    cache.put("huge", prefix(100))
    assert cache.take("huge", np.arange(200)) is None
    assert cache.take("small", np.arange(20)) is not None
