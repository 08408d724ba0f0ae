"""Mistakes of the kinds that small policies make, for critics to learn from."""

import random
from collections.abc import Sequence
from fractions import Fraction

from demo.judge import is_sound
from demo.puzzle import MAX_TARGET, State, Step, reachable, steps

_MISSED = (1, 1, 1, 2, 2, 3, 4, 5, 6, 8, 10)
"""By how much false results differ from the true ones."""


def mistake(step: Step, state: State, target: int, rng: random.Random) -> Step:
    """A wrong variant of `step`: the result a lie, a number that is not left, or a wrong list."""
    rest = list(step.state)
    rest.remove(step.result)
    kind = rng.choice(("result", "target", "operand", "list", "list"))
    if len(state) == 2 and rng.random() < 0.7:
        kind = "target"
    left, right, result = step.left, step.right, step.result
    if kind == "result":
        result = Fraction(max(0, int(result) + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10))))
    elif kind == "target":
        result = Fraction(target)
    elif kind == "operand":
        stray = Fraction(rng.choice((rng.randint(1, 13), int(rng.choice(state)))))
        left, right = (stray, right) if rng.random() < 0.5 else (left, stray)
        value = {"+": left + right, "-": abs(left - right), "*": left * right, "/": left}
        result = value[step.operator]
        if step.operator == "-":
            left, right = max(left, right), min(left, right)
    elif rest:
        at = rng.randrange(len(rest))
        how = rng.random()
        if how < 0.4:
            rest[at] = Fraction(rng.randint(1, 13))
        elif how < 0.7:
            rest[at] = rng.choice((step.left, step.right))
        elif how < 0.85:
            rest.append(rng.choice(rest))
        else:
            rest.pop(at)
    return Step(left, step.operator, right, result, tuple(sorted((*rest, result))))


def tempting_lie(
    step: Step, state: State, target: int, rng: random.Random, strays: float = 0.5
) -> Step:
    """A wrong variant of `step` after which `target` can be made: a false result, or, a share
    `strays` of the time, an operand that is not left (often a number used twice)."""
    left, right, result = step.left, step.right, step.result
    rest = list(step.state)
    rest.remove(result)
    if rng.random() >= strays:
        near = [result + delta for delta in (-2, -1, 1, 2) if result + delta > 0]
        wished = [Fraction(number) for number in range(1, 31)]
        rng.shuffle(wished)
        for claimed in (*near, *wished):
            made = tuple(sorted((*rest, claimed)))
            if claimed != result and reachable(made, target):
                return Step(left, step.operator, right, claimed, made)
        return mistake(step, state, target, rng)
    others = [Fraction(rng.randint(1, 13)), *rng.sample(state, len(state))]
    rng.shuffle(others)
    for stray in others:
        for other in (left, right):
            low, high = min(stray, other), max(stray, other)
            values = [("+", low, high, low + high), ("-", high, low, high - low)]
            values.append(("*", low, high, low * high))
            if low:
                values.append(("/", high, low, high / low))
            rng.shuffle(values)
            for operator, one, two, claimed in values:
                lie = Step(one, operator, two, claimed, tuple(sorted((*rest, claimed))))
                if reachable(lie.state, target) and not is_sound(lie, state):
                    return lie
    return mistake(step, state, target, rng)


def false_results(step: Step) -> tuple[Step, ...]:
    """`step` with results that are not its own: what another operator makes of its operands, and
    such as differ by a little, in whole numbers or in the unit of its denominator. The likelier
    ones more than once."""
    left, right, true = step.left, step.right, step.result
    rest = list(step.state)
    rest.remove(true)
    near = [(true + by * way) for way in (-1, 1) for by in _MISSED]
    unit = Fraction(1, true.denominator)
    units = [(true + by * way * unit) for way in (-1, 1) for by in _MISSED]
    others = [left + right, abs(left - right), left * right]
    others += [one / two for one, two in ((left, right), (right, left)) if two]
    claimed = [
        value
        for value in (*near, *units, *others)
        if value >= 0 and value != true and max(value.as_integer_ratio()) <= MAX_TARGET
    ]
    return tuple(
        Step(left, step.operator, right, value, tuple(sorted((*rest, value)))) for value in claimed
    )


def near_end(state: State, target: int, rng: random.Random) -> Step:
    """A true last step from a `state` of two numbers; as a rule it comes near `target`."""
    found = [step for step in steps(state) if step.result <= MAX_TARGET]
    found.sort(key=lambda step: abs(step.result - target))
    return rng.choice(found[: rng.choice((1, 2, len(found)))])


def false_end(state: State, target: int, rng: random.Random) -> Step:
    """A false last step that claims `target`: of the numbers that are left, or not even of them."""
    wrong = [step for step in steps(state) if step.result != target]
    wrong.sort(key=lambda step: abs(step.result - target))
    step = rng.choice(wrong[: rng.choice((1, 2, len(wrong)))])
    left, right, claimed = step.left, step.right, Fraction(target)
    if rng.random() < 0.3:
        true = {
            "+": (claimed - right, right),
            "-": (claimed + right, right),
            "*": (claimed / right if right else left, right),
            "/": (claimed * right, right),
        }
        stray = Fraction(rng.randint(1, 99))
        left, right = rng.choice((true[step.operator], (stray, right), (left, stray)))
        if left < 0 or left > MAX_TARGET:
            left = stray
    return Step(left, step.operator, right, claimed, (claimed,))


def claimed_expression(numbers: Sequence[int], taken: Sequence[Step]) -> str:
    """Like `puzzle.expression`, but a number that is not left is written as it is."""
    pool = [(Fraction(number), str(number)) for number in numbers]
    text = str(numbers[0])
    for step in taken:
        sides: list[str] = []
        for operand in (step.left, step.right):
            at = next((i for i, (value, _) in enumerate(pool) if value == operand), None)
            inner = str(operand) if at is None else pool.pop(at)[1]
            sides.append(f"({inner})" if " " in inner else inner)
        text = f"{sides[0]} {step.operator} {sides[1]}"
        pool.append((step.result, text))
    return text


def corrupt(text: str, rng: random.Random) -> str:
    """Change one or two numbers or operators of an expression, or swap two numbers."""
    words = text.replace("(", "( ").replace(")", " )").split(" ")
    for _ in range(rng.choice((1, 1, 1, 2))):
        numbers = [at for at, word in enumerate(words) if word.isdigit()]
        marks = [at for at, word in enumerate(words) if word in "+-*/"]
        kind = rng.random()
        if kind < 0.35 and marks:
            words[rng.choice(marks)] = rng.choice("+-*/")
        elif kind < 0.6 and len(numbers) > 1:
            one, two = rng.sample(numbers, 2)
            words[one], words[two] = words[two], words[one]
        elif kind < 0.8 and numbers:
            words[rng.choice(numbers)] = words[rng.choice(numbers)]
        elif numbers:
            words[rng.choice(numbers)] = str(rng.randint(1, 13))
    return " ".join(words).replace("( ", "(").replace(" )", ")")
