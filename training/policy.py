"""What is trained, the engine that speaks for it, and the check that the two are one model.

In process they share their weights. An engine that holds a copy (another process, another type, other kernels) is told
the new weights after every step; whatever it gets wrong would train the policy on another one's words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from transformers import PreTrainedModel

from vital_eval.engine import Engine
from vital_eval.engines.encode import Encoder
from vital_eval.episode import Attempt
from vital_eval.errors import VitalError

from .collate import collate
from .log_probs import Support, greedy_gaps
from .rollouts import OpenVideo, failed, roll_out

#: Tokens of the greedy turns by which engine and model are compared.
_PROBE_TOKENS = 32


@runtime_checkable
class WeightReceiver(Protocol):
    """An engine that can be given the weights it is to speak with."""

    async def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over weights and forget what was computed with the old ones; no request is under way.

        Args:
            weights: the trained model's parameters by their names in memory (``model.language_model.…``), tied ones
                once, in their own type and on their own device. They are the living ones: copy, and change nothing.

        Raises:
            VitalError: if they do not fit the engine's model.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """What is trained and what it is held to.

    Attributes:
        model: trained in place.
        reference: frozen copy for the KL term; ``None`` if its weight is 0.
        encoder: the one evaluation uses.
        engine: speaks with ``model``'s weights: it shares them, or takes them over (:class:`WeightReceiver`).
        pad_id: id of padding.
        banned_ids: tokens that the engine never samples.
        tolerance: how far, in nats, a greedy choice of the engine may lie behind the model's own (see
            :func:`require_agreement`). Rounding leaves about 1e-5 in float32. Half a nat leaves room for bfloat16 with
            other kernels; that bound is an estimate, measured on no GPU.
    """

    model: PreTrainedModel
    reference: PreTrainedModel | None
    encoder: Encoder
    engine: Engine
    pad_id: int
    banned_ids: tuple[int, ...]
    tolerance: float = 0.5

    async def sync(self) -> None:
        """Give the engine the model's weights; it costs nothing where it shares them.

        Raises:
            VitalError: if the engine cannot take them over: it would go on speaking with those it was loaded with.
        """
        if not isinstance(self.engine, WeightReceiver):
            raise VitalError(
                f"engine {self.engine.info.name} cannot be given new weights",
                "train with an engine that has load_weights, such as hf",
            )
        await self.engine.load_weights({name: value.detach() for name, value in self.model.named_parameters()})


async def require_agreement(
    policy: Policy, attempts: Sequence[Attempt], open_video: OpenVideo, halved: bool = False
) -> float | None:
    """Have the engine play an attempt greedily, and refuse to train if the model would have said something else.

    Whole conversations are compared, tool replies and videos included: other weights, positions, pixels or prompts
    show up as choices that the model itself finds unlikely.

    Args:
        policy: its tolerance says how far a choice may lie behind the model's best.
        attempts: tried in order, until one is not lost to the machine.
        open_video: opens an attempt's video.
        halved: as in training, see :func:`~.log_probs.sampled_log_probs`.

    Returns:
        The largest gap of a token in nats, 0 if the model would have chosen the same; ``None`` if every attempt was
        lost.

    Raises:
        VitalError: if a gap is beyond the tolerance.
    """
    for attempt in attempts:
        (rollout,) = await roll_out([_greedy(attempt)], policy.engine, open_video)
        if failed(rollout) or rollout.conversation is None:
            continue
        batch = collate([policy.encoder.encode(rollout.conversation, open_turn=False)], policy.pad_id)
        policy.model.eval()
        gaps = greedy_gaps(policy.model, batch.to(policy.model.device), Support(1.0, policy.banned_ids), halved=halved)
        largest = float(gaps.max()) if len(gaps) else 0.0
        # Not "above", so that a gap that is no number is refused too.
        if not largest <= policy.tolerance:
            raise VitalError(
                f"engine {policy.engine.info.name} and the trained model disagree: a token that the engine chose lies "
                f"{largest:.3g} nats behind the model's own choice, {policy.tolerance:.3g} are allowed "
                f"({int((gaps > policy.tolerance).sum())} of {len(gaps)} tokens, sample {attempt.sample.id})",
                "both must have the same checkpoint, prompts, pixels and positions",
            )
        return largest
    return None


def _greedy(attempt: Attempt) -> Attempt:
    sampling = attempt.protocol.sampling
    short = dataclasses.replace(
        sampling, temperature=0.0, top_p=1.0, max_new_tokens=min(sampling.max_new_tokens, _PROBE_TOKENS)
    )
    return dataclasses.replace(attempt, protocol=dataclasses.replace(attempt.protocol, sampling=short))
