"""What would break: noise that depends on the batch, or is not noise."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

from hypothesis import given
from hypothesis import strategies as st

from mcts_core.engine.noise import uniform

KNOWN = [0.1296456182997474, 0.9650345821083403, 0.17297707348306401]

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


def test_numbers_of_different_nodes_and_positions_are_independent_and_uniform() -> None:
    numbers = [uniform(7, node, 3, at) for node in range(400) for at in range(20)]
    assert abs(fmean(numbers) - 0.5) < 0.02
    covariance = fmean((a - 0.5) * (b - 0.5) for a, b in pairwise(numbers))
    assert abs(covariance) < 0.01
    bins = [0] * 10
    for number in numbers:
        bins[int(number * 10)] += 1
    assert max(bins) < 1.2 * min(bins)


@given(words, words, st.integers(0, 7), st.integers(2, 64))
def test_draws_from_one_node_are_spread_over_the_first_positions(
    seed: int, node: int, position: int, count: int
) -> None:
    numbers = sorted(uniform(seed, node, draw, position) for draw in range(count))
    gaps = [after - before for before, after in pairwise(numbers)]
    # independent numbers leave a gap of this size about once in fifty times
    assert max(gaps) < 7 / count


def test_far_into_an_option_draws_are_independent() -> None:
    numbers = [uniform(1, 2, draw, 30) for draw in range(4000)]
    covariance = fmean((a - 0.5) * (b - 0.5) for a, b in pairwise(numbers))
    assert abs(covariance) < 0.01
