"""Exact labels for lines that a model wrote."""

from collections.abc import Sequence
from fractions import Fraction

from demo.puzzle import Puzzle, State, Step, evaluate, grade, reachable


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
    value = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }[step.operator](step.left, step.right)
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
