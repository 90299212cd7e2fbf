"""The policy loss against transcriptions of verl's and TRL's formulas in plain Python, and what a trainer relies on."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch

from vital_eval.training.policy_loss import (
    Aggregation,
    LossSettings,
    PolicyLoss,
    k3,
    normaliser,
    policy_loss,
    summed,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "policy_loss.json").read_text(encoding="utf-8"))
Rows = list[list[float]]
LENGTH = 11
ALL = [LossSettings(aggregation=mode, length=LENGTH) for mode in Aggregation]


class Case:
    """A batch as plain lists, drawn without torch so that no library version moves the stored values."""

    def __init__(self, seed: int, rollouts: int = 5, tokens: int = 7) -> None:
        state = seed

        def draw() -> float:
            nonlocal state
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            return (state >> 33) / 2**31

        def rows(low: float, high: float) -> Rows:
            return [[low + (high - low) * draw() for _ in range(tokens)] for _ in range(rollouts)]

        self.new = rows(-4, -0.1)
        # Ratios from about 0.2 to 5: both clips and the dual clip bind somewhere.
        self.old = [[value + 1.6 * (2 * draw() - 1) for value in row] for row in self.new]
        self.reference = [[value + 2 * draw() - 1 for value in row] for row in self.new]
        self.entropy = rows(0, 2)
        self.advantages = [2 * (draw() - 0.5) for _ in range(rollouts)]
        # A tool result in the middle, padding at the end, every row of its own length.
        self.mask = [
            [float(place not in (2, 3) and place < tokens - row % 4) for place in range(tokens)]
            for row in range(rollouts)
        ]

    def loss(self, settings: LossSettings, *, sign: float = 1.0, mask: Rows | None = None) -> PolicyLoss:
        """Return our loss of the batch."""
        return policy_loss(
            torch.tensor(self.new, dtype=torch.float64),
            sign * torch.tensor(self.advantages, dtype=torch.float64),
            torch.tensor(mask or self.mask),
            settings,
            torch.tensor(self.old, dtype=torch.float64),
            torch.tensor(self.reference, dtype=torch.float64),
            torch.tensor(self.entropy, dtype=torch.float64),
        )


def clamp(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))


def verl(case: Case, settings: LossSettings) -> float:
    """Transcribe verl: ``compute_policy_loss_vanilla``, ``kl_penalty("low_var_kl")``, ``agg_loss``, the actor's sum."""
    policy, divergence = [], []
    for row, advantage in enumerate(case.advantages):
        policy.append([])
        divergence.append([])
        for new, old, reference in zip(case.new[row], case.old[row], case.reference[row], strict=True):
            ratio = math.exp(clamp(new - old, -20, 20))
            first = max(-advantage * ratio, -advantage * clamp(ratio, 1 - settings.clip_low, 1 + settings.clip_high))
            second = min(-advantage * (settings.dual_clip or math.inf), first) if advantage < 0 else first
            policy[-1].append(second)
            distance = clamp(reference - new, -20, 20)
            divergence[-1].append(clamp(math.exp(distance) - distance - 1, -10, 10))

    def aggregate(values: Rows) -> float:
        sums = [
            sum(value for value, kept in zip(row, mask, strict=True) if kept)
            for row, mask in zip(values, case.mask, strict=True)
        ]
        counts = [sum(mask) for mask in case.mask]
        if settings.aggregation == "token-mean":
            return sum(sums) / sum(counts)
        if settings.aggregation == "seq-mean-token-sum":
            return sum(sums) / len(sums)
        if settings.aggregation == "seq-mean-token-mean":
            return sum(total / (count + 1e-8) for total, count in zip(sums, counts, strict=True)) / len(sums)
        return sum(total / settings.length for total in sums) / len(sums)

    bonus = settings.entropy * aggregate(case.entropy)
    return aggregate(policy) - bonus + settings.kl * aggregate(divergence)


