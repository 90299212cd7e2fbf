"""The clipped policy-gradient loss on tokens: dual clip, KL to a reference, entropy, and how tokens are averaged.

For a token with probability ratio r, advantage A and d = log p_reference - log p:

    l = max(-A r, -A clip(r, 1 - low, 1 + high)), and where A < 0: min(l, -A c)
    k = clamp(exp(d) - d - 1, -10, 10), with d clamped to [-20, 20]
    loss = mean(l) + beta mean(k) - gamma mean(entropy)

The log of r is clamped to [-20, 20] as well.

Source: ``compute_policy_loss_vanilla``, ``kl_penalty`` (``low_var_kl``) and ``agg_loss`` of verl; the means are those
of TRL's GRPO loss types too (see :class:`Aggregation`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from enum import StrEnum

import torch

_LOG_RATIO_LIMIT = 20.0
_KL_LIMIT = 10.0


class Aggregation(StrEnum):
    """What mean a batch's token losses are brought to.

    * ``token-mean``: over all trained tokens (TRL's bnpo; its dapo, if the normaliser is that of the whole batch).
    * ``seq-mean-token-mean``: over each rollout's tokens, then over rollouts (TRL's grpo).
    * ``seq-mean-token-sum``: sum over a rollout's tokens, then the mean over rollouts.
    * ``constant-length``: all tokens' sum over rollouts times a fixed length, so that no rollout's length matters
      (Dr. GRPO; verl's ``seq-mean-token-sum-norm`` and TRL's dr_grpo).
    """

    TOKEN_MEAN = "token-mean"  # noqa: S105
    SEQ_MEAN_TOKEN_MEAN = "seq-mean-token-mean"  # noqa: S105
    SEQ_MEAN_TOKEN_SUM = "seq-mean-token-sum"  # noqa: S105
    CONSTANT_LENGTH = "constant-length"


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Settings of the loss; the defaults are those of VITAL's stages 2 and 4.

    Attributes:
        clip_low: the ratio is clipped from below at 1 - clip_low.
        clip_high: and from above at 1 + clip_high; larger than clip_low is DAPO's clip-higher.
        dual_clip: bound c of the loss where the advantage is negative, above 1; ``None`` for none.
        kl: beta, the weight of the KL term; 0 for none.
        entropy: gamma, the weight of the entropy bonus; 0 for none.
        aggregation: see :class:`Aggregation`.
        length: fixed length in tokens of ``constant-length``; the longest response allowed, not the longest seen.

    Raises:
        ValueError: if a value makes no sense.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = 3.0
    kl: float = 0.01
    entropy: float = 0.0
    aggregation: Aggregation = Aggregation.TOKEN_MEAN
    length: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that contradict the formula."""
        if not 0 <= self.clip_low < 1 or self.clip_high < 0:
            raise ValueError(f"clip range {self.clip_low}, {self.clip_high} must be in [0, 1) and not negative")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip must be above 1 or None, not {self.dual_clip}")
        if self.aggregation is Aggregation.CONSTANT_LENGTH and self.length < 1:
            raise ValueError("constant-length aggregation needs a length of at least 1 token")


@dataclass(frozen=True, slots=True)
class Normaliser:
    """What the whole batch of one optimiser step holds; the denominator of every micro-batch of it.

    Attributes:
        tokens: trained tokens, at least 1.
        sequences: rollouts, at least 1; rows that only pad a micro-batch are not counted, rollouts whose tokens are
            all masked are, as in TRL.
    """

    tokens: int
    sequences: int

    def __post_init__(self) -> None:
        """Refuse a batch that holds nothing to train."""
        if self.tokens < 1 or self.sequences < 1:
            raise ValueError(f"no trained token in the batch ({self.tokens} tokens in {self.sequences} rollouts)")


def normaliser(mask: torch.Tensor) -> Normaliser:
    """Return the normaliser of a whole batch from its mask, shape (rollouts, tokens)."""
    return Normaliser(int(mask.bool().sum()), mask.shape[0])


@dataclass(frozen=True, slots=True)
class LossMetrics:
    """What the loss was made of. Every field adds up over the micro-batches of a step (:func:`summed`).

    Attributes:
        loss: the loss itself.
        policy: its policy part, aggregated as the loss.
        kl: mean k over trained tokens in nats, before beta; 0 without a reference.
        entropy: mean entropy over trained tokens in nats; 0 where it is not given.
        ratio: mean ratio over trained tokens; 1 if the policy has not moved.
        drift: mean of log p_old - log p over trained tokens, in nats.
        clipped_low: share of trained tokens with A < 0 whose ratio is clipped from below.
        clipped_high: share of trained tokens with A > 0 whose ratio is clipped from above.
        dual_clipped: share of trained tokens with A < 0 whose loss is bounded by the dual clip.
        surprise: mean of -log p minus the entropy over trained tokens, in nats; 0 where no entropy is given. About 0
            if the tokens were drawn from the trained policy; not if an engine drew them with other weights, another
            temperature or coarser arithmetic.
    """

    loss: float
    policy: float
    kl: float
    entropy: float
    ratio: float
    drift: float
    clipped_low: float
    clipped_high: float
    dual_clipped: float
    surprise: float


