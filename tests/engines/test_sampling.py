"""Drawing tokens: the right probabilities, and the same token whatever shares the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vital_eval.engines.sampling import choose_tokens
from vital_eval.protocol import Sampling

GREEDY, WARM = Sampling(), Sampling(temperature=1.0)
NUCLEUS = Sampling(temperature=0.8, top_p=0.7)
WORDS = 40


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def some_logits(rows: int, seed: int = 0, words: int = WORDS) -> torch.Tensor:
    return torch.randn((rows, words), generator=torch.Generator().manual_seed(seed)) * 2


def choose(logits: torch.Tensor, kinds: Sequence[Sampling], seeds: Sequence[int]) -> list[int]:
    return choose_tokens(logits, torch.zeros(logits.shape, dtype=torch.bool), kinds, generators(seeds))


def probabilities_of(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return what should be drawn from, written down the long way."""
    values = torch.softmax(logits.double() / sampling.temperature, -1)
    kept, mass = [], 0.0
    for token in values.argsort(descending=True, stable=True).tolist():
        if mass >= sampling.top_p:
            break
        kept.append(token)
        mass += float(values[token])
    nucleus = torch.zeros_like(values)
    nucleus[kept] = values[kept]
    return nucleus / nucleus.sum()


def p_value(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the chi-square p-value of counts; tokens that are due fewer than 5 times are taken together."""
    due = probabilities * counts.sum()
    if counts[due == 0].sum():
        return 0.0
    often = due >= 5
    seen, wanted = [*counts[often], counts[~often].sum()], [*due[often], due[~often].sum()]
    if not wanted[-1]:
        seen, wanted = seen[:-1], wanted[:-1]
    return float(stats.chisquare(seen, wanted).pvalue)


@pytest.mark.parametrize("sampling", [WARM, NUCLEUS, Sampling(temperature=3.0), Sampling(temperature=0.3, top_p=0.95)])
def test_draws_follow_the_probabilities(sampling) -> None:
    logits = some_logits(1)
    draws = 4000
    found = choose(logits.expand(draws, -1).contiguous(), [sampling] * draws, range(draws))
    counts = torch.bincount(torch.tensor(found), minlength=WORDS).numpy()
    # Fixed seeds: each of these is one number, and far from its limit.
    assert p_value(counts, probabilities_of(logits[0], sampling).numpy()) > 0.01
    hotter = dataclasses.replace(sampling, temperature=sampling.temperature * 1.3)
    assert p_value(counts, probabilities_of(logits[0], hotter).numpy()) < 1e-6


@given(
    kinds=st.lists(st.sampled_from([GREEDY, WARM, NUCLEUS, Sampling(temperature=0.5)]), min_size=2, max_size=9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_row_draws_the_same_whatever_shares_its_batch(kinds: list[Sampling], seed: int) -> None:
    logits = some_logits(len(kinds), seed)
    seeds = [seed + 17 * row for row in range(len(kinds))]
    together = choose(logits, kinds, seeds)
    alone = [choose(logits[row : row + 1], [kinds[row]], [seeds[row]])[0] for row in range(len(kinds))]
    assert together == alone
    backwards = choose(logits.flip(0), kinds[::-1], seeds[::-1])
    assert backwards[::-1] == together


def test_control_one_generator_for_the_batch_makes_rows_depend_on_each_other() -> None:
    logits = some_logits(8)
    shared = torch.Generator().manual_seed(3)
    together = torch.multinomial(torch.softmax(logits, -1), 1, generator=shared).squeeze(-1).tolist()
    shared = torch.Generator().manual_seed(3)
    without_the_first = torch.multinomial(torch.softmax(logits[1:], -1), 1, generator=shared).squeeze(-1).tolist()
    assert together[1:] != without_the_first
    assert choose(logits, [WARM] * 8, range(8))[1:] == choose(logits[1:], [WARM] * 7, range(1, 8))


def test_a_row_follows_from_its_seed_and_the_place_of_the_token() -> None:
    logits = some_logits(1)

    def written(seed: int) -> list[int]:
        (generator,) = generators([seed])
        return [choose_tokens(logits, torch.empty(0), [WARM], [generator])[0] for _ in range(20)]

    assert written(1) == written(1)
    assert written(1) != written(2)
    assert len(set(written(1))) > 1


def test_greedy_rows_take_the_likeliest_and_use_up_no_number() -> None:
    logits = some_logits(6)
    drawn = generators(range(6))
    kinds = [GREEDY, WARM, GREEDY, NUCLEUS, GREEDY, GREEDY]
    found = choose_tokens(logits, torch.empty(0), kinds, drawn)
    for row in (0, 2, 4, 5):
        assert found[row] == int(logits[row].argmax())
        assert torch.equal(drawn[row].get_state(), torch.Generator().manual_seed(row).get_state())


@pytest.mark.parametrize("sampling", [WARM, NUCLEUS])
def test_banned_tokens_are_never_drawn(sampling) -> None:
    logits = some_logits(500)
    logits[:, 5] = 50.0
    assert 5 in choose(logits, [sampling] * 500, range(500))
    logits[:, 5] = -torch.inf
    assert 5 not in choose(logits, [sampling] * 500, range(500))


def test_equal_logits_of_a_nucleus_are_taken_in_the_order_of_their_ids() -> None:
    found = choose(torch.zeros((400, 10)), [Sampling(temperature=1.0, top_p=0.35)] * 400, range(400))
    assert set(found) == {0, 1, 2, 3}


def test_large_vocabularies_and_steep_or_flat_logits_do_not_overflow() -> None:
    flat = choose(torch.zeros((3, 200_000)), [WARM] * 3, [1, 2, 3])
    assert max(flat) > 60_000
    assert len(set(flat)) == 3
    steep = torch.full((2, 200_000), -3e4)
    steep[:, 7] = 3e4
    assert choose(steep, [WARM, NUCLEUS], [1, 2]) == [7, 7]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("sampling", [WARM, NUCLEUS])
def test_what_is_no_number_is_an_error_and_no_token(bad: float, sampling) -> None:
    logits = some_logits(2)
    logits[1, 3] = bad
    with pytest.raises(RuntimeError, match="NaN or infinity"):
        choose(logits, [sampling] * 2, [1, 2])
    with pytest.raises(RuntimeError, match="banned"):
        choose(torch.full((1, 5), -torch.inf), [sampling], [1])


def test_the_repetition_penalty_is_that_of_its_row_alone() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0], [2.0, 1.9, -1.0], [-0.5, -1.0, -9.0]])
    seen = torch.tensor([[True, False, False], [True, False, False], [True, False, False]])
    punished = Sampling(repetition_penalty=3.0)
    assert choose_tokens(logits, seen, [punished, GREEDY, punished], generators(range(3))) == [1, 0, 1]