def trl(case: Case, kind: str, low: float, high: float, beta: float) -> float:
    """Transcribe the bnpo, dapo, grpo and dr_grpo losses of TRL's GRPOTrainer on one process (no dual clip)."""
    losses: Rows = []
    for row, advantage in enumerate(case.advantages):
        losses.append([])
        for new, old, reference in zip(case.new[row], case.old[row], case.reference[row], strict=True):
            coefficient = math.exp(new - old)
            loss = -min(coefficient * advantage, clamp(coefficient, 1 - low, 1 + high) * advantage)
            loss += beta * (math.exp(reference - new) - (reference - new) - 1)
            losses[-1].append(loss)
    masked = [[loss * kept for loss, kept in zip(*pair, strict=True)] for pair in zip(losses, case.mask, strict=True)]
    tokens = sum(map(sum, case.mask))
    if kind == "grpo":
        return sum(sum(row) / max(1.0, sum(mask)) for row, mask in zip(masked, case.mask, strict=True)) / len(masked)
    if kind == "dr_grpo":
        return sum(map(sum, masked)) / (len(masked) * LENGTH)
    return sum(map(sum, masked)) / (max(1.0, tokens) if kind == "bnpo" else tokens)


@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.aggregation)
@pytest.mark.parametrize("high", [0.2, 0.28])
def test_matches_verl_and_the_stored_values(settings: LossSettings, high: float) -> None:
    settings = replace(settings, clip_high=high, entropy=0.001)
    for seed in range(5):
        stored = GOLDEN[f"{settings.aggregation}, high {high}, seed {seed}"]
        assert verl(Case(seed), settings) == pytest.approx(stored, abs=1e-8)
        assert Case(seed).loss(settings).loss.item() == pytest.approx(stored, abs=1e-8)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("bnpo", Aggregation.TOKEN_MEAN),
        ("dapo", Aggregation.TOKEN_MEAN),
        ("grpo", Aggregation.SEQ_MEAN_TOKEN_MEAN),
        ("dr_grpo", Aggregation.CONSTANT_LENGTH),
    ],
)
def test_matches_trl_without_the_dual_clip(kind: str, mode: Aggregation) -> None:
    ours = LossSettings(0.2, 0.28, None, 0.04, 0.0, mode, LENGTH)
    for seed in range(5):
        expected = trl(Case(seed), kind, 0.2, 0.28, 0.04)
        assert Case(seed).loss(ours).loss.item() == pytest.approx(expected, abs=1e-12)
    dual = Case(0).loss(replace(ours, dual_clip=3.0))
    assert dual.metrics.dual_clipped > 0
    assert dual.loss.item() != pytest.approx(trl(Case(0), kind, 0.2, 0.28, 0.04), abs=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("verl") is None, reason="verl pins other versions of our dependencies")
@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.aggregation)
def test_matches_verl_itself(settings: LossSettings) -> None:
    from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss, kl_penalty

    case = Case(0)
    new, old, reference, mask = (torch.tensor(rows) for rows in (case.new, case.old, case.reference, case.mask))
    mode = "seq-mean-token-sum-norm" if settings.length and settings.aggregation == "constant-length" else None
    mode = mode or settings.aggregation.value
    gain = torch.tensor(case.advantages)[:, None].expand_as(new)
    policy = compute_policy_loss(old, new, gain, mask, 0.2, 0.2, 0.2, 3.0, mode)[0]
    divergence = agg_loss(kl_penalty(new, reference, "low_var_kl"), mask, mode)
    scale = new.shape[1] / LENGTH if mode.endswith("norm") else 1.0
    assert case.loss(settings).loss.item() == pytest.approx(scale * (policy + 0.01 * divergence).item(), abs=1e-5)


@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.aggregation)
def test_controls_a_swapped_sign_and_a_leaking_mask_would_be_seen(settings: LossSettings) -> None:
    case = Case(1)
    expected = verl(case, settings)
    assert case.loss(settings, sign=-1).loss.item() != pytest.approx(expected, abs=1e-3)
    leak = [[1.0] * len(row) for row in case.mask]
    assert case.loss(settings, mask=leak).loss.item() != pytest.approx(expected, abs=1e-3)


