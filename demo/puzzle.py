"""Puzzles of the Game of 24 and Countdown: text, exact solver, grader, held-out rule.

Everything is exact (`fractions.Fraction`) and needs the standard library only. A state is the
ascending tuple of the numbers that are left; no value is ever negative, because an expression
with negative intermediates always has a twin of the same value without any.
"""

import csv
import random
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path

State = tuple[Fraction, ...]
MAX_TARGET = 999
_PROMPT = re.compile(r"Use (\d+(?: \d+)*) to make (\d+)\.\n?")
_TOKEN = re.compile(r"\s*(\d+|[-+*/()])")
_MAX_EXPRESSION = 200
_MAX_PARENTHESES = 40


@dataclass(frozen=True)
class Puzzle:
    """Numbers (in the order of the prompt) that must make `target`, each used exactly once."""

    numbers: tuple[int, ...]
    target: int

    @property
    def prompt(self) -> str:
        """The prompt text, ending in a newline."""
        return f"Use {' '.join(map(str, self.numbers))} to make {self.target}.\n"

    @property
    def state(self) -> State:
        """The state before the first step."""
        return tuple(sorted(Fraction(n) for n in self.numbers))

    @property
    def solvable(self) -> bool:
        """Whether any expression over the numbers has the value `target`."""
        return reachable(self.state, self.target)


@dataclass(frozen=True)
class Step:
    """One line `left operator right = result (left: ...)` and the state after it."""

    left: Fraction
    operator: str
    right: Fraction
    result: Fraction
    state: State

    @cached_property
    def text(self) -> str:
        """The line as the policy writes it, with its newline."""
        head = f"{self.left} {self.operator} {self.right} = {self.result}"
        return f"{head} (left: {' '.join(map(str, self.state))})\n"


def parse_prompt(text: str) -> Puzzle:
    """Read a prompt back; raises ValueError if `text` is not exactly one prompt."""
    match = _PROMPT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a puzzle prompt: {text!r}")
    return Puzzle(tuple(map(int, match[1].split())), int(match[2]))


def is_held_out(numbers: Iterable[int]) -> bool:
    """Whether a multiset of numbers is kept out of all training, whatever its target."""
    key = ",".join(map(str, sorted(numbers)))
    return zlib.crc32(key.encode()) % 10 == 0 or key in _test_keys()


@lru_cache(maxsize=1)
def test_puzzles() -> tuple[Puzzle, ...]:
    """The 100 puzzles of rank 901 to 1000 (target 24), in order of rank."""
    path = Path(__file__).resolve().parent / "data" / "game24.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if 901 <= int(row["Rank"]) <= 1000]
    return tuple(Puzzle(tuple(map(int, row["Puzzles"].split())), 24) for row in rows)


@lru_cache(maxsize=1)
def _test_keys() -> frozenset[str]:
    return frozenset(",".join(map(str, sorted(p.numbers))) for p in test_puzzles())


@lru_cache(maxsize=200_000)
def steps(state: State) -> tuple[Step, ...]:
    """Every legal step from `state`, once each: sums and products with the smaller operand
    first, differences larger - smaller, quotients both ways (fractions included)."""
    found: dict[tuple[Fraction, str, Fraction], Step] = {}
    for i in range(len(state)):
        for j in range(i + 1, len(state)):
            low, high = state[i], state[j]
            rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
            made = [(low, "+", high, low + high), (low, "*", high, low * high)]
            made.append((high, "-", low, high - low))
            if low:
                made.append((high, "/", low, high / low))
            if high and low != high:
                made.append((low, "/", high, low / high))
            for left, operator, right, result in made:
                key = (left, operator, right)
                if key not in found:
                    found[key] = Step(*key, result, tuple(sorted((*rest, result))))
    return tuple(found.values())


@lru_cache(maxsize=1_000_000)
def targets(state: State, fractions: bool = True) -> int:
    """The integers 0..999 that `state` can make, as a bit mask (bit t set: t can be made).

    With `fractions` false only ways whose every intermediate is an integer up to 999 count."""
    if len(state) == 1:
        value = state[0]
        return 1 << value.numerator if value.denominator == 1 and value <= MAX_TARGET else 0
    mask = 0
    for step in steps(state):
        if fractions or (step.result.denominator == 1 and step.result <= MAX_TARGET):
            mask |= targets(step.state, fractions)
    return mask


def reachable(state: State, target: int, fractions: bool = True) -> bool:
    """Whether the numbers of `state`, each used once, can make `target` (0..999) exactly."""
    return 0 <= target <= MAX_TARGET and bool(targets(state, fractions) >> target & 1)


@lru_cache(maxsize=100_000)
def narrow_targets(state: State) -> int:
    """The integers 0..999 to which one step alone leads from `state`, of those that
    `winning_steps` gives, as a bit mask."""
    every = steps(state)
    whole = [step for step in every if step.result.denominator == 1 and step.result <= MAX_TARGET]
    integers = targets(state, fractions=False)
    return _in_one(targets(step.state, fractions=False) for step in whole) | (
        _in_one(targets(step.state) for step in every) & ~integers
    )


