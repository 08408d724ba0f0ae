"""What would break: practice that is false, or of what is easy."""

import random

import pytest

from demo.practice import has_fractions, is_mixed_sum, practice_steps
from demo.puzzle import Puzzle, Step, steps


def practised(fractions: bool) -> list[Step]:
    """Of 300 puzzles, each step one of those that can be taken."""
    rng = random.Random(1)
    taken: list[Step] = []
    for _ in range(300):
        state = Puzzle(tuple(rng.randint(1, 13) for _ in range(4)), 24).state
        for step in practice_steps(state, fractions, rng):
            assert step in steps(state)
            taken.append(step)
            state = step.state
    return taken


@pytest.mark.parametrize("fractions", [False, True])
def test_practice_is_of_true_steps_to_small_numbers(fractions: bool) -> None:
    found = practised(fractions)
    assert len(found) > 600
    assert all(step.result.numerator < 200 and step.result.denominator < 27 for step in found)
    assert any(map(has_fractions, found)) == fractions


def test_sums_with_a_fraction_are_practised_more_than_all_else_with_fractions() -> None:
    found = [step for step in practised(True) if has_fractions(step)]
    assert sum(map(is_mixed_sum, found)) > 0.5 * len(found), "0.41 if they are not preferred"
