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
from typing import Literal

import torch

from vital_eval.engines.encode import Encoded
from vital_eval.episode import Attempt
from vital_eval.errors import VitalError
from vital_eval.protocol import Mode, Protocol
from vital_eval.toolbox import Tool

from .adapters import freeze_vision, require_full_precision
from .advantages import Difficulty, group_advantages, informative, lone
from .collate import Batch, collate
from .interrupts import interruptible
from .log_probs import Support, sampled_log_probs
from .order import epoch_places
from .policy import Policy, require_agreement
from .policy_loss import LossMetrics, LossSettings, Normaliser, policy_loss
from .problems import Problem
from .processes import Processes, fingerprint
from .repetition import Repetition, repetition_of, require_variety
from .rewards import RewardRules, rollout_reward
from .rollouts import UNDER_WAY, OpenVideo, Rollout, failed, roll_out
from .state import cut_log, restore_state, save_state
from .step_log import append_step, read_log

#: Problems by which engine and model are compared, until one is not lost to the machine.
_PROBES = 4


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
        dtype: of the forward passes of policy and reference; ``auto`` is bfloat16 on a GPU. Trained weights are float32
            in any case, and so is the output layer.
        loop_limit: share of a step's rollouts that may repeat themselves to the token limit; 1 allows all.
        loop_steps: training stops once so many steps in a row exceed it.

    Raises:
        ValueError: if the protocol samples in a way that the log-probabilities do not model, or a setting is out of
            range.
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
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    loop_limit: float = 0.5
    loop_steps: int = 10

    def length(self, problems: int) -> int:
        """Return the number of steps over so many problems."""
        return self.steps or -(-self.epochs * problems // self.prompts)

    def identity(self) -> dict[str, object]:
        """Return the settings that decide the weights after a step, for a hash.

        How many rollouts share a forward pass may change, and when repetition stops it; and a stage may be made longer.
        """
        return dataclasses.asdict(
            dataclasses.replace(self, micro_batch=1, steps=1, epochs=0, loop_limit=1.0, loop_steps=1)
        )

    def halved(self, device: torch.device) -> bool:
        """Tell whether forward passes on a device are in bfloat16."""
        return self.dtype == "bfloat16" or (self.dtype == "auto" and device.type == "cuda")

    def __post_init__(self) -> None:
        """Refuse samplers that the loss does not know, and settings that mean nothing."""
        counts = (self.steps or self.epochs, self.prompts, self.micro_batch, self.group - 1)
        positive = (self.rate, self.clip_norm)
        if min(counts) < 1 or self.warmup < 0 or not all(0 < value < math.inf for value in positive):
            raise ValueError(f"impossible stage {self}")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"stage {self.name}: dtype {self.dtype!r} is none of auto, float32, bfloat16")
        if not 0 <= self.loop_limit <= 1 or self.loop_steps < 1:
            raise ValueError(f"stage {self.name}: a loop_limit in [0, 1] over at least one step is needed")
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
        reward: mean total reward; format, task, tool and the penalty for loops are its parts.
        format: mean format reward.
        task: mean task reward.
        tool: mean tool bonus.
        answered: share with an answer field.
        informative: share in groups whose rewards differ.
        weight: mean difficulty weight.
        calls: tool calls per rollout.
        tokens: sampled tokens per rollout.
        truncated: share of rollouts with a turn that the token limit ended.
        repeated: mean share of repeated 4-grams, see :func:`~.repetition.repeated_share`.
        looping: share of rollouts that repeat themselves to the token limit.
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
    truncated: float
    repeated: float
    looping: float
    loss: LossMetrics
    gradient: float
    seconds: float


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
    saved: Callable[[Path], None] | None = None,
    under_way: int = UNDER_WAY,
) -> tuple[StepMetrics, ...]:
    """Train one stage; an interrupted one goes on from its last saved state.

    Args:
        policy: see :class:`~.policy.Policy`. Its engine is given the weights before the first step and after each.
        stage: see :class:`DgrpoStage`.
        problems: the training set.
        tools: the protocol's tools by name.
        open_video: opens a problem's video.
        folder: where ``<stage>.safetensors`` (weights, optimiser, step) and ``<stage>.jsonl`` (metrics) are kept.
        seed: of the order of problems. Rollouts draw by the seed of the stage's protocol, the problem and their number.
        report: called with one line a step.
        save_every: steps between saved states.
        processes: who takes the steps together; this one alone if not given.
        saved: called with the log whenever a state was saved, in the first process: what is drawn from the log then
            never shows a step that is taken again.
        under_way: episodes at a time; it moves no rollout.

    Returns:
        The metrics of the steps of this call.

    Raises:
        VitalError: if there are no problems, engine and model disagree, every rollout of a step was lost to the
            machine, the loss is not finite, or the policy fell into repetition. The last saved state is kept.
    """
    if not problems:
        raise VitalError(f"stage {stage.name} has no problems to train on", "check the data and its filters")
    if stage.loss.kl and policy.reference is None:
        raise ValueError("a KL term needs a reference")
    require_full_precision(policy.model, stage.name)
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
    loops = [
        entry.values.get("looping", 0.0) for entry in read_log(log) if first - stage.loop_steps <= entry.step < first
    ]
    if first < steps:
        await policy.sync()
        probes = [attempt_of(problem, stage.protocol, tools, 0) for problem in problems[:_PROBES]]
        await require_agreement(policy, probes, open_video, stage.halved(policy.model.device))
    done: list[StepMetrics] = []
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = stage.rate * min(1.0, (step + 1) / max(1, stage.warmup))
        metrics = await _step(
            policy,
            stage,
            draw(problems, stage.prompts, step, seed),
            tools,
            open_video,
            step,
            optimiser,
            together,
            under_way,
        )
        if metrics.trained:
            await policy.sync()
        done.append(metrics)
        loops.append(metrics.looping)
        if together.first:
            append_step(log, dataclasses.asdict(metrics))
            report(
                f"{stage.name} step {step + 1}/{steps} reward {metrics.reward:.3f} (task {metrics.task:.3f}, "
                f"format {metrics.format:.2f}, tool {metrics.tool:.2f}) answered {metrics.answered:.0%} "
                f"calls {metrics.calls:.2f} kl {metrics.loss.kl:.4f} entropy {metrics.loss.entropy:.2f} "
                f"looping {metrics.looping:.0%} trained {metrics.trained}/{metrics.rollouts} failed {metrics.failed} "
                f"({metrics.seconds:.1f} s)"
            )
        require_variety(stage.name, step, loops, stage.loop_limit, stage.loop_steps)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            together.collect_state(optimiser)
            if together.first:
                save_state(policy.model, optimiser, step + 1, state, recipe)
                if saved is not None:
                    saved(log)
            together.barrier()
    if together.first and done and not any(metrics.trained for metrics in done):
        report(
            f"{stage.name} trained on nothing in {len(done)} steps: in no group did rewards differ; the weights are "
            "those it started from"
        )
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
    under_way: int,
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
        under_way,
    )
    kept = [(place, rollout) for (place, _), rollout in zip(asked, rollouts, strict=True) if not failed(rollout)]
    if not together.sum((len(kept),))[0]:
        error = next((rollout.trajectory.error for rollout in rollouts), "")
        raise VitalError(f"stage {stage.name} step {step}: every rollout was lost to the machine ({error})")
    repetitions = [repetition_of(rollout.conversation or ()) for _, rollout in kept]
    rewards = [
        rollout_reward(rollout.trajectory, problems[place].score, stage.rules, repetition.looping)
        for (place, rollout), repetition in zip(kept, repetitions, strict=True)
    ]
    groups = [place for place, _ in kept]
    total = torch.tensor([reward.total for reward in rewards], dtype=torch.float64)
    task = torch.tensor([reward.task for reward in rewards], dtype=torch.float64)
    advantages = group_advantages(total, task, groups, stage.difficulty, stage.normalise)
    # What is left of a group whose other rollouts were lost to the machine has nothing to be better than; its reward
    # as its advantage (verl's rule for groups of one) would reinforce whatever it answered.
    alone = lone(groups)
    differs = informative(total, groups) & ~alone
    trained_on = differs if stage.filtered else ~alone
    chosen = [index for index in range(len(kept)) if trained_on[index]]
    with interruptible():
        loss, gradient = _update(
            policy, stage, [kept[index][1] for index in chosen], advantages.values[chosen], optimiser, together
        )
    played, trained = (int(value) for value in together.sum((len(rollouts), len(chosen))))
    rows = [
        _Row(
            reward=reward.total,
            format=reward.format,
            task=reward.task,
            tool=reward.tool,
            answered=rollout.trajectory.answer_text is not None,
            informative=bool(differs[index]),
            weight=float(advantages.weights[index]),
            calls=len(rollout.trajectory.tool_calls),
            tokens=sum(turn.new_tokens for turn in rollout.trajectory.turns),
            repetition=repetitions[index],
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
    halved = stage.halved(policy.model.device)
    sampled = sampled_log_probs(policy.model, batch, support, train_entropy=stage.loss.entropy != 0, halved=halved)
    reference = _reference(policy, batch, support, halved) if stage.loss.kl else None
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
def _reference(policy: Policy, batch: Batch, support: Support, halved: bool) -> torch.Tensor:
    if policy.reference is None:
        raise ValueError("a KL term needs a reference")
    return sampled_log_probs(policy.reference, batch, support, halved=halved).values


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
    repetition: Repetition


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
        truncated=fmean(row.repetition.truncated for row in rows),
        repeated=fmean(row.repetition.share for row in rows),
        looping=fmean(row.repetition.looping for row in rows),
        loss=loss,
        gradient=gradient,
        seconds=seconds,
    )


def _recipe(stage: DgrpoStage, problems: Sequence[Problem], seed: int) -> str:
    """Return what a saved state belongs to: another seed, set of problems or setting must not go on with it."""
    content = [seed, [problem.sample.id for problem in problems], stage.identity()]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
