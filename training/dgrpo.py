"""DGRPO on one machine: sample groups of rollouts, reward them, weigh groups by difficulty, one clipped update.

Everything a step does follows from (seed, step) and the weights, so a stage that was killed goes on as if it had not
been. Rollouts are the harness's episodes (:mod:`.rollouts`), rewards its parsers and scorers (:mod:`.rewards`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch
from transformers import PreTrainedModel

from vital_eval.engine import Engine
from vital_eval.engines.encode import Encoded, Encoder
from vital_eval.episode import Attempt
from vital_eval.errors import VitalError
from vital_eval.protocol import Mode, Protocol
from vital_eval.toolbox import Tool

from .adapters import freeze_vision
from .advantages import Difficulty, group_advantages, informative
from .collate import Batch, collate
from .log_probs import Support, sampled_log_probs
from .order import epoch_places
from .policy_loss import LossMetrics, LossSettings, Normaliser, policy_loss
from .problems import Problem
from .processes import Processes, fingerprint
from .rewards import RewardRules, rollout_reward
from .rollouts import OpenVideo, Rollout, failed, roll_out
from .state import cut_log, restore_state, save_state


@dataclass(frozen=True, slots=True)
class DgrpoStage:
    """One reinforcement stage.

    Attributes:
        name: what it is called in logs and files.
        protocol: how problems are attempted; its sampling has a temperature above 0, top_p 1 and no repetition
            penalty, because log-probabilities are those of exactly that sampler.
        steps: optimiser steps; 0 if ``epochs`` says how long.
        rate: learning rate, constant after the warm-up.
        prompts: problems a step.
        group: rollouts a problem.
        warmup: steps of linear warm-up.
        difficulty: see :class:`~.advantages.Difficulty`.
        normalise: divide advantages by the group's standard deviation.
        filtered: leave out groups whose rewards do not differ.
        loss: see :class:`~.policy_loss.LossSettings`.
        rules: see :class:`~.rewards.RewardRules`.
        micro_batch: rollouts in one forward pass.
        clip_norm: largest norm of the gradient.
        epochs: passes over the problems, used where ``steps`` is 0.
        freeze_vision: leave the vision tower as it is.

    Raises:
        ValueError: if the protocol samples in a way that the log-probabilities do not model.
    """

    name: str
    protocol: Protocol
    steps: int
    rate: float
    prompts: int
    group: int
    warmup: int = 0
    difficulty: Difficulty = Difficulty.RELEASED
    normalise: bool = True
    filtered: bool = True
    loss: LossSettings = field(default_factory=LossSettings)
    rules: RewardRules = field(default_factory=RewardRules)
    micro_batch: int = 8
    clip_norm: float = 1.0
    epochs: int = 0
    freeze_vision: bool = False

    def length(self, problems: int) -> int:
        """Return the number of steps over so many problems."""
        return self.steps or -(-self.epochs * problems // self.prompts)

    def __post_init__(self) -> None:
        """Refuse samplers that the loss does not know."""
        sampling = self.protocol.sampling
        if not sampling.temperature > 0 or sampling.top_p != 1 or sampling.repetition_penalty != 1:
            raise ValueError(f"stage {self.name} needs temperature > 0, top_p 1, repetition_penalty 1, not {sampling}")


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one step did; means are over the rollouts of the step that did not fail by the machine.

    Attributes:
        step: number of the step, from 0.
        rollouts: rollouts played.
        failed: rollouts lost to the machine (bad video, time limit); they are not trained on.
        trained: rollouts that entered the loss.
        reward: mean total reward; format, task and tool are its parts.
        format: mean format reward.
        task: mean task reward.
        tool: mean tool bonus.
        answered: share with an answer field.
        informative: share in groups whose rewards differ.
        weight: mean difficulty weight.
        calls: tool calls per rollout.
        tokens: sampled tokens per rollout.
        loss: see :class:`~.policy_loss.LossMetrics`; all 0 if no rollout could be trained on.
        gradient: norm of the gradient before clipping.
        seconds: wall-clock time.
    """

    step: int
    rollouts: int
    failed: int
    trained: int
    reward: float
    format: float
    task: float
    tool: float
    answered: float
    informative: float
    weight: float
    calls: float
    tokens: float
    loss: LossMetrics
    gradient: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """What is trained and what it is held to.

    Attributes:
        model: trained in place.
        reference: frozen copy for the KL term; ``None`` if its weight is 0.
        encoder: the one evaluation uses.
        engine: speaks with ``model``'s weights.
        pad_id: id of padding.
        banned_ids: tokens that the engine never samples.
    """

    model: PreTrainedModel
    reference: PreTrainedModel | None
    encoder: Encoder
    engine: Engine
    pad_id: int
    banned_ids: tuple[int, ...]