def test_more_of_a_rewarded_token_is_less_loss() -> None:
    log_probs = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    for advantage in (1.0, -1.0):
        loss = policy_loss(log_probs, torch.tensor([advantage]), torch.ones(1, 2), LossSettings(kl=0.0)).loss
        (gradient,) = torch.autograd.grad(loss, log_probs)
        torch.testing.assert_close(gradient, torch.full((1, 2), -advantage / 2))


def test_without_old_log_probs_the_ratio_is_one_and_nothing_is_clipped() -> None:
    case = Case(2)
    new, mask = torch.tensor(case.new), torch.tensor(case.mask)
    found = policy_loss(new, torch.tensor(case.advantages), mask, LossSettings(kl=0.0))
    metrics = found.metrics
    assert (metrics.ratio, metrics.drift) == (pytest.approx(1.0), 0.0)
    assert metrics.clipped_low == metrics.clipped_high == metrics.dual_clipped == 0
    same = policy_loss(new, torch.tensor(case.advantages), mask, LossSettings(kl=0.0), new.clone())
    assert found.loss.item() == same.loss.item()


@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.aggregation)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_add_up_to_the_whole_batch(settings: LossSettings, size: int) -> None:
    settings = replace(settings, entropy=0.01, kl=0.1)
    case = Case(3)
    tensors = [torch.tensor(rows, dtype=torch.float64) for rows in (case.old, case.reference, case.entropy)]
    gain, mask = torch.tensor(case.advantages, dtype=torch.float64), torch.tensor(case.mask)
    log_probs = torch.tensor(case.new, dtype=torch.float64, requires_grad=True)
    whole = policy_loss(log_probs, gain, mask, settings, *tensors)
    (gradient,) = torch.autograd.grad(whole.loss, log_probs)
    log_probs.grad = None
    counts, parts = normaliser(mask), []
    for start in range(0, len(mask), size):
        rows = slice(start, start + size)
        part = policy_loss(
            log_probs[rows], gain[rows], mask[rows], settings, *(tensor[rows] for tensor in tensors), whole=counts
        )
        torch.autograd.backward(part.loss)
        parts.append(part.metrics)
    torch.testing.assert_close(log_probs.grad, gradient)
    assert astuple(summed(parts)) == pytest.approx(astuple(whole.metrics), abs=1e-6)
    # The control: a mean over micro-batches that each count for themselves is another loss.
    alone = [
        policy_loss(log_probs[r : r + 2], gain[r : r + 2], mask[r : r + 2], settings, *(t[r : r + 2] for t in tensors))
        for r in range(0, len(mask), 2)
    ]
    assert sum(part.loss.item() for part in alone) / len(alone) != pytest.approx(whole.loss.item(), abs=1e-4)


@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.aggregation)
@pytest.mark.parametrize("junk", [-1.0, 500.0, math.inf, -math.inf, math.nan])
def test_masked_tokens_have_exactly_no_gradient_whatever_they_hold(settings: LossSettings, junk: float) -> None:
    settings = replace(settings, entropy=0.01)
    case = Case(4)
    mask = torch.tensor(case.mask)
    clean = case.loss(settings)
    inputs = [torch.tensor(rows, dtype=torch.float64) for rows in (case.new, case.old, case.reference, case.entropy)]
    for tensor in inputs:
        tensor[mask == 0] = junk
    log_probs, old, reference, entropy = inputs
    log_probs.requires_grad_()
    entropy.requires_grad_()
    gain = torch.tensor(case.advantages, dtype=torch.float64)[:, None].expand_as(log_probs).clone()
    gain[mask == 0] = junk
    found = policy_loss(log_probs, gain, mask, settings, old, reference, entropy)
    assert found.loss.item() == pytest.approx(clean.loss.item(), abs=1e-12)
    assert astuple(found.metrics) == pytest.approx(astuple(clean.metrics))
    for tensor in (log_probs, entropy):
        (gradient,) = torch.autograd.grad(found.loss, tensor, retain_graph=True)
        assert gradient[mask == 0].eq(0).all()
        assert gradient[mask == 1].isfinite().all()
        assert gradient.ne(0).any()


