"""Rollouts: the harness's own episodes, with what was said kept as token ids.

Training sees what evaluation saw, because both are played by :func:`vital_eval.episode.run_episode`: same prompts, same
clips, same tool replies, same positions. Supervised conversations are rollouts too: a teacher speaks the model's turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from vital_eval.conversation import AssistantTurn, Conversation
from vital_eval.engine import Engine, EngineInfo, GenerationRequest
from vital_eval.episode import Attempt, Footage, run_episode
from vital_eval.errors import EngineError
from vital_eval.generation import FinishReason, Generation
from vital_eval.trajectory import StopReason, Trajectory

#: Text to token ids of a turn, the end-of-turn token included.
Speak = Callable[[str], tuple[int, ...]]
#: Opens a video by its path below the videos folder. Raises MediaError.
OpenVideo = Callable[[str], Awaitable[Footage]]
#: Episodes at a time where nobody says otherwise.
UNDER_WAY = 32


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One finished episode and everything that was said in it.

    Attributes:
        attempt: what was attempted.
        trajectory: what became of it.
        conversation: from the first message to the model's last turn; ``None`` if the model never spoke (a bad
            video, a dead engine, a full context).
    """

    attempt: Attempt
    trajectory: Trajectory
    conversation: Conversation | None


class Recorder:
    """An engine that remembers, for every episode under way, the whole conversation.

    Args:
        engine: the one that speaks.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._said: dict[str, Conversation] = {}

    @property
    def info(self) -> EngineInfo:
        """Return who answers."""
        return self._engine.info

    async def generate(self, request: GenerationRequest) -> Generation:
        """Have the engine write one turn, and keep it."""
        generation = await self._engine.generate(request)
        self._said[request.episode] = (*request.conversation, AssistantTurn(generation))
        return generation

    def release(self, episode: str) -> None:
        """Let the engine forget a finished episode; what was said stays until it is taken."""
        self._engine.release(episode)

    async def close(self) -> None:
        """Close the engine."""
        await self._engine.close()

    def take(self, episode: str) -> Conversation | None:
        """Return what was said in an episode and forget it; ``None`` if the model did not speak."""
        return self._said.pop(episode, None)


class Teacher:
    """An engine that speaks given turns, for supervised training.

    Args:
        info: identity and frame geometry of the model that is trained.
        speak: the model's tokenizer.
        turns: episode to the turns that the model is to say, in order.
    """

    def __init__(self, info: EngineInfo, speak: Speak, turns: Mapping[str, Sequence[str]]) -> None:
        self._info = info
        self._speak = speak
        self._turns = turns

    @property
    def info(self) -> EngineInfo:
        """Return who is taught."""
        return self._info

    async def generate(self, request: GenerationRequest) -> Generation:
        """Say the next turn.

        Raises:
            EngineError: if the episode goes on after the last turn (a tool call that is not read as one, say).
        """
        turns = self._turns[request.episode]
        place = sum(isinstance(entry, AssistantTurn) for entry in request.conversation)
        if place >= len(turns):
            raise EngineError(
                f"the solution of {request.episode} has {len(turns)} turns, turn {place + 1} is asked for"
            )
        return Generation(self._speak(turns[place]), turns[place], FinishReason.END_OF_TURN, prompt_tokens=0)

    def release(self, episode: str) -> None:
        """Nothing is cached."""

    async def close(self) -> None:
        """Nothing is held."""


async def roll_out(
    attempts: Sequence[Attempt], engine: Engine, open_video: OpenVideo, concurrency: int = UNDER_WAY
) -> tuple[Rollout, ...]:
    """Play every attempt once.

    Args:
        attempts: no two with the same episode name.
        engine: writes the turns; it is not closed.
        open_video: resolves and probes a sample's video.
        concurrency: episodes under way at a time.

    Returns:
        One rollout per attempt, in their order.

    Raises:
        ValueError: if two attempts are the same episode: they would be one draw counted twice.
    """
    names = [attempt.episode for attempt in attempts]
    if len(set(names)) != len(names):
        raise ValueError("two attempts are the same episode; number them")
    recorder = Recorder(engine)
    gate = asyncio.Semaphore(concurrency)

    async def play(attempt: Attempt) -> Rollout:
        async with gate:
            trajectory = await run_episode(attempt, recorder, lambda: open_video(attempt.sample.video))
        return Rollout(attempt, trajectory, recorder.take(attempt.episode))

    return tuple(await asyncio.gather(*(play(attempt) for attempt in attempts)))


def failed(rollout: Rollout) -> bool:
    """Tell whether the machine failed, not the model: such a rollout must not be trained on."""
    return rollout.conversation is None or rollout.trajectory.stop in (
        StopReason.MEDIA_FAILED,
        StopReason.ENGINE_FAILED,
        StopReason.TIMEOUT,
    )
