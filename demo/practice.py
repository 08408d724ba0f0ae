"""Steps for practice: without an aim, those that are harder to learn more often than others."""

import random

from demo.puzzle import State, Step, steps

_FRACTIONAL = 0.8
"""How often a step that is drawn for practice, and may have fractions, has some."""
_WEIGHTS = {"+": 2.0, "-": 2.0, "*": 1.0, "/": 0.7}
"""Of operators in steps that are drawn for practice: sums are harder to learn than products."""
_LARGEST = 200
"""Below it stay numerators of steps that are drawn for practice."""
_PARTS_OF = 27
"""Below it stay their denominators."""
_MIXED = 5.0
"""How much more often than others steps are drawn that add a fraction or take it away: they are the
hardest to learn."""


def practice_steps(state: State, fractions: bool, rng: random.Random) -> list[Step]:
    """True steps to small numbers until there are no more: those that are harder to learn more
    often than others, and most of those with fractions from these alone, or without any."""
    taken: list[Step] = []
    while True:
        found = [
            step
            for step in steps(state)
            if step.result.numerator < _LARGEST and step.result.denominator < _PARTS_OF
        ]
        if not fractions:
            found = [step for step in found if step.result.denominator == 1]
        elif rng.random() < _FRACTIONAL:
            found = [step for step in found if has_fractions(step)] or found
        if not found:
            return taken
        weights = [
            _WEIGHTS[step.operator] * (_MIXED if is_mixed_sum(step) else 1) for step in found
        ]
        taken.append(rng.choices(found, weights)[0])
        state = taken[-1].state


def is_mixed_sum(step: Step) -> bool:
    """Whether a fraction is added or taken away."""
    return step.operator in "+-" and max(step.left.denominator, step.right.denominator) > 1


def has_fractions(step: Step) -> bool:
    """Whether an operand or the result is a fraction."""
    return any(number.denominator > 1 for number in (step.left, step.right, step.result))
