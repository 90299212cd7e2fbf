"""Training sees what evaluation saw: same episodes, same ids, same pixels, same probabilities."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.training.nano_policy import (
    DURATION,
    footage,
    nano_engine,
    open_grey,
    policy_of,
    problem,
    protocol,
    tools,
)
from vital_eval.conversation import AssistantTurn
from vital_eval.engines.hf import HFEngine
from vital_eval.episode import Attempt, Footage, run_episode
from vital_eval.errors import MediaError
from vital_eval.protocol import Mode
from vital_eval.training.collate import collate
from vital_eval.training.dgrpo import attempt_of
from vital_eval.training.log_probs import Support, sampled_log_probs
from vital_eval.training.rollouts import Rollout, Teacher, failed, roll_out
from vital_eval.trajectory import StopReason

CALL = '<think>look</think><tool_call>{"name": "get_video_clip_frame", "arguments": {"start_time": 2, "end_time": 8}}'
CALL += "</tool_call>"
ANSWER = "<think>seen</think><answer>3 to 7</answer>"


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    with nano_engine() as loaded:
        yield loaded


def attempt(name: str, mode: Mode = Mode.TOOL, temperature: float = 1.0, number: int = 0) -> Attempt:
    return attempt_of(problem(name), protocol(mode, temperature), tools(), number)


def spoken(engine: HFEngine, turns: tuple[str, ...], shown: Footage | None = None, mode: Mode = Mode.TOOL) -> Rollout:
    policy = policy_of(engine)
    tried = attempt("v", mode)

    def speak(text: str) -> tuple[int, ...]:
        return (*engine._tokenizer(text, add_special_tokens=False)["input_ids"], engine._tokenizer.eos_token_id)

    async def open_video(video: str) -> Footage:
        return shown or await open_grey(video)

    teacher = Teacher(policy.engine.info, speak, {tried.episode: turns})
    (rollout,) = asyncio.run(roll_out([tried], teacher, open_video))
    return rollout


def log_probs(engine: HFEngine, rollouts: list[Rollout]) -> list[np.ndarray]:
    policy = policy_of(engine)
    items = [policy.encoder.encode(rollout.conversation, open_turn=False) for rollout in rollouts]
    with torch.no_grad():
        found = sampled_log_probs(policy.model, collate(items, policy.pad_id), Support(1.0, policy.banned_ids))
    return [found.values[row, : len(item.ids) - 1].numpy() for row, item in enumerate(items)]


def test_a_greedy_rollout_is_the_evaluation_episode_token_for_token() -> None:
    with nano_engine() as first, nano_engine() as second:
        tried = attempt("v", temperature=0.0)

        async def both() -> tuple[Rollout, object]:
            (rollout,) = await roll_out([tried], first, open_grey)
            trajectory = await run_episode(tried, second, lambda: open_grey("v"))
            await first.close()
            await second.close()
            return rollout, trajectory

        rollout, trajectory = asyncio.run(both())
        assert [turn.text for turn in rollout.trajectory.turns] == [turn.text for turn in trajectory.turns]
        assert rollout.trajectory.answer_text == trajectory.answer_text
        assert rollout.trajectory.tool_calls
        # What is trained on is what was sampled, and the training forward would sample it again.
        said = [entry for entry in rollout.conversation if isinstance(entry, AssistantTurn)]
        encoded = first._encoder.encode(rollout.conversation, open_turn=False)
        assert encoded.ids[encoded.is_sampled].tolist() == [id_ for turn in said for id_ in turn.generation.token_ids]
        batch = collate([encoded], 0)
        with torch.no_grad():
            from vital_eval.training.collate import hidden_states

            logits = first._model.lm_head(hidden_states(first._model, batch))[0]
        logits[:, list(first._vocabulary.banned_ids)] = float("-inf")
        chosen = logits[:-1].argmax(-1)[batch.targets[0, 1:]]
        assert chosen.tolist() == encoded.ids[1:][encoded.is_sampled[1:]].tolist()


def test_another_clip_moves_log_probs_after_it_and_none_before(engine) -> None:
    rollouts = [spoken(engine, (CALL, ANSWER), footage(90, shade)) for shade in (90, 220)]
    one, other = log_probs(engine, rollouts)
    encoded = engine._encoder.encode(rollouts[0].conversation, open_turn=False)
    sampled = encoded.is_sampled[1:]
    turns = [entry for entry in rollouts[0].conversation if isinstance(entry, AssistantTurn)]
    first = np.flatnonzero(sampled)[: len(turns[0].generation.token_ids)]
    second = np.flatnonzero(sampled)[len(turns[0].generation.token_ids) :]
    assert len(turns) == 2
    assert np.array_equal(one[first], other[first])
    assert np.abs(one[second] - other[second]).max() > 1e-3
    # The control: without its pixels the forward pass cannot tell the clips apart.
    assert not np.array_equal(one, other)


def test_another_first_view_moves_log_probs_from_the_first_turn_on(engine) -> None:
    one, other = log_probs(engine, [spoken(engine, (ANSWER,), footage(s), Mode.COT) for s in (90, 220)])
    assert np.abs(one - other).max() > 1e-3


def test_batched_equals_single(engine) -> None:
    rollouts = [
        spoken(engine, (CALL, ANSWER)),
        spoken(engine, (ANSWER,), mode=Mode.COT),
        spoken(engine, (ANSWER,), mode=Mode.BLIND),
    ]
    together = log_probs(engine, rollouts)
    for index, rollout in enumerate(rollouts):
        (alone,) = log_probs(engine, [rollout])
        assert np.abs(together[index] - alone).max() < 2e-5


def test_only_sampled_tokens_have_log_probs_and_banned_ones_have_no_mass(engine) -> None:
    rollout = spoken(engine, (CALL, ANSWER))
    policy = policy_of(engine)
    encoded = policy.encoder.encode(rollout.conversation, open_turn=False)
    batch = collate([encoded], policy.pad_id)
    with torch.no_grad():
        free = sampled_log_probs(policy.model, batch, Support(1.0))
        bound = sampled_log_probs(policy.model, batch, Support(1.0, policy.banned_ids))
        hot = sampled_log_probs(policy.model, batch, Support(2.0, policy.banned_ids))
    outside = ~bound.mask
    assert bool((bound.values[outside] == 0).all())
    assert bool((bound.entropy[outside] == 0).all())
    # Taking tokens out of the support can only raise what is left.
    assert bool((bound.values[bound.mask] >= free.values[bound.mask]).all())
    assert bool(torch.isfinite(bound.entropy).all())
    assert float(hot.entropy.sum()) > float(bound.entropy.sum())
    with pytest.raises(ValueError, match="temperature 0"):
        Support(0.0)


def test_the_sampler_and_the_loss_agree_on_probabilities(engine) -> None:
    # Drawn many times, the first token's frequencies are those that the training forward gives.
    names = [attempt("v", Mode.COT, 1.0, number) for number in range(64)]

    async def play() -> tuple[Rollout, ...]:
        return await roll_out(names, loaded, open_grey)

    with nano_engine(64) as loaded:
        rollouts = asyncio.run(play())
    said = [next(e for e in r.conversation if isinstance(e, AssistantTurn)).generation.token_ids for r in rollouts]
    logs = log_probs(engine, list(rollouts))
    places = [np.flatnonzero(engine._encoder.encode(r.conversation, open_turn=False).is_sampled[1:]) for r in rollouts]
    total = np.array([row[place].sum() for row, place in zip(logs, places, strict=True)])
    # Mean surprise of the draws estimates the entropy of the whole turn; both are sums over the same tokens.
    assert np.isfinite(total).all()
    distinct = dict(zip(said, total, strict=True))
    for ids, value in distinct.items():
        assert said.count(ids) / 64 == pytest.approx(np.exp(value), abs=0.2)


def test_rollouts_keep_their_order_and_differ_by_number(engine) -> None:
    with nano_engine() as loaded:
        attempts = [attempt("v", number=number) for number in range(3)]
        rollouts = asyncio.run(roll_out(attempts, loaded, open_grey))
    assert [rollout.attempt.number for rollout in rollouts] == [0, 1, 2]
    assert len({rollout.attempt.seed(0) for rollout in rollouts}) == 3
    with pytest.raises(ValueError, match="same episode"):
        asyncio.run(roll_out([attempts[0], attempts[0]], engine, open_grey))


def test_a_bad_video_is_a_failed_rollout_not_an_error(engine) -> None:
    async def broken(video: str) -> Footage:
        raise MediaError("unreadable", f"{video} is broken")

    (rollout,) = asyncio.run(roll_out([attempt("v")], engine, broken))
    assert failed(rollout)
    assert rollout.conversation is None
    assert rollout.trajectory.stop is StopReason.MEDIA_FAILED


def test_a_teacher_speaks_its_turns_and_the_tool_answers(engine) -> None:
    rollout = spoken(engine, (CALL, ANSWER))
    assert rollout.trajectory.answer_text == "3 to 7"
    assert rollout.trajectory.tool_calls[0].span == (2.0, 8.0)
    assert rollout.trajectory.duration == DURATION
    # A solution that calls the tool once too often ends as a failure of the data, not as a training example.
    short = spoken(engine, (CALL,))
    assert short.trajectory.stop is StopReason.ENGINE_FAILED
    assert failed(short)


def test_gradients_flow_through_the_entropy_only_where_it_is_trained(engine) -> None:
    rollout = spoken(engine, (ANSWER,), mode=Mode.COT)
    policy = policy_of(engine)
    batch = collate([policy.encoder.encode(rollout.conversation, open_turn=False)], policy.pad_id)
    plain = sampled_log_probs(policy.model, batch, Support(1.0, policy.banned_ids))
    trained = sampled_log_probs(policy.model, batch, Support(1.0, policy.banned_ids), train_entropy=True)
    assert plain.values.requires_grad
    assert not plain.entropy.requires_grad
    assert trained.entropy.requires_grad
    assert torch.equal(plain.entropy, trained.entropy.detach())
