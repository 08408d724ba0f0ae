"""Pools of puzzles: who may train on which, and the shares of what is drawn."""

import random

import pytest

from demo.pool import Mixture, Part, Pool, multisets, part_of
from demo.puzzle import Puzzle, reachable, winning_steps


def pool(seed: int, **shares: float) -> Pool:
    return Pool(random.Random(seed), Mixture(**shares), "policy")  # type: ignore[arg-type]


def test_the_parts_cover_every_multiset_once() -> None:
    counts = [len(multisets(4, part)) for part in ("policy", "critics", "held_out")]
    assert sum(counts) == 1820


@pytest.mark.parametrize("part", ["policy", "critics", "held_out"])
def test_a_pool_has_the_puzzles_of_its_part_alone(part: Part) -> None:
    drawn = Pool(random.Random(1), Mixture(wide=0.3, narrow=0.2), part)
    numbers = [tuple(sorted(drawn.puzzle().numbers)) for _ in range(400)]
    numbers += [tuple(sorted(drawn.numbers())) for _ in range(400)]
    assert {part_of(each) for each in numbers} == {part}


def test_half_of_the_puzzles_ask_for_24() -> None:
    drawn = pool(2)
    asked = [drawn.puzzle() for _ in range(600)]
    assert 0.4 < sum(puzzle.target == 24 for puzzle in asked) / len(asked) < 0.6
    assert max(puzzle.target for puzzle in asked) <= 100
    assert all(puzzle.solvable for puzzle in asked)


def test_three_number_puzzles_can_be_asked_for_alone() -> None:
    drawn = pool(5, three_numbers=1.0, target_24=0.0)
    assert {len(drawn.puzzle().numbers) for _ in range(20)} == {3}


def test_puzzles_that_need_fractions_can_be_asked_for() -> None:
    def needs_them(puzzle: Puzzle) -> bool:
        return puzzle.solvable and not reachable(puzzle.state, puzzle.target, fractions=False)

    every = pool(3, three_numbers=0.5, wide=0.2, fractional=1.0)
    assert all(needs_them(every.puzzle()) for _ in range(40))
    some = pool(3, fractional=0.3)
    needed = [needs_them(some.puzzle()) for _ in range(400)]
    assert 0.2 < sum(needed) / len(needed) < 0.4


def test_puzzles_with_one_way_in_can_be_asked_for() -> None:
    def ways(puzzle: Puzzle) -> int:
        return len(winning_steps(puzzle.state, puzzle.target))

    narrow = pool(4, wide=0.2, fractional=0.2, target_24=0.2, narrow=1.0)
    assert {ways(narrow.puzzle()) for _ in range(60)} == {1}
    some = pool(4, target_24=0.0, narrow=0.5)
    asked = [ways(some.puzzle()) == 1 for _ in range(400)]
    assert 0.5 < sum(asked) / len(asked) < 0.75, "half of them, and a quarter of the others"
