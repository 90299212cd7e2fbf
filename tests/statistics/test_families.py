"""Adjusted p values against statsmodels, and what must hold for any family."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from vital_eval.statistics.families import benjamini_hochberg, holm

_Adjust = Callable[[Sequence[float | None]], tuple[float | None, ...]]
_BOTH = pytest.mark.parametrize(("adjust", "name"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])


@_BOTH
@pytest.mark.parametrize("size", [1, 2, 7, 11, 55])
def test_agrees_with_statsmodels(adjust: _Adjust, name: str, size: int) -> None:
    # Rounded, so that there are ties.
    ps = (np.random.default_rng(size).random(size) ** 3).round(2).tolist()
    assert adjust(ps) == pytest.approx(multipletests(ps, method=name)[1].tolist(), abs=1e-12)


@_BOTH
@given(ps=st.lists(st.none() | st.floats(0, 1), max_size=20))
def test_never_below_raw_never_above_one_and_in_the_same_ranking(
    adjust: _Adjust, name: str, ps: list[float | None]
) -> None:
    adjusted = adjust(ps)
    assert [p is None for p in adjusted] == [p is None for p in ps]
    pairs = sorted((raw, new) for raw, new in zip(ps, adjusted, strict=True) if raw is not None and new is not None)
    assert all(raw <= new <= 1 for raw, new in pairs)
    assert [new for _, new in pairs] == sorted(new for _, new in pairs)


@_BOTH
def test_tests_that_could_not_be_made_do_not_count(adjust: _Adjust, name: str) -> None:
    with_gaps = adjust([None, 0.01, None, 0.04])
    assert (with_gaps[1], with_gaps[3]) == adjust([0.01, 0.04])
    assert adjust([]) == ()


def test_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx((0.06, 0.03, 0.06))
    assert benjamini_hochberg([0.04, 0.01, 0.03]) == pytest.approx((0.04, 0.03, 0.04))


@_BOTH
@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_what_is_no_p_value_is_refused(adjust: _Adjust, name: str, p: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        adjust([0.5, p])