async def train_dgrpo(
    policy: Policy,
    stage: DgrpoStage,
    problems: Sequence[Problem],
    tools: Mapping[str, Tool],
    open_video: OpenVideo,
    folder: Path,
    seed: int,
    report: Callable[[str], None],
    save_every: int = 10,
    processes: Processes | None = None,
) -> tuple[StepMetrics, ...]:
    """Train one stage; an interrupted one goes on from its last saved state.

    Args:
        policy: see :class:`Policy`.
        stage: see :class:`DgrpoStage`.
        problems: the training set.
        tools: the protocol's tools by name.
        open_video: opens a problem's video.
        folder: where ``<stage>.safetensors`` (weights, optimiser, step) and ``<stage>.jsonl`` (metrics) are kept.
        seed: of the order of problems and of every draw.
        report: called with one line a step.
        save_every: steps between saved states.
        processes: who takes the steps together; this one alone if not given.

    Returns:
        The metrics of the steps of this call.

    Raises:
        VitalError: if there are no problems, every rollout of a step was lost to the machine, or the loss is not
            finite.
    """
    if not problems:
        raise VitalError(f"stage {stage.name} has no problems to train on", "check the data and its filters")
    if stage.loss.kl and policy.reference is None:
        raise ValueError("a KL term needs a reference")
    together = processes or Processes()
    if stage.freeze_vision:
        freeze_vision(policy.model)
    trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    optimiser = together.adamw(trained, stage.rate, 0.01)
    steps = stage.length(len(problems))
    state, log = folder / f"{stage.name}.safetensors", folder / f"{stage.name}.jsonl"
    recipe = _recipe(stage, problems, seed)
    first = restore_state(policy.model, optimiser, state, recipe)
    together.require_same((first, fingerprint(trained)), "step and weights")
    if together.first:
        cut_log(log, first)
    done: list[StepMetrics] = []
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = stage.rate * min(1.0, (step + 1) / max(1, stage.warmup))
        metrics = await _step(
            policy, stage, draw(problems, stage.prompts, step, seed), tools, open_video, step, optimiser, together
        )
        done.append(metrics)
        if together.first:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(metrics)) + "\n")
            report(
                f"{stage.name} step {step + 1}/{steps} reward {metrics.reward:.3f} (task {metrics.task:.3f}, "
                f"format {metrics.format:.2f}, tool {metrics.tool:.2f}) answered {metrics.answered:.0%} "
                f"calls {metrics.calls:.2f} kl {metrics.loss.kl:.4f} entropy {metrics.loss.entropy:.2f} "
                f"({metrics.seconds:.1f} s)"
            )
        if (step + 1) % save_every == 0 or step + 1 == steps:
            together.collect_state(optimiser)
            if together.first:
                save_state(policy.model, optimiser, step + 1, state, recipe)
            together.barrier()
    return tuple(done)


def draw(problems: Sequence[Problem], count: int, step: int, seed: int) -> tuple[Problem, ...]:
    """Return the problems of a step: every epoch is a permutation of its own, and nothing is dropped at its end.

    Where two epochs meet in a step it may hold a problem twice; these are two groups.
    """
    return tuple(problems[place] for place in epoch_places(len(problems), step * count, (step + 1) * count, seed))


async def _step(
    policy: Policy,
    stage: DgrpoStage,
    problems: Sequence[Problem],
    tools: Mapping[str, Tool],
    open_video: OpenVideo,
    step: int,
    optimiser: torch.optim.Optimizer,
    together: Processes,
) -> StepMetrics:
    started = time.monotonic()
    # Numbered through the whole stage, so that no two rollouts of a problem ever share a seed.
    first = step * stage.prompts * stage.group
    mine = together.share(range(len(problems)))
    asked = [(place, place * stage.group + number) for place in mine for number in range(stage.group)]
    policy.model.eval()
    rollouts = await roll_out(
        [attempt_of(problems[place], stage.protocol, tools, first + number) for place, number in asked],
        policy.engine,
        open_video,
    )
    kept = [(place, rollout) for (place, _), rollout in zip(asked, rollouts, strict=True) if not failed(rollout)]
    if not together.sum((len(kept),))[0]:
        error = next((rollout.trajectory.error for rollout in rollouts), "")
        raise VitalError(f"stage {stage.name} step {step}: every rollout was lost to the machine ({error})")
    rewards = [rollout_reward(rollout.trajectory, problems[place].score, stage.rules) for place, rollout in kept]
    groups = [place for place, _ in kept]
    total = torch.tensor([reward.total for reward in rewards], dtype=torch.float64)
    task = torch.tensor([reward.task for reward in rewards], dtype=torch.float64)
    advantages = group_advantages(total, task, groups, stage.difficulty, stage.normalise)
    differs = informative(total, groups)
    chosen = [index for index in range(len(kept)) if not stage.filtered or bool(differs[index])]
    loss, gradient = _update(
        policy, stage, [kept[index][1] for index in chosen], advantages.values[chosen], optimiser, together
    )
    played, trained = (int(value) for value in together.sum((len(rollouts), len(chosen))))
    rows = [
        _Row(
            reward.total,
            reward.format,
            reward.task,
            reward.tool,
            rollout.trajectory.answer_text is not None,
            bool(differs[index]),
            float(advantages.weights[index]),
            len(rollout.trajectory.tool_calls),
            sum(turn.new_tokens for turn in rollout.trajectory.turns),
        )
        for index, ((_, rollout), reward) in enumerate(zip(kept, rewards, strict=True))
    ]
    return _metrics(step, played, trained, together.gather(rows), loss, gradient, time.monotonic() - started)


