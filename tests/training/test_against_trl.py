"""Our loss against TRL's own trainer code, where TRL is installed (``benchmarks/dgrpo_step.py`` says how)."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from vital_eval.training.policy_loss import Aggregation, LossSettings, normaliser, policy_loss

trl = pytest.importorskip(
    "trl", reason="TRL has an environment of its own; benchmarks/dgrpo_step.py says how to make it"
)

ROLLOUTS, TOKENS, LONGEST = 6, 9, 12
#: TRL's name of a loss type, ours, and whether TRL takes the denominator from the whole batch.
TYPES = {
    "bnpo": (Aggregation.TOKEN_MEAN, False),
    "dapo": (Aggregation.TOKEN_MEAN, True),
    "grpo": (Aggregation.SEQ_MEAN_TOKEN_MEAN, False),
    "dr_grpo": (Aggregation.CONSTANT_LENGTH, False),
}


class Batch:
    """Log-probabilities of rollouts; ratios from about 0.2 to 5, a tool reply in the middle, ragged ends."""

    def __init__(self, seed: int = 0) -> None:
        chance = torch.Generator().manual_seed(seed)

        def draw(low: float, high: float, *shape: int) -> torch.Tensor:
            return low + (high - low) * torch.rand(shape, generator=chance, dtype=torch.float64)

        self.log_probs = draw(-4, -0.1, ROLLOUTS, TOKENS)
        self.old = self.log_probs + draw(-1.6, 1.6, ROLLOUTS, TOKENS)
        self.reference = self.log_probs + draw(-1, 1, ROLLOUTS, TOKENS)
        self.entropy = draw(0, 2, ROLLOUTS, TOKENS)
        self.advantages = draw(-1, 1, ROLLOUTS)
        self.written = torch.arange(TOKENS) < TOKENS - torch.arange(ROLLOUTS)[:, None] % 4
        self.sampled = (torch.arange(TOKENS) != 2) & (torch.arange(TOKENS) != 3)
        self.mask = self.written & self.sampled


def theirs(batch: Batch, loss_type: str, settings: LossSettings, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return TRL's loss and its gradient; only the model is replaced, by one that returns the log-probabilities."""
    leaf = batch.log_probs.clone().requires_grad_()
    trainer = object.__new__(trl.GRPOTrainer)
    plain = {
        "model": SimpleNamespace(training=True),
        "accelerator": SimpleNamespace(
            num_processes=1,
            sync_gradients=True,
            reduce=lambda tensor, reduction: tensor,
            gather=lambda tensor: tensor,
        ),
        "args": SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        "loss_type": loss_type,
        "beta": settings.kl,
        "epsilon_low": settings.clip_low,
        "epsilon_high": settings.clip_high,
        "importance_sampling_level": "token",
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "aux_loss_enabled": False,
        "max_completion_length": LONGEST,
        "current_gradient_accumulation_steps": 1,
        "use_adaptive_entropy": False,
        "entropy_coef": settings.entropy,
        "_entropy_bonus_enabled": settings.entropy != 0,
        "_metrics": {"train": defaultdict(list)},
        "_get_per_token_logps_and_entropies": lambda *unused, **options: (leaf, batch.entropy, None),
    }
    for name, value in plain.items():
        setattr(trainer, name, value)
    ids = torch.zeros(ROLLOUTS, TOKENS, dtype=torch.long)
    loss = trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": ids[:, :2],
            "prompt_mask": torch.ones(ROLLOUTS, 2, dtype=torch.long),
            "completion_ids": ids,
            "completion_mask": batch.written.long(),
            "tool_mask": batch.sampled.long().expand(ROLLOUTS, TOKENS),
            "advantages": batch.advantages,
            "old_per_token_logps": batch.old,
            "ref_per_token_logps": batch.reference,
            "num_items_in_batch": torch.tensor(tokens),
        },
    )
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


def ours(batch: Batch, settings: LossSettings) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = batch.log_probs.clone().requires_grad_()
    result = policy_loss(
        leaf, batch.advantages, batch.mask, settings, batch.old, batch.reference, batch.entropy, normaliser(batch.mask)
    )
    (gradient,) = torch.autograd.grad(result.loss, leaf)
    return result.loss.detach(), gradient


def settings_of(loss_type: str, high: float = 0.2, kl: float = 0.04, dual_clip: float | None = None) -> LossSettings:
    return LossSettings(0.2, high, dual_clip, kl, 0.0, TYPES[loss_type][0], LONGEST)


@pytest.mark.parametrize("kl", [0.0, 0.04])
@pytest.mark.parametrize("high", [0.2, 0.28])
@pytest.mark.parametrize("loss_type", sorted(TYPES))
def test_loss_and_gradient_are_those_of_trl(loss_type: str, high: float, kl: float) -> None:
    for seed in range(3):
        batch, settings = Batch(seed), settings_of(loss_type, high, kl)
        their_loss, their_gradient = theirs(batch, loss_type, settings, int(batch.mask.sum()))
        our_loss, our_gradient = ours(batch, settings)
        torch.testing.assert_close(our_loss, their_loss, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-12, atol=1e-12)
        assert float(their_gradient.abs().max()) > 1e-3
        assert bool((our_gradient[~batch.mask] == 0).all())


def test_control_what_must_differ_does() -> None:
    batch = Batch()
    tokens = int(batch.mask.sum())
    mean, _ = theirs(batch, "bnpo", settings_of("bnpo"), tokens)
    assert abs(float(ours(batch, settings_of("grpo"))[0] - mean)) > 1e-3
    # TRL has no dual clip unless delta is set: with ours on, the two part.
    batch.old = batch.log_probs - 1.5
    mean, _ = theirs(batch, "bnpo", settings_of("bnpo"), tokens)
    assert abs(float(ours(batch, settings_of("bnpo", dual_clip=3.0))[0] - mean)) > 1e-3
    # Only dapo takes its denominator from the whole batch.
    for loss_type, (_, whole) in TYPES.items():
        once, twice = (theirs(batch, loss_type, settings_of(loss_type), count)[0] for count in (tokens, 2 * tokens))
        assert bool(torch.isclose(once, 2 * twice)) is whole
