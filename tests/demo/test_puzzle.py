"""The puzzle rules: text, solver, grader, held-out rule."""

import random
import zlib
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo import puzzle as puzzles
from demo.puzzle import (
    Puzzle,
    completion,
    grade,
    is_held_out,
    narrow_targets,
    parse_prompt,
    random_solution,
    winning_steps,
)

NUMBERS = st.lists(st.integers(1, 13), min_size=3, max_size=4)


def brute_force(numbers: list[Fraction], target: int) -> bool:
    if len(numbers) == 1:
        return numbers[0] == target
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            if i == j:
                continue
            rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
            made = [a + b, a - b, a * b, *([a / b] if b else [])]
            if any(brute_force([*rest, value], target) for value in made):
                return True
    return False


@given(numbers=NUMBERS, target=st.integers(0, 999))
def test_prompt_round_trips(numbers: list[int], target: int) -> None:
    puzzle = Puzzle(tuple(numbers), target)
    assert parse_prompt(puzzle.prompt) == puzzle


@pytest.mark.parametrize(
    "text", ["", "Use 1 2 to make 3", "Use  1 to make 3.\n", "use 1 to make 1."]
)
def test_other_texts_are_no_prompts(text: str) -> None:
    with pytest.raises(ValueError, match="not a puzzle prompt"):
        parse_prompt(text)


@settings(max_examples=25, deadline=None)
@given(numbers=st.lists(st.integers(1, 13), min_size=3, max_size=3), target=st.integers(0, 60))
def test_solver_agrees_with_brute_force_over_negatives(numbers: list[int], target: int) -> None:
    assert Puzzle(tuple(numbers), target).solvable == brute_force(
        [Fraction(n) for n in numbers], target
    )


@pytest.mark.parametrize("numbers", [(1, 1, 1, 1), (3, 3, 8, 8), (1, 5, 5, 5), (1, 3, 4, 6)])
def test_solver_knows_the_famous_four(numbers: tuple[int, ...]) -> None:
    assert Puzzle(numbers, 24).solvable == (numbers != (1, 1, 1, 1))


@settings(max_examples=25, deadline=None)
@given(numbers=NUMBERS)
def test_narrow_targets_are_those_with_one_winning_step(numbers: list[int]) -> None:
    state = Puzzle(tuple(numbers), 24).state
    alone = [target for target in range(1000) if len(winning_steps(state, target)) == 1]
    assert narrow_targets(state) == sum(1 << target for target in alone)


@settings(max_examples=40, deadline=None)
@given(numbers=NUMBERS, seed=st.integers(0, 9))
def test_random_solutions_are_right(numbers: list[int], seed: int) -> None:
    rng = random.Random(seed)
    mask = puzzles.targets(Puzzle(tuple(numbers), 0).state)
    target = rng.choice([t for t in range(1000) if mask >> t & 1])
    puzzle = Puzzle(tuple(numbers), target)
    taken = random_solution(puzzle, rng)
    assert grade(puzzle, completion(puzzle, taken))
    assert taken[-1].state == (target,)


def test_an_unsolvable_puzzle_is_an_error() -> None:
    with pytest.raises(ValueError, match="no solution"):
        random_solution(Puzzle((1, 1, 1, 1), 24), random.Random(0))


PUZZLE = Puzzle((4, 9, 10, 13), 24)


@pytest.mark.parametrize(
    "answer",
    ["(13 - 9) * (10 - 4) = 24", "(13-9)*(10-4)", " ((10 - 4)) * (13 - 9) = 24 ", "(4-10)*(9-13)"],
)
def test_right_answers_are_accepted(answer: str) -> None:
    assert grade(PUZZLE, f"13 - 9 = 4 (left: 4 4 10)\nAnswer: {answer}")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "24",
        "(13 - 9) * (10 - 4) = 25",
        "(13 - 9) * (10 - 4) = 24 = 24",
        "(13 - 9) * 6 = 24",
        "(13 - 9) * (10 - 4) * 1 = 24",
        "(13 - 9) * (10 + 4) = 24",
        "(13 - 9 * (10 - 4) = 24",
        "(13 - 9) (10 - 4) = 24",
        "4 * 9 - 10 - 13 / 0",
        "__import__('os') = 24",
        "13 - 9 ** 2 = 24",
        "(" * 5000 + " = 24",
        "(" * 190 + "24",
        "١٣ - 9 = 24",
    ],
)
def test_wrong_answers_are_refused(answer: str) -> None:
    assert not grade(PUZZLE, f"Answer: {answer}")


@given(st.text(max_size=60))
def test_the_grader_never_raises(text: str) -> None:
    grade(PUZZLE, text)
    assert not grade(Puzzle((13, 13, 13), 999), f"Answer: {text}")


def test_the_test_puzzles_are_solvable_without_fractions_and_held_out() -> None:
    tests = puzzles.test_puzzles()
    assert len(tests) == 100
    assert tests[0] == Puzzle((4, 5, 6, 10), 24)
    assert all(is_held_out(puzzle.numbers) for puzzle in tests)
    assert all(puzzles.reachable(puzzle.state, 24, fractions=False) for puzzle in tests)


def test_the_held_out_rule_ignores_the_order_of_the_numbers() -> None:
    assert is_held_out((10, 4, 6, 5))
    assert is_held_out((4, 5, 6, 10))
    for numbers in [(4, 9, 10, 13), (1, 2, 3), (7, 8, 9, 11)]:
        key = ",".join(map(str, sorted(numbers)))
        assert is_held_out(numbers) or zlib.crc32(key.encode()) % 10
