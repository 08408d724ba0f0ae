"""What would break: noise that depends on the batch, or is not noise."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

from hypothesis import given
from hypothesis import strategies as st

from mcts_core.engine.noise import uniform

KNOWN = [0.1296456182997474, 0.20086969942694566, 0.48618910563112006]

words = st.integers(0, 2**63)


@given(words, words, words, words)
def test_the_same_key_gives_the_same_number_in_the_unit_interval(
    seed: int, node: int, draw: int, position: int
) -> None:
    number = uniform(seed, node, draw, position)
    assert 0 <= number < 1
    assert number == uniform(seed, node, draw, position)


def test_known_keys_keep_their_numbers_so_that_old_seeds_keep_their_searches() -> None:
    assert [uniform(*key) for key in ((0, 0, 0, 0), (1, 2, 3, 4), (1, 2, 4, 3))] == KNOWN


def test_neighbouring_keys_are_independent_and_uniform() -> None:
    numbers = [
        uniform(7, node, draw, at) for node in range(20) for draw in range(20) for at in range(20)
    ]
    assert abs(fmean(numbers) - 0.5) < 0.02
    following = list(pairwise(numbers))
    covariance = fmean((a - 0.5) * (b - 0.5) for a, b in following)
    assert abs(covariance) < 0.01
    bins = [0] * 10
    for number in numbers:
        bins[int(number * 10)] += 1
    assert max(bins) < 1.2 * min(bins)