def test_clip_shares_count_what_is_clipped() -> None:
    ratios = torch.tensor([[0.5, 1.5, 4.0, 1.0], [0.5, 1.5, 1.25, 1.0]])
    found = policy_loss(
        ratios.log(), torch.tensor([-1.0, 1.0]), torch.ones(2, 4), LossSettings(0.2, 0.28, 3.0, 0.0), torch.zeros(2, 4)
    )
    metrics = found.metrics
    assert (metrics.clipped_low, metrics.clipped_high, metrics.dual_clipped) == (1 / 8, 1 / 8, 1 / 8)
    assert metrics.ratio == pytest.approx(ratios.mean().item())
    # By hand: 0.8 + 1.5 + 3 + 1 where A = -1, and 0.5 + 1.28 + 1.25 + 1 where A = 1.
    assert found.loss.item() == pytest.approx((6.3 - 4.03) / 8, abs=1e-6)


def test_kl_is_verls_with_its_clamps_and_zero_at_home() -> None:
    here = torch.tensor([-1.0, -1.0, -1.0, -30.0])
    there = torch.tensor([-1.0, -2.0, 0.0, -1.0])
    assert k3(here, there).tolist() == pytest.approx([0.0, math.exp(-1), math.e - 2, 10.0], abs=1e-6)
    assert k3(torch.tensor(0.0), torch.tensor(-50.0)).item() == 10.0


def test_kl_pulls_towards_the_reference() -> None:
    log_probs = torch.tensor([[-1.0]], requires_grad=True)
    found = policy_loss(
        log_probs, torch.zeros(1), torch.ones(1, 1), LossSettings(kl=0.5), reference_log_probs=torch.tensor([[-0.5]])
    )
    (gradient,) = torch.autograd.grad(found.loss, log_probs)
    assert gradient.item() == pytest.approx(0.5 * (1 - math.exp(0.5)))
    assert found.metrics.kl == pytest.approx(math.exp(0.5) - 1.5)


def test_a_ratio_out_of_all_bounds_stays_finite() -> None:
    log_probs = torch.tensor([[0.0, -300.0]], requires_grad=True)
    loss = policy_loss(
        log_probs, torch.tensor([-1.0]), torch.ones(1, 2), LossSettings(kl=0.0), torch.tensor([[-300.0, 0.0]])
    ).loss
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_wrong_input_is_refused() -> None:
    new, gain, mask = torch.zeros(2, 3), torch.zeros(2), torch.ones(2, 3)
    with pytest.raises(ValueError, match="no trained token"):
        policy_loss(new, gain, 0 * mask, LossSettings(kl=0.0))
    assert policy_loss(new, gain, 0 * mask, LossSettings(kl=0.0), whole=normaliser(mask)).loss == 0
    with pytest.raises(ValueError, match="KL term"):
        policy_loss(new, gain, mask, LossSettings())
    with pytest.raises(ValueError, match="entropy bonus"):
        policy_loss(new, gain, mask, LossSettings(kl=0.0, entropy=0.1))
    with pytest.raises(ValueError, match="mask of shape"):
        policy_loss(new, gain, mask[:, 1:], LossSettings(kl=0.0))
    with pytest.raises(ValueError, match="advantages of shape"):
        policy_loss(new, gain[:1], mask, LossSettings(kl=0.0))
    for wrong in ({"dual_clip": 1.0}, {"clip_low": 1.5}, {"aggregation": Aggregation.CONSTANT_LENGTH}):
        with pytest.raises(ValueError, match=r"must be|needs a length"):
            LossSettings(**wrong)
