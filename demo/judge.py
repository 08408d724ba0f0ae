"""Exact labels for lines that a model wrote."""

import operator
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from demo.puzzle import Puzzle, State, Step, evaluate, grade, reachable

_OPERATORS: Mapping[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def judge(puzzle: Puzzle, lines: Sequence[str]) -> tuple[int, ...]:
    """Exact labels for lines that a model wrote: the prompt, then after each line.

    A step line scores 1 while every step so far is sound and the target can still be made; an
    `Answer:` line its grade; a malformed line, and all after it, 0."""
    state, sound = puzzle.state, True
    labels = [int(puzzle.solvable)]
    for line in lines:
        if line.startswith("Answer:"):
            labels.append(int(grade(puzzle, line)))
            continue
        step = parse_step(line) if sound else None
        sound = step is not None and is_sound(step, state)
        state = step.state if step is not None else state
        labels.append(int(sound and reachable(state, puzzle.target)))
    return tuple(labels)


def judge_choices(puzzle: Puzzle, lines: Sequence[str]) -> tuple[int | None, ...]:
    """Exact labels of the choices that lines make, whatever is made of them: of what stands before
    the first `=` of each; None for a line without one.

    A step's choice scores 1 while every step before is sound, its operands are left, and its true
    result can still make the target; that of an `Answer:` line if its expression is right."""
    state, sound = puzzle.state, True
    labels: list[int | None] = []
    for line in lines:
        choice, equals, _ = line.partition(" =")
        if not equals:
            labels.append(None)
        elif line.startswith("Answer:"):
            labels.append(int(grade(puzzle, choice)))
        else:
            after = _after(choice, state) if sound else None
            labels.append(int(after is not None and reachable(after, puzzle.target)))
        step = parse_step(line) if sound else None
        sound = step is not None and is_sound(step, state)
        state = step.state if step is not None else state
    return tuple(labels)


def _after(choice: str, state: State) -> State | None:
    """The state after the step that `choice` (`5 * 9`) begins; None where it is not legal."""
    words = choice.split(" ")
    if len(words) != 3 or words[1] not in _OPERATORS:
        return None
    rest = list(state)
    try:
        left, right = _number(words[0]), _number(words[2])
        rest.remove(left)
        rest.remove(right)
        made = _OPERATORS[words[1]](left, right)
    except (ValueError, ZeroDivisionError):
        return None
    return tuple(sorted((*rest, made))) if made >= 0 else None


def is_sound(step: Step, state: State) -> bool:
    """Whether a claimed step is legal in `state`: numbers that are left, right arithmetic,
    right `left` list."""
    rest = list(state)
    for operand in (step.left, step.right):
        if operand not in rest:
            return False
        rest.remove(operand)
    if step.operator == "/" and not step.right:
        return False
    value = _OPERATORS[step.operator](step.left, step.right)
    return bool(value == step.result) and sorted((*rest, step.result)) == sorted(step.state)


def parse_step(line: str) -> Step | None:
    """Read a step line back, or None where it is malformed."""
    head, _, tail = line.removesuffix("\n").partition(" (left: ")
    words = head.split(" ")
    if len(words) != 5 or words[3] != "=" or words[1] not in "+-*/" or not tail.endswith(")"):
        return None
    try:
        left, right, result = (_number(word) for word in (words[0], words[2], words[4]))
        state = tuple(sorted(_number(word) for word in tail[:-1].split(" ")))
    except (ValueError, ZeroDivisionError):
        return None
    return Step(left, words[1], right, result, state)


def _number(word: str) -> Fraction:
    value, _ = evaluate(word)
    return value