def attempt_of(problem: Problem, protocol: Protocol, tools: Mapping[str, Tool], number: int) -> Attempt:
    """Return an attempt at a problem; ``number`` moves its seeds."""
    offered = dict(tools) if protocol.mode is Mode.TOOL else {}
    return Attempt(problem.sample, problem.kind, problem.protocol(protocol), offered, number)


def _update(
    policy: Policy,
    stage: DgrpoStage,
    rollouts: Sequence[Rollout],
    advantages: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    together: Processes,
) -> tuple[LossMetrics, float]:
    encoded = [
        (policy.encoder.encode(rollout.conversation, open_turn=False), float(advantage))
        for rollout, advantage in zip(rollouts, advantages, strict=True)
        if rollout.conversation is not None
    ]
    tokens = sum(int(item.is_sampled[1:].sum()) for item, _ in encoded)
    whole = together.whole(tokens, len(encoded))
    if whole is None:
        return together.summed([]), 0.0
    # Like lengths go together, so that little is spent on padding.
    encoded.sort(key=lambda pair: len(pair[0].ids))
    optimiser.zero_grad(set_to_none=True)
    policy.model.train()
    starts = range(0, len(encoded), stage.micro_batch)
    parts = [_backward(policy, stage, encoded[start : start + stage.micro_batch], whole) for start in starts]
    together.add_gradients(policy.model.parameters())
    gradient = float(torch.nn.utils.clip_grad_norm_(policy.model.parameters(), stage.clip_norm))
    metrics = together.summed(parts)
    if not (math.isfinite(metrics.loss) and math.isfinite(gradient)):
        # Weights that took this step could not be mended; those of the last saved state can go on.
        raise VitalError(
            f"stage {stage.name}: loss {metrics.loss} with a gradient of norm {gradient}",
            "lower the rate; the same command goes on from the last saved state",
        )
    optimiser.step()
    return metrics, gradient


def _backward(
    policy: Policy, stage: DgrpoStage, items: Sequence[tuple[Encoded, float]], whole: Normaliser
) -> LossMetrics:
    batch = collate([item for item, _ in items], policy.pad_id).to(policy.model.device)
    support = Support(stage.protocol.sampling.temperature, policy.banned_ids)
    sampled = sampled_log_probs(policy.model, batch, support, train_entropy=stage.loss.entropy != 0)
    reference = _reference(policy, batch, support) if stage.loss.kl else None
    values = torch.tensor([advantage for _, advantage in items], dtype=torch.float32, device=policy.model.device)
    # One update a rollout: the policy that sampled is the one that is trained, so the old log-probabilities are these.
    result = policy_loss(
        sampled.values,
        values,
        sampled.mask,
        stage.loss,
        reference_log_probs=reference,
        entropy=sampled.entropy,
        whole=whole,
    )
    torch.autograd.backward(result.loss)
    return result.metrics


@torch.no_grad()
def _reference(policy: Policy, batch: Batch, support: Support) -> torch.Tensor:
    if policy.reference is None:
        raise ValueError("a KL term needs a reference")
    return sampled_log_probs(policy.reference, batch, support).values


@dataclass(frozen=True, slots=True)
class _Row:
    """What a rollout brings to the metrics of its step; small enough to be told to every process."""

    reward: float
    format: float
    task: float
    tool: float
    answered: bool
    informative: bool
    weight: float
    calls: int
    tokens: int


def _metrics(
    step: int,
    played: int,
    trained: int,
    rows: Sequence[_Row],
    loss: LossMetrics,
    gradient: float,
    seconds: float,
) -> StepMetrics:
    return StepMetrics(
        step=step,
        rollouts=played,
        failed=played - len(rows),
        trained=trained,
        reward=fmean(row.reward for row in rows),
        format=fmean(row.format for row in rows),
        task=fmean(row.task for row in rows),
        tool=fmean(row.tool for row in rows),
        answered=fmean(row.answered for row in rows),
        informative=fmean(row.informative for row in rows),
        weight=fmean(row.weight for row in rows),
        calls=fmean(row.calls for row in rows),
        tokens=fmean(row.tokens for row in rows),
        loss=loss,
        gradient=gradient,
        seconds=seconds,
    )


def _recipe(stage: DgrpoStage, problems: Sequence[Problem], seed: int) -> str:
    """Return what a saved state belongs to: another seed, set of problems or setting must not go on with it.

    How many rollouts share a forward pass may change, and a stage may be made longer.
    """
    settings = dataclasses.asdict(dataclasses.replace(stage, micro_batch=1, steps=1, epochs=0))
    content = [seed, [problem.sample.id for problem in problems], settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