def summed(parts: Iterable[LossMetrics]) -> LossMetrics:
    """Return the metrics of a step from those of its micro-batches, which shared one normaliser."""
    return LossMetrics(*(sum(values) for values in zip(*(astuple(part) for part in parts), strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class PolicyLoss:
    """A loss to differentiate and what it was made of."""

    loss: torch.Tensor
    metrics: LossMetrics


def policy_loss(
    log_probs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    settings: LossSettings,
    old_log_probs: torch.Tensor | None = None,
    reference_log_probs: torch.Tensor | None = None,
    entropy: torch.Tensor | None = None,
    whole: Normaliser | None = None,
) -> PolicyLoss:
    """Return the loss of a micro-batch, as its share of the whole batch's loss.

    The losses of all micro-batches add up to that of the batch, and so do their gradients; take no mean over them.
    Where gradients are averaged over processes, count ``whole`` over all of them and multiply the loss by their
    number. Masked tokens may hold anything, NaN included: their gradient is exactly 0.

    Args:
        log_probs: log-probabilities of the sampled tokens under the trained policy and the sampler's own support and
            temperature, shape (rollouts, tokens), differentiable.
        advantages: shape (rollouts,) or (rollouts, tokens); no gradient flows into them.
        mask: shape (rollouts, tokens), not 0 on the tokens the policy sampled; tool results and chat separators are 0.
        settings: see :class:`LossSettings`.
        old_log_probs: under the policy that sampled, shape (rollouts, tokens); ``None`` if that is the trained one
            before its only update: the ratio is then exactly 1.
        reference_log_probs: under the reference, same shape; needed if ``settings.kl`` is not 0.
        entropy: of the policy at each token in nats, same shape, differentiable; needed if ``settings.entropy`` is
            not 0, otherwise for the metrics only.
        whole: counts of the whole batch; ``None`` if this is the whole batch.

    Raises:
        ValueError: if shapes differ, a needed input is missing, or no token is trained.
    """
    given = {"mask": mask, "old": old_log_probs, "reference": reference_log_probs, "entropy": entropy}
    for name, tensor in given.items():
        if tensor is not None and tensor.shape != log_probs.shape:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} does not fit {tuple(log_probs.shape)}")
    if advantages.shape not in (log_probs.shape, log_probs.shape[:1]):
        raise ValueError(f"advantages of shape {tuple(advantages.shape)} do not fit {tuple(log_probs.shape)}")
    if settings.kl and reference_log_probs is None:
        raise ValueError("a KL term needs the reference's log-probabilities")
    if settings.entropy and entropy is None:
        raise ValueError("an entropy bonus needs the policy's entropy")
    trained = mask.bool()
    whole = whole or normaliser(trained)

    def kept(values: torch.Tensor) -> torch.Tensor:
        # Before any arithmetic: what is masked afterwards still sends NaN back where it was not finite.
        return torch.where(trained, values, torch.zeros_like(values))

    def mean(values: torch.Tensor) -> float:
        return float(kept(values.detach().float()).sum() / whole.tokens)

    now = kept(log_probs)
    before = kept(now if old_log_probs is None else old_log_probs).detach()
    gain = kept((advantages[:, None] if advantages.dim() == 1 else advantages).expand_as(now)).detach()
    log_ratio = now - before
    ratio = log_ratio.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()
    plain = -gain * ratio
    clipped = torch.maximum(plain, -gain * ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high))
    bounded = torch.zeros_like(trained)
    losses = clipped
    if settings.dual_clip is not None:
        bound = -gain * settings.dual_clip
        bounded = (gain < 0) & (clipped > bound)
        losses = torch.where(gain < 0, torch.minimum(clipped, bound), clipped)
    policy = _aggregate(losses, trained, settings, whole)
    loss = policy
    divergence = torch.zeros_like(now) if reference_log_probs is None else k3(now, kept(reference_log_probs).detach())
    if settings.kl:
        loss = loss + settings.kl * _aggregate(divergence, trained, settings, whole)
    spread = torch.zeros_like(now) if entropy is None else kept(entropy)
    if settings.entropy:
        loss = loss - settings.entropy * _aggregate(spread, trained, settings, whole)
    metrics = LossMetrics(
        loss=float(loss.detach()),
        policy=float(policy.detach()),
        kl=mean(divergence),
        entropy=mean(spread),
        ratio=mean(ratio),
        drift=mean(-log_ratio),
        clipped_low=mean((gain < 0) & (ratio < 1 - settings.clip_low)),
        clipped_high=mean((gain > 0) & (ratio > 1 + settings.clip_high)),
        dual_clipped=mean(bounded),
        surprise=0.0 if entropy is None else mean(-now - spread),
    )
    return PolicyLoss(loss, metrics)


def k3(log_probs: torch.Tensor, reference_log_probs: torch.Tensor) -> torch.Tensor:
    """Return the low-variance estimate of the KL to a reference for each token, in nats and not below 0.

    Source:
        ``low_var_kl`` of verl, with its clamps; J. Schulman, Approximating KL divergence (k3).
    """
    distance = (reference_log_probs - log_probs).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return (distance.exp() - distance - 1).clamp(-_KL_LIMIT, _KL_LIMIT)


def _aggregate(values: torch.Tensor, trained: torch.Tensor, settings: LossSettings, whole: Normaliser) -> torch.Tensor:
    rows = values.sum(1)  # Masked tokens are 0 here: their inputs were.
    if settings.aggregation is Aggregation.TOKEN_MEAN:
        return rows.sum() / whole.tokens
    if settings.aggregation is Aggregation.SEQ_MEAN_TOKEN_MEAN:
        return (rows / trained.sum(1).clamp(min=1)).sum() / whole.sequences
    if settings.aggregation is Aggregation.SEQ_MEAN_TOKEN_SUM:
        return rows.sum() / whole.sequences
    return rows.sum() / (whole.sequences * settings.length)
