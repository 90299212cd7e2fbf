"""Supervised fine-tuning on conversations: loss on what the model says, pixels always in the forward pass.

A step follows from (seed, step) and the weights alone, so a stage that was killed goes on as if it had not been.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from vital_eval.conversation import Conversation
from vital_eval.engines.encode import Encoded, Encoder
from vital_eval.errors import DataError, VitalError
from vital_eval.protocol import Protocol

from .adapters import LoraSettings, add_lora, freeze_vision, require_full_precision, set_trained, trained_names
from .collate import collate, drop_pixels, micro_batches, token_losses
from .order import epoch_places
from .processes import Processes, fingerprint
from .read_ahead import AHEAD_BYTES, read_ahead
from .state import cut_log, restore_state, save_state
from .step_log import append_step
from .supervised import Lesson

#: Computes the gradient of one step and returns its mean loss. It must depend on the step and the weights alone, so
#: that a resumed stage sees what an undisturbed one would have.
Backward = Callable[[int], float]
#: Conversations in one forward pass of :func:`backward_mean`.
GROUP = 8


@dataclass(frozen=True, slots=True)
class Stage:
    """How weights move in one stage of a supervised recipe.

    Attributes:
        name: what the stage is called in the log and in its state file.
        steps: optimiser steps.
        rate: peak learning rate.
        warmup: steps of linear warm-up; a cosine to ``floor`` times the peak follows.
        floor: learning rate at the end, as a share of the peak.
        betas: of AdamW.
        weight_decay: of AdamW.
        clip_norm: largest norm of the gradient.
    """

    name: str
    steps: int
    rate: float
    warmup: int = 50
    floor: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip_norm: float = 1.0


@dataclass(frozen=True, slots=True)
class SftStage:
    """One supervised stage on lessons (VITAL's stages 1 and 3).

    Attributes:
        name: what the stage is called in logs and files.
        protocol: what lessons are played under; training itself does not look at it.
        rate: peak learning rate.
        steps: optimiser steps; 0 if ``epochs`` says how long.
        epochs: how often every lesson is seen, used where ``steps`` is 0. Every epoch has an order of its own.
        warmup: steps of linear warm-up; a cosine to ``floor`` times the peak follows.
        floor: learning rate at the end, as a share of the peak.
        betas: of AdamW.
        weight_decay: of AdamW.
        clip_norm: largest norm of the gradient.
        batch: lessons a step; the last step of whole epochs may have fewer.
        micro_batch: most lessons in one forward pass; it changes memory, not the gradient.
        micro_tokens: most tokens in one forward pass, padding included, likewise; a longer lesson goes alone.
        gradient_checkpointing: compute activations twice to save memory.
        dtype: of the forward pass; ``auto`` is bfloat16 on a GPU. Trained weights are float32 in any case.
        freeze_vision: leave the vision tower as it is.
        lora: train adapters on the language model instead of its weights, merged at the end.
        without_pixels: train without showing the videos, as VITAL's released code does by mistake. For ablation.

    Raises:
        ValueError: if a number is out of range.
    """

    name: str
    protocol: Protocol
    rate: float = 1e-5
    steps: int = 0
    epochs: int = 1
    warmup: int = 10
    floor: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    batch: int = 256
    micro_batch: int = 8
    micro_tokens: int = 65_536
    gradient_checkpointing: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    freeze_vision: bool = False
    lora: LoraSettings | None = None
    without_pixels: bool = False

    def __post_init__(self) -> None:
        """Refuse stages that would train nothing or go up the slope."""
        counts = (self.steps or self.epochs, self.batch, self.micro_batch, self.micro_tokens)
        positive = (self.rate, self.clip_norm)
        if min(counts) < 1 or self.warmup < 0 or not all(0 < value < math.inf for value in positive):
            raise ValueError(f"impossible stage {self}")
        if not 0 <= self.floor <= 1 or not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"impossible stage {self}")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"stage {self.name}: dtype {self.dtype!r} is none of auto, float32, bfloat16")

    def identity(self) -> dict[str, object]:
        """Return the settings that decide the weights, for a hash; how a step is shared out does not."""
        settings = dataclasses.asdict(self)
        for name in ("micro_batch", "micro_tokens", "gradient_checkpointing"):
            del settings[name]
        return settings

    def length(self, lessons: int) -> int:
        """Return the number of optimiser steps over so many lessons."""
        return self.steps or -(-self.epochs * lessons // self.batch)


@dataclass(frozen=True, slots=True)
class SftMetrics:
    """What one step did.

    Attributes:
        step: number of the step, from 0.
        loss: mean cross-entropy over the step's trained tokens, in nats.
        tokens: trained tokens.
        rate: learning rate.
        gradient: norm of the gradient before clipping.
        seconds: wall-clock time.
    """

    step: int
    loss: float
    tokens: int
    rate: float
    gradient: float
    seconds: float


def learning_rate(stage: Stage, step: int) -> float:
    """Return the learning rate at a step of a stage."""
    if step < stage.warmup:
        return stage.rate * (step + 1) / stage.warmup
    share = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return stage.rate * (stage.floor + (1 - stage.floor) / 2 * (1 + math.cos(math.pi * share)))


def draw(count: int, stage: SftStage, step: int, seed: int) -> tuple[int, ...]:
    """Return which of ``count`` lessons a step takes: epoch after epoch, each a permutation by (seed, epoch)."""
    first = step * stage.batch
    last = first + stage.batch if stage.steps else min(first + stage.batch, stage.epochs * count)
    return epoch_places(count, first, last, seed)


def backward_mean(model: PreTrainedModel, items: Sequence[Encoded], pad_id: int) -> float:
    """Accumulate the gradient of the mean loss over all trained tokens, and return that mean.

    Conversations of like length go through together, so that little is spent on padding; the result is that of one
    batch.
    """
    ordered = sorted(items, key=lambda item: len(item.ids))
    trained = sum(int(item.is_sampled[1:].sum()) for item in items)
    total = 0.0
    for start in range(0, len(ordered), GROUP):
        loss = token_losses(model, collate(ordered[start : start + GROUP], pad_id)).sum() / trained
        torch.autograd.backward(loss)
        total += loss.item()
    return total


def train_stage(
    model: PreTrainedModel,
    stage: Stage,
    backward: Backward,
    state_file: Path,
    report: Callable[[str], None],
    save_every: int = 200,
) -> None:
    """Train one stage; an interrupted stage goes on from its last saved state.

    Args:
        model: trained in place.
        stage: see :class:`Stage`.
        backward: see :data:`Backward`.
        state_file: where weights and optimiser state are kept (safetensors, the step in its metadata).
        report: called with one line now and then.
        save_every: steps between saved states.

    Raises:
        VitalError: if loss or gradient stop being finite, or the state cannot be read or written.
    """
    optimiser = _optimiser(model, stage, Processes())
    first = restore_state(model, optimiser, state_file)
    started, recent = time.monotonic(), 0.0

    def done(metrics: SftMetrics) -> None:
        nonlocal recent
        step, loss = metrics.step, metrics.loss
        recent = loss if step == first else 0.95 * recent + 0.05 * loss
        if step % 25 == 24 or step + 1 == stage.steps:
            pace = (time.monotonic() - started) / (step + 1 - first)
            report(f"{stage.name} step {step + 1}/{stage.steps} loss {recent:.4f} ({pace:.2f} s a step)")

    for step in range(first, stage.steps):
        done(_step(model, optimiser, stage, step, lambda: (backward(step), 0)))  # noqa: B023 - called at once
        if (step + 1) % save_every == 0 or step + 1 == stage.steps:
            save_state(model, optimiser, step + 1, state_file)


def train_sft(
    model: PreTrainedModel,
    encoder: Encoder,
    lessons: Sequence[Lesson],
    stage: SftStage,
    folder: Path,
    seed: int,
    report: Callable[[str], None],
    save_every: int = 50,
    processes: Processes | None = None,
    ahead_bytes: int = AHEAD_BYTES,
    saved: Callable[[Path], None] | None = None,
) -> tuple[SftMetrics, ...]:
    """Train one stage on lessons; an interrupted one goes on from its last saved state.

    While a forward pass is under way, the lessons behind it are being decoded.

    Args:
        model: trained in place, on its device. At the end it is a plain model (adapters are merged), and the same
            parameters need a gradient as before.
        encoder: the one that evaluation uses.
        lessons: see :mod:`.supervised`; each is decoded and encoded whenever it is trained on.
        stage: see :class:`SftStage`.
        folder: where ``<stage>.safetensors`` (trained weights, optimiser, step) and ``<stage>.jsonl`` (metrics) are
            kept.
        seed: of the order of lessons and of the adapters' first weights.
        report: called with one line now and then, at most about a hundred times.
        save_every: steps between saved states.
        processes: who takes the steps together, each its share of a step's lessons; this one alone if not given.
        ahead_bytes: see :func:`~.read_ahead.read_ahead`.
        saved: called with the log whenever a state was saved, in the first process.

    Returns:
        The metrics of the steps of this call.

    Raises:
        VitalError: if there are no lessons, loss or gradient stop being finite (the last saved state stays), the state
            cannot be read or written or belongs to another recipe, a lesson can no longer be shown as it was prepared,
            or trained weights are not float32.
        MissingExtraError: if adapters are wanted and peft is not installed.
    """
    if not lessons:
        raise VitalError(f"stage {stage.name} has no lessons to train on", "check the data and its filters")
    together = processes or Processes()
    count = len(lessons)
    plan = Stage(
        stage.name,
        stage.length(count),
        stage.rate,
        stage.warmup,
        stage.floor,
        stage.betas,
        stage.weight_decay,
        stage.clip_norm,
    )
    state, log = folder / f"{stage.name}.safetensors", folder / f"{stage.name}.jsonl"
    recipe = _recipe(encoder, lessons, stage, seed)
    finished: list[SftMetrics] = []
    with _prepared(model, stage, seed):
        optimiser = _optimiser(model, plan, together)
        first = restore_state(model, optimiser, state, recipe)
        trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
        together.require_same((recipe, first, fingerprint(trained)), "recipe, step and weights")
        if together.first:
            cut_log(log, first)
        shares = (_share(lessons, stage, step, seed, together) for step in range(first, plan.steps))
        order = (lesson for share in shares for group in share.passes for lesson in group)
        with closing(read_ahead(order, ahead_bytes)) as shown:
            for step in range(first, plan.steps):
                share = _share(lessons, stage, step, seed, together)
                backward = partial(_backward, model, encoder, share, shown, stage, together)
                metrics = _step(model, optimiser, plan, step, backward)
                finished.append(metrics)
                if together.first:
                    _log(metrics, plan, log, report)
                if (step + 1) % save_every == 0 or step + 1 == plan.steps:
                    together.collect_state(optimiser)
                    if together.first:
                        save_state(model, optimiser, step + 1, state, recipe)
                        if saved is not None:
                            saved(log)
                    together.barrier()
    return tuple(finished)


def _log(metrics: SftMetrics, plan: Stage, log: Path, report: Callable[[str], None]) -> None:
    append_step(log, dataclasses.asdict(metrics))
    done = metrics.step + 1
    if done % max(1, plan.steps // 100) == 0 or done == plan.steps:
        report(
            f"{plan.name} step {done}/{plan.steps} loss {metrics.loss:.4f} over {metrics.tokens} tokens, "
            f"gradient {metrics.gradient:.3f}, rate {metrics.rate:.2e} ({metrics.seconds:.2f} s)"
        )


def _optimiser(model: PreTrainedModel, stage: Stage, together: Processes) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return together.adamw(trained, stage.rate, stage.weight_decay, betas=stage.betas)


def _step(
    model: PreTrainedModel,
    optimiser: torch.optim.Optimizer,
    stage: Stage,
    step: int,
    backward: Callable[[], tuple[float, int]],
) -> SftMetrics:
    """Take one optimiser step on the gradient that ``backward`` leaves; it returns mean loss and trained tokens."""
    started = time.monotonic()
    rate = learning_rate(stage, step)
    for group in optimiser.param_groups:
        group["lr"] = rate
    model.train()
    optimiser.zero_grad(set_to_none=True)
    where = f"stage {stage.name}, step {step}"
    try:
        loss, tokens = backward()
        if not math.isfinite(loss):
            raise _NotFiniteError(f"the loss is {loss}")
        gradient = float(torch.nn.utils.clip_grad_norm_(model.parameters(), stage.clip_norm))
        if not math.isfinite(gradient):
            raise _NotFiniteError(f"the norm of the gradient is {gradient}")
    except _NotFiniteError as error:
        optimiser.zero_grad(set_to_none=True)
        raise VitalError(
            f"{where}: {error}", "the last saved state is kept; look at these lessons or lower the learning rate"
        ) from error
    optimiser.step()
    return SftMetrics(step, loss, tokens, rate, gradient, time.monotonic() - started)


class _NotFiniteError(Exception):
    """A number that must not reach the weights."""


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """What one process does of a step.

    Attributes:
        passes: its lessons, a tuple per forward pass; none if there are more processes than lessons.
        tokens: trained tokens of the whole step, over all processes.
    """

    passes: tuple[tuple[Lesson, ...], ...]
    tokens: int


def _share(lessons: Sequence[Lesson], stage: SftStage, step: int, seed: int, together: Processes) -> _Share:
    chosen = [lessons[place] for place in draw(len(lessons), stage, step, seed)]
    # Every process gets short ones and long ones, so that none waits long for another.
    mine = together.share(sorted(chosen, key=lambda lesson: lesson.length))
    groups = micro_batches([lesson.length for lesson in mine], stage.micro_batch, stage.micro_tokens)
    passes = tuple(tuple(mine[place] for place in group) for group in groups)
    return _Share(passes, sum(lesson.trained_tokens for lesson in chosen))


def _backward(
    model: PreTrainedModel,
    encoder: Encoder,
    share: _Share,
    shown: Iterator[Conversation],
    stage: SftStage,
    together: Processes,
) -> tuple[float, int]:
    device = model.device
    halved = stage.dtype == "bfloat16" or (stage.dtype == "auto" and device.type == "cuda")
    total, faults = 0.0, []
    for lessons in share.passes:
        # Encoded here and not before: the patches of a whole step do not fit into memory.
        items = [_encoded(encoder, lesson, next(shown)) for lesson in lessons]
        # Pads are masked, so any token that is not a video's will do.
        batch = collate(items, encoder.end_id)
        batch = (drop_pixels(batch) if stage.without_pixels else batch).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=halved):
            loss = token_losses(model, batch).sum() / share.tokens
        value = loss.item()
        if not math.isfinite(value):
            faults.append(f"the loss is {value} in lessons {', '.join(lesson.id for lesson in lessons)}")
            break
        torch.autograd.backward(loss)
        total += value
    # Told to all: a process that stopped alone would leave the others waiting for its gradient.
    faults = list(together.gather(faults))
    if faults:
        raise _NotFiniteError(faults[0])
    together.add_gradients(model.parameters())
    return together.sum((total,))[0], share.tokens


def _encoded(encoder: Encoder, lesson: Lesson, conversation: Conversation) -> Encoded:
    encoded = encoder.encode(conversation, open_turn=False)
    if len(encoded.ids) != lesson.length:
        raise DataError(
            f"record {lesson.id} has {len(encoded.ids)} tokens instead of {lesson.length}: its video {lesson.video} is "
            "another one than when training started",
            "bring the old one back, or train the stage from its start",
        )
    return encoded


@contextmanager
def _prepared(model: PreTrainedModel, stage: SftStage, seed: int) -> Iterator[None]:
    """Freeze, adapt and set up the model for a stage; at the end adapters are merged, or thrown away if it failed."""
    before = trained_names(model)
    adapters = None
    try:
        if stage.freeze_vision:
            freeze_vision(model)
        if stage.lora is not None:
            adapters = add_lora(model, stage.lora, seed)
        require_full_precision(model, stage.name)
        if stage.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        yield
        if adapters is not None:
            adapters.merge()
            adapters = None
    finally:
        if stage.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        if adapters is not None:
            # A model with half-trained adapters in its weights must not be what a second try starts from.
            adapters.discard()
        set_trained(model, before)


def _recipe(encoder: Encoder, lessons: Sequence[Lesson], stage: SftStage, seed: int) -> str:
    """Return a digest of everything that decides the weights."""
    taught = [(lesson.id, lesson.length, lesson.trained_tokens) for lesson in lessons]
    text = json.dumps([stage.identity(), seed, encoder.checkpoint.fingerprint, taught], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
