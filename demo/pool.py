"""Pools of puzzles: who may train on which, and what is drawn from them."""

import itertools
import random
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from demo.puzzle import Puzzle, is_held_out, narrow_targets, targets

_WIDEST = 20
Part = Literal["policy", "critics", "held_out"]


def part_of(numbers: tuple[int, ...]) -> Part:
    """Who may train on an ascending multiset: `critics` ones are kept from the policy, so that
    critics learn from puzzles on which the policy does as well as on new ones."""
    if is_held_out(numbers):
        return "held_out"
    return "critics" if zlib.crc32(",".join(map(str, numbers)).encode()) % 12 == 5 else "policy"


def multisets(count: int, part: Part, largest: int = 13) -> tuple[tuple[int, ...], ...]:
    """Every ascending `count` of numbers 1..`largest` that belongs to `part`."""
    every = itertools.combinations_with_replacement(range(1, largest + 1), count)
    return tuple(numbers for numbers in every if part_of(numbers) == part)


@dataclass(frozen=True)
class Mixture:
    """Which puzzles are drawn: shares in 0..1."""

    three_numbers: float = 0.1
    target_24: float = 0.5
    largest_target: int = 100
    wide: float = 0.0
    """The share of puzzles whose numbers go up to 20: so many that they cannot be memorised."""
    fractional: float = 0.0
    """The share of puzzles that fractions alone can solve, whatever the target; of those that are
    just drawn, one in forty is such."""
    narrow: float = 0.0
    """The share of puzzles that one first step alone can solve: of those that are just drawn, one
    in four is such, and nearly all on which a search fails."""


class Pool:
    """Random puzzles of one part; only the part `held_out` ever has a held-out one."""

    def __init__(self, rng: random.Random, mixture: Mixture, part: Part) -> None:
        self._random, self._mixture = rng, mixture
        self._threes = multisets(3, part)
        self._fours = multisets(4, part)
        self._wide = multisets(4, part, _WIDEST) if mixture.wide else ()

    def puzzle(self) -> Puzzle:
        """A solvable puzzle, its numbers in random order."""
        rng, mixture = self._random, self._mixture
        pool = self._multisets()
        wants_24 = rng.random() < mixture.target_24
        fractional = mixture.fractional > 0 and rng.random() < mixture.fractional
        if fractional:
            wants_24 = False
            pool = self._fours if pool is self._threes else pool  # three numbers never need them
        narrow = mixture.narrow > 0 and rng.random() < mixture.narrow
        while True:
            numbers = list(rng.choice(pool))
            state = tuple(map(Fraction, numbers))
            mask = targets(state) & ((2 << mixture.largest_target) - 2)
            if fractional:
                mask &= ~targets(state, fractions=False)
            if narrow:
                mask &= narrow_targets(state)
            if (wants_24 and not mask >> 24 & 1) or not mask:
                continue
            goals = [goal for goal in range(1, mixture.largest_target + 1) if mask >> goal & 1]
            rng.shuffle(numbers)
            return Puzzle(tuple(numbers), 24 if wants_24 else rng.choice(goals))

    def _multisets(self) -> tuple[tuple[int, ...], ...]:
        rng, mixture = self._random, self._mixture
        pool = self._threes if rng.random() < mixture.three_numbers else self._fours
        return self._wide if self._wide and rng.random() < mixture.wide else pool

    def numbers(self) -> tuple[int, ...]:
        """Numbers in random order."""
        numbers = self._random.choice(self._multisets())
        return tuple(self._random.sample(numbers, len(numbers)))