def _in_one(masks: Iterable[int]) -> int:
    """The bits that are set in exactly one of `masks`."""
    once = twice = 0
    for mask in masks:
        twice |= once & mask
        once |= mask
    return once & ~twice


@lru_cache(maxsize=500_000)
def winning_steps(state: State, target: int) -> tuple[Step, ...]:
    """The steps after which `target` can still be made.

    If integers up to 999 suffice, only those ways are given; fractions where nothing else works."""
    whole = reachable(state, target, fractions=False)
    return tuple(
        step
        for step in steps(state)
        if reachable(step.state, target, fractions=not whole)
        and (not whole or (step.result.denominator == 1 and step.result <= MAX_TARGET))
    )


def random_solution(puzzle: Puzzle, rng: random.Random) -> tuple[Step, ...]:
    """A random solution: at each state a uniform choice among the steps that still win.

    Raises ValueError if the puzzle has no solution."""
    state = puzzle.state
    if not reachable(state, puzzle.target):
        raise ValueError(f"no solution: {puzzle}")
    chosen: list[Step] = []
    while len(state) > 1:
        chosen.append(rng.choice(winning_steps(state, puzzle.target)))
        state = chosen[-1].state
    return tuple(chosen)


def expression(numbers: Sequence[int], taken: Sequence[Step]) -> str:
    """The expression that `taken` builds, every composite operand in parentheses.

    Raises ValueError if a step uses a number that is not left."""
    pool: list[tuple[Fraction, str]] = [(Fraction(n), str(n)) for n in numbers]
    for step in taken:
        sides: list[str] = []
        for operand in (step.left, step.right):
            at = next((i for i, (value, _) in enumerate(pool) if value == operand), None)
            if at is None:
                raise ValueError(f"{operand} is not left")
            text = pool.pop(at)[1]
            sides.append(f"({text})" if " " in text else text)
        pool.append((step.result, f"{sides[0]} {step.operator} {sides[1]}"))
    return pool[-1][1]


def completion(puzzle: Puzzle, taken: Sequence[Step]) -> str:
    """The completion text of the steps `taken`: their lines and the `Answer:` line, no EOS."""
    lines = "".join(step.text for step in taken)
    return f"{lines}Answer: {expression(puzzle.numbers, taken)} = {puzzle.target}"


def grade(puzzle: Puzzle, completion_text: str) -> bool:
    """Whether the last `Answer:` line is right: it uses each number once and makes the target.

    Only + - * / parentheses and integers are understood; a tail `= n` must be right too."""
    lines = [line for line in completion_text.split("\n") if line.startswith("Answer:")]
    if not lines:
        return False
    body, *tails = lines[-1].removeprefix("Answer:").split("=")
    if len(tails) > 1 or (tails and not re.fullmatch(rf"\s*{puzzle.target}\s*", tails[0])):
        return False
    try:
        value, used = evaluate(body)
    except (ValueError, ZeroDivisionError):
        return False
    return value == puzzle.target and sorted(used) == sorted(puzzle.numbers)


def evaluate(text: str) -> tuple[Fraction, list[int]]:
    """The exact value of an arithmetic expression and the integers that occur in it.

    Raises ValueError if it does not parse (or has over 200 characters or 40 parentheses),
    ZeroDivisionError."""
    if len(text) > _MAX_EXPRESSION or text.count("(") > _MAX_PARENTHESES:
        raise ValueError("expression too long")
    tokens: list[str] = []
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or not match[1].isascii():
            raise ValueError(f"unexpected character at {at}")
        tokens.append(match[1])
        at = match.end()
    tokens.append("")
    value, rest = _sum(tokens, 0)
    if tokens[rest]:
        raise ValueError(f"unexpected {tokens[rest]!r}")
    return value, [int(token) for token in tokens if token.isdigit()]


def _sum(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at)
    while tokens[at] in ("+", "-"):
        other, after = _product(tokens, at + 1)
        value = value + other if tokens[at] == "+" else value - other
        at = after
    return value, at


def _product(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _atom(tokens, at)
    while tokens[at] in ("*", "/"):
        other, after = _atom(tokens, at + 1)
        value = value * other if tokens[at] == "*" else value / other
        at = after
    return value, at


def _atom(tokens: list[str], at: int) -> tuple[Fraction, int]:
    if tokens[at] == "(":
        value, at = _sum(tokens, at + 1)
        if tokens[at] != ")":
            raise ValueError("missing )")
        return value, at + 1
    if not tokens[at].isdigit():
        raise ValueError(f"a number was expected, not {tokens[at]!r}")
    return Fraction(int(tokens[at])), at + 1
