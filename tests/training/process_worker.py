"""Two steps on fixed conversations; the test takes them in one process and has torchrun call ``main`` in two."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Message, TextPart, VideoPart
from vital_eval.engines.encode import Encoded
from vital_eval.engines.hf import HFEngine, load_engine
from vital_eval.errors import VitalError
from vital_eval.generation import FinishReason, Generation
from vital_eval.span import Span
from vital_eval.training.collate import collate
from vital_eval.training.log_probs import Support, sampled_log_probs
from vital_eval.training.policy_loss import LossMetrics, LossSettings, Normaliser, policy_loss
from vital_eval.training.processes import Processes, fingerprint, joined
from vital_eval.training.state import restore_state, save_state

#: Group, video shade or none, what was said, advantage. Lengths differ, and only groups a and c hold a video.
SAID = (
    ("a", 90, "<think>early</think><answer>1 to 5</answer>", 0.9),
    ("a", 90, "<answer>7 to 9</answer>", -1.1),
    ("b", None, "<answer>2 to 3</answer>", -0.4),
    ("b", None, "<think>nothing was shown, so this is a guess and no more</think><answer>4 to 6</answer>", 0.7),
    ("c", 200, "<answer>0 to 32</answer>", 1.3),
    ("c", 200, "<think>late</think><answer>30 to 31</answer>", -0.6),
)
#: With a reference, so that the second step has a KL term that is not 0.
SETTINGS = LossSettings(kl=0.05)
STEPS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a process ended with: weights, the gradients of the last step, the metrics of every step."""

    weights: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    metrics: tuple[LossMetrics, ...]


def conversations(engine: HFEngine) -> dict[str, list[tuple[Encoded, float]]]:
    """Return the encoded conversations and their advantages by group."""
    groups: dict[str, list[tuple[Encoded, float]]] = {}
    parts = engine.parts
    for group, shade, said, advantage in SAID:
        frames = np.full((4, 32, 32, 3), shade or 0, dtype=np.uint8)
        clip = Clip(frames, (0.0, 8.0, 16.0, 24.0), Span(0.0, 32.0))
        question = TextPart(f"When does {group} happen?")
        asked = Message("user", (VideoPart(clip), question) if shade else (question,))
        ids = (*parts.tokenizer(said, add_special_tokens=False)["input_ids"], parts.tokenizer.eos_token_id)
        turn = AssistantTurn(Generation(ids, said, FinishReason.END_OF_TURN, prompt_tokens=0))
        encoded = parts.encoder.encode((asked, turn), open_turn=False)
        groups.setdefault(group, []).append((encoded, advantage))
    return groups


def play(
    processes: Processes,
    only: str = "",
    normaliser: str = "whole",
    sharded: bool = False,
    state: Path | None = None,
) -> Outcome:
    """Take the steps on this process's share.

    Args:
        processes: who takes part.
        only: the one group there is; "" for all.
        normaliser: ``whole`` counts over all processes; ``own`` is the control, where each divides by its own tokens
            and gradients are averaged.
        sharded: each process keeps a part of the moments; between steps they are collected for a new optimiser.
        state: between steps, model and optimiser are saved here and read back by new ones, as after a kill.
    """
    with as_file(files("vital_eval.nano") / "checkpoint") as folder:
        # Adam divides by the size of the gradient: where it is 0 but for rounding, float32 would step by chance.
        engine = load_engine(folder, "cpu", "float64")
    model, vocabulary = engine.parts.model, engine.parts.vocabulary
    reference = copy.deepcopy(model)
    optimiser = processes.adamw(model.parameters(), 1e-3, 0.01, sharded=sharded)
    groups = conversations(engine)
    mine = processes.share([group for group in groups if only in group])
    processes.require_whole_groups(mine)
    items = [item for group in mine for item in groups[group]]
    tokens = sum(int(encoded.is_sampled[1:].sum()) for encoded, _ in items)
    whole = processes.whole(tokens, len(items)) if normaliser == "whole" else Normaliser(tokens, len(items))
    metrics = []
    for number in range(STEPS):
        optimiser.zero_grad(set_to_none=True)
        parts = [
            backward(model, reference, items[start : start + 2], vocabulary.pad_id, vocabulary.banned_ids, whole)
            for start in range(0, len(items), 2)
        ]
        metrics.append(processes.summed(parts))
        processes.add_gradients(model.parameters())
        if normaliser == "own":
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad /= processes.world
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if state is not None and number == 0:
            model, optimiser = resumed(processes, model, optimiser, state, sharded)
        elif sharded:
            optimiser = renewed(processes, optimiser, model)
        processes.require_same(fingerprint(model.parameters()), "weights with the fingerprint")
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    gradients = {name: value.grad.numpy() for name, value in model.named_parameters() if value.grad is not None}
    return Outcome(weights, gradients, tuple(metrics))


