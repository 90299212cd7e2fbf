"""What vLLM encodes in turn 2: the new clip, and nothing that it has encoded before. Counted in its vision tower."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: tox -e vllm")

from vital_eval.conversation import Message, TextPart, VideoPart
from vital_eval.engine import GenerationRequest
from vital_eval.engines import vllm as engine_module
from vital_eval.engines.vllm import VllmEngine, VllmOptions, load_engine

from .tiny import make_clip, opening, request, turn, write_checkpoint

ROWS, COLUMNS = 4, 4
#: Patches of one pair of frames: 14 pixels each, merged two by two.
PATCHES = (2 * ROWS) * (2 * COLUMNS)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    folder = write_checkpoint(tmp_path_factory.mktemp("tiny") / "qwen2_5_vl", "qwen2_5_vl")
    arguments = engine_module._arguments
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            engine_module,
            "_arguments",
            lambda *given: {
                **arguments(*given),
                "worker_extension_cls": "tests.engines.vllm_patch_counter.PatchCounter",
            },
        )
        running = load_engine(folder, "cpu", "float32", 4, VllmOptions(kv_cache_gib=0.25, enforce_eager=True))
    asyncio.run(running._in_loop(running._core.collective_rpc("count_patches")))
    yield running
    asyncio.run(running.close())


def _encoded(engine: VllmEngine) -> int:
    (passes,) = asyncio.run(engine._in_loop(engine._core.collective_rpc("counted_patches")))
    return sum(passes)


def _goes_on(before: GenerationRequest, said: tuple[int, ...], frames: int, seed: int) -> GenerationRequest:
    clip = make_clip(3.0, 5.0, frames, 28, seed, ROWS, COLUMNS)
    tool = Message("tool", (VideoPart(clip), TextPart("3.00 to 5.00")))
    return dataclasses.replace(before, conversation=(*before.conversation, turn(said), tool))


def test_every_turn_encodes_its_own_clip_only(engine: VllmEngine) -> None:
    asked = request(opening(make_clip(0.0, 60.0, 64, 28, 1, ROWS, COLUMNS)), "long", 4)
    said = asyncio.run(engine.generate(asked))
    assert _encoded(engine) == 32 * PATCHES
    for frames, seed in ((16, 2), (12, 3), (6, 4)):
        asked = _goes_on(asked, said.token_ids, frames, seed)
        said = asyncio.run(engine.generate(asked))
        assert _encoded(engine) == frames // 2 * PATCHES
        assert said.cached_tokens > 0


def test_the_count_sees_what_is_encoded_again(engine: VllmEngine) -> None:
    """A control: once vLLM has forgotten its keys, values and features, turn 2 costs both clips."""
    asked = request(opening(make_clip(0.0, 60.0, 16, 28, 11, ROWS, COLUMNS)), "other", 4)
    said = asyncio.run(engine.generate(asked))
    assert _encoded(engine) == 8 * PATCHES

    async def forget() -> None:
        await engine._core.reset_encoder_cache()
        assert await engine._core.reset_prefix_cache()

    asyncio.run(engine._in_loop(forget()))
    asyncio.run(engine.generate(_goes_on(asked, said.token_ids, 6, 12)))
    assert _encoded(engine) == (8 + 3) * PATCHES
