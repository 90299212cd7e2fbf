"""How soon the first token of turn 2 comes, with the keys and values of turn 1 and without.

    python benchmarks/turn_two.py            # 128 frames first, then a clip of 32: turn 2 begins at 4,100 tokens
    python benchmarks/turn_two.py --quick    # a quarter of it
    python benchmarks/turn_two.py --served   # the same through two servers of ours (vital-eval serve)

The hf engine on a random Qwen2.5-VL of 0.7 million parameters, one thread. Both ways run in this process in
alternation, on the same weights: ours continues what turn 1 left, the peer computes the whole conversation again (the
same engine with a cache of 0 bytes; with ``--served`` it remembers no clips either). Their logits and tokens are
compared. That vLLM encodes the new clip only is no matter of time: ``tests/engines/test_vllm_patches.py`` counts the
patches.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from random_models import noise, question, tool_reply, write_random

from vital_eval.conversation import AssistantTurn, Conversation
from vital_eval.engine import Engine, GenerationRequest
from vital_eval.engines import openai
from vital_eval.engines.hf import load_engine
from vital_eval.engines.openai_server import OpenAIServer
from vital_eval.generation import Generation
from vital_eval.protocol import Sampling

#: 64 visual tokens for two frames.
SIDE = 224


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Second:
    """What came of one second turn.

    Attributes:
        wall: seconds from request to first token.
        cpu: processor seconds of this process in between.
        logits: of the first token, shape (vocabulary,).
        said: the turn.
    """

    wall: float
    cpu: float
    logits: torch.Tensor
    said: Generation


def request(conversation: Conversation, episode: str, tokens: int) -> GenerationRequest:
    """Return a greedy request."""
    return GenerationRequest(conversation, Sampling(max_new_tokens=tokens), (), 0, episode, expect_more=True)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One of the two ways: who is asked, and the model behind it."""

    engine: Engine
    model: transformers.PreTrainedModel


async def second_turn(way: Way, opening: Conversation, new: Conversation, episode: str, tokens: int) -> Second:
    """Play turn 1 unwatched, then time turn 2."""
    engine = way.engine
    first = await engine.generate(request(opening, episode, 16))
    conversation = (*opening, AssistantTurn(first), *new)
    seen: list[torch.Tensor] = []

    def keep(model: Any, inputs: Any, output: Any) -> None:
        del model, inputs
        if not seen:
            seen.append(output.logits[0, -1].clone())

    hook = way.model.register_forward_hook(keep)
    begin, spent = time.perf_counter(), time.process_time()
    said = await engine.generate(request(conversation, episode, tokens))
    wall, cpu = time.perf_counter() - begin, time.process_time() - spent
    hook.remove()
    engine.release(episode)
    return Second(wall, cpu, seen[0], said)


def spread(values: Sequence[float]) -> str:
    """Write quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} (quartiles {low:.2f} to {high:.2f}, least {min(values):.2f}, most {max(values):.2f})"


async def measure(ours: Way, peer: Way, frames: int, rounds: int) -> None:
    """Measure and print."""
    opening = question(noise(frames, 0.0, 120.0, SIDE, 1))
    new = (tool_reply(noise(frames // 4, 30.0, 40.0, SIDE, 2)),)
    same = [await second_turn(way, opening, new, "check", 16) for way in (ours, peer)]
    print(
        f"turn 2: {same[0].said.prompt_tokens} tokens, {same[0].said.cached_tokens} of them cached "
        f"(peer: {same[1].said.cached_tokens}); torch {torch.__version__}, {torch.get_num_threads()} thread"
    )
    print(f"tokens equal: {same[0].said.token_ids == same[1].said.token_ids} ({len(same[0].said.token_ids)} of them)")
    difference = float((same[0].logits - same[1].logits).abs().max())
    print(
        f"logits differ by at most {difference:.1e}; they span {float(same[1].logits.max() - same[1].logits.min()):.1f}"
    )
    pairs = []
    for number in range(rounds):
        reused = await second_turn(ours, opening, new, f"ours {number}", 1)
        full = await second_turn(peer, opening, new, f"peer {number}", 1)
        pairs.append((reused, full))
    for name, at in (("reuse", 0), ("full pass", 1)):
        walls, cpus = [pair[at].wall for pair in pairs], [pair[at].cpu for pair in pairs]
        middle, spent = statistics.median(walls), statistics.median(cpus)
        print(f"{name:<10} {middle:.3f} s to the first token (least {min(walls):.3f}), {spent:.3f} s of processor time")
    print(f"full pass / reuse, wall-clock, pair by pair: {spread([full.wall / own.wall for own, full in pairs])}")
    print(f"full pass / reuse, processor, pair by pair:  {spread([full.cpu / own.cpu for own, full in pairs])}")
    await ours.engine.close()
    await peer.engine.close()


def run(folder: Path, frames: int, rounds: int, *, served: bool) -> None:
    """Load both ways, measure, and end what was started."""
    engines = [load_engine(folder, "cpu", "float32", cache_bytes=size) for size in (2 << 30, 0)]
    models = [engine.parts.model for engine in engines]
    if not served:
        asyncio.run(measure(*map(Way, engines, models), frames, rounds))
        return
    servers = [
        OpenAIServer(engine, port=0, clip_bytes=size) for engine, size in zip(engines, (2 << 30, 0), strict=True)
    ]
    try:
        for server in servers:
            server.start()
        clients = [openai.load_engine(options=openai.OpenAIOptions(server.address)) for server in servers]
        asyncio.run(measure(*map(Way, clients, models), frames, rounds))
    finally:
        for server in servers:
            server.close()


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer frames and rounds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--served", action="store_true", help="through two servers of ours")
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = write_random(Path(name) / "tiny", "tiny", "cpu", torch.float32)
        run(folder, 32 if given.quick else 128, 5 if given.quick else given.rounds, served=given.served)


if __name__ == "__main__":
    main()