def renewed(processes: Processes, optimiser: torch.optim.Optimizer, model: PreTrainedModel) -> torch.optim.Optimizer:
    """Return a new optimiser that goes on with the state of a sharded one, as a resumed process would."""
    processes.collect_state(optimiser)
    collected = processes.gather([optimiser.state_dict()] if processes.first else [])[0]
    assert all(len(moments) == 3 for moments in collected["state"].values())
    fresh = processes.adamw(model.parameters(), 1e-3, 0.01)
    fresh.load_state_dict(copy.deepcopy(collected))
    return fresh


def resumed(
    processes: Processes, model: PreTrainedModel, optimiser: torch.optim.Optimizer, path: Path, sharded: bool
) -> tuple[PreTrainedModel, torch.optim.Optimizer]:
    """Return a new model and a new optimiser that know what went before from the saved state alone."""
    processes.collect_state(optimiser)
    if processes.first:
        save_state(model, optimiser, 1, path)
    processes.barrier()
    fresh = copy.deepcopy(model)
    fresh.zero_grad(set_to_none=True)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(7.0)
    again = processes.adamw(fresh.parameters(), 1e-3, 0.01, sharded=sharded)
    assert restore_state(fresh, again, path) == 1
    processes.barrier()
    return fresh, again


def backward(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    items: Sequence[tuple[Encoded, float]],
    pad_id: int,
    banned_ids: tuple[int, ...],
    whole: Normaliser | None,
) -> LossMetrics:
    batch = collate([encoded for encoded, _ in items], pad_id)
    support = Support(1.0, banned_ids)
    sampled = sampled_log_probs(model, batch, support)
    with torch.no_grad():
        held = sampled_log_probs(reference, batch, support).values
    advantages = torch.tensor([advantage for _, advantage in items])
    result = policy_loss(sampled.values, advantages, sampled.mask, SETTINGS, reference_log_probs=held, whole=whole)
    result.loss.backward()
    return result.metrics


def refused(processes: Processes) -> dict[str, object]:
    """Return what this process is told where the processes do not fit together."""
    told: dict[str, object] = {}
    try:
        # Rollouts shared out instead of problems: every group is in both.
        processes.require_whole_groups(processes.share([group for group, *_ in SAID]))
    except ValueError as error:
        told["groups"] = str(error)
    try:
        processes.require_same(10 * processes.rank, "step")
    except VitalError as error:
        told["same"] = str(error)
    return told


def main(folder: Path) -> None:
    """Write what this process ended with into the folder."""
    with joined("cpu") as processes:
        outcomes = {
            "all": play(processes),
            "one-group": play(processes, only="b"),
            "sharded": play(processes, sharded=True),
            "resumed": play(processes, state=folder / "plain.safetensors"),
            "resumed-sharded": play(processes, sharded=True, state=folder / "sharded.safetensors"),
            "own": play(processes, normaliser="own"),
        }
        told = refused(processes) | {
            "share": processes.share(range(5)),
            "gathered": processes.gather([processes.rank] * (processes.rank + 1)),
            "sum": processes.sum((1.0, processes.rank + 0.1)),
            "nothing": processes.whole(0, 0) is None,
            "loss": {name: [one.loss for one in outcome.metrics] for name, outcome in outcomes.items()},
        }
        if processes.first:
            (folder / "written").touch()
        processes.barrier()
        told["written"] = (folder / "written").is_file()
    for name, outcome in outcomes.items():
        np.savez(folder / f"{name}-{processes.rank}-weights.npz", **outcome.weights)
        np.savez(folder / f"{name}-{processes.rank}-gradients.npz", **outcome.gradients)
    (folder / f"{processes.rank}.json").write_text(json.dumps(told), encoding="utf-8")
