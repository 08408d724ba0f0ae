"""Intervals that are too narrow, or differ from run to run, would make noise look like progress."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.bootstrap import interval

shares = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@given(shares, st.integers(0, 2**32 - 1))
def test_an_interval_lies_within_the_values_and_is_the_same_for_a_seed(
    values: list[float], seed: int
) -> None:
    low, high = interval(values, resamples=200, seed=seed)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert interval(values, resamples=200, seed=seed) == (low, high)


@given(st.floats(0, 1), st.integers(1, 30))
def test_equal_values_leave_no_doubt(value: float, count: int) -> None:
    assert interval([value] * count, resamples=50) == pytest.approx((value, value))


@given(shares)
def test_a_higher_level_is_never_narrower(values: list[float]) -> None:
    narrow, wide = (interval(values, level=level, resamples=300) for level in (0.5, 0.95))
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]


def test_the_interval_holds_the_true_share_about_as_often_as_it_says() -> None:
    rng = random.Random(5)
    held = 0
    for _ in range(300):
        values = [float(rng.random() < 0.6) for _ in range(100)]
        low, high = interval(values, resamples=1000)
        held += low <= 0.6 <= high
    assert 0.9 <= held / 300 <= 0.985


def test_more_values_than_fit_one_chunk_are_all_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [float(index % 3 == 0) for index in range(50)]
    whole = interval(values, resamples=999, seed=3)
    monkeypatch.setattr("evals.bootstrap._CHUNK", 700)
    assert interval(values, resamples=999, seed=3) == whole


def test_nothing_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one"):
        interval([])
    with pytest.raises(ValueError, match="level"):
        interval([1.0], level=1.0)
