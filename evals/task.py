"""Tasks: questions with known answers, read from a file or generated."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import demo
from demo.pool import Mixture, Pool
from demo.puzzle import Puzzle
from evals import grader
from evals.errors import EvalError
from evals.grader import Grade

PLACEHOLDER = "{question}"
_RANKS = "901-1000"


@dataclass(frozen=True, slots=True)
class Item:
    """One question."""

    id: str
    """Unique within the task."""
    question: str
    answer: str

    @property
    def digest(self) -> str:
        """Of all that the item is, to tell when a task file has changed under a ledger."""
        text = json.dumps([self.id, self.question, self.answer])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Task:
    """Questions, how they are put, and how completions are graded."""

    name: str
    """As it was asked for, such as "gsm8k:test.jsonl"."""
    items: tuple[Item, ...]
    template: str
    """The prompt, with `{question}` where the question goes."""
    grade: Grade

    def prompt(self, item: Item) -> str:
        return self.template.replace(PLACEHOLDER, item.question)


def read(spec: str, *, template: str | None = None, limit: int | None = None) -> Task:
    r"""The task that `spec` names, its first `limit` items.

    | spec | items |
    |---|---|
    | `game24`, `game24:FIRST-LAST` | Game of 24 puzzles by rank, 901-1000 by default |
    | `countdown:SEED:COUNT` | generated puzzles of 4 numbers whose numbers are in no training set |
    | `gsm8k:FILE` | JSON lines {question, answer}; the answer stands after `####` |
    | `math:FILE` | JSON lines {problem, solution} (answer in \boxed{}) or {problem, answer} |
    | `jsonl:FILE` | JSON lines {prompt, answer} |

    Raises `EvalError`.
    """
    kind, _, rest = spec.partition(":")
    if kind not in _KINDS:
        raise EvalError(f"no task {kind!r}; there are {', '.join(_KINDS)} (--task)")
    items, default, grade = _KINDS[kind]
    template = default if template is None else template
    if PLACEHOLDER not in template:
        raise EvalError(f"the template must contain {PLACEHOLDER} (--template)")
    found = tuple(islice(items(rest), limit))
    if not found:
        raise EvalError(f"the task {spec!r} has no items (--task, --limit)")
    return Task(spec, found, template, grade)


def _game24(ranks: str) -> Iterator[Item]:
    first, _, last = (ranks or _RANKS).partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise EvalError(f"ranks are FIRST-LAST, such as game24:901-1000, not {ranks!r} (--task)")
    path = demo.checkpoint_path().parent / "data" / "game24.csv"
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if int(first) <= int(row["Rank"]) <= int(last):
                puzzle = Puzzle(tuple(map(int, row["Puzzles"].split())), 24)
                yield Item(f"rank {row['Rank']}", puzzle.prompt, "24")


def _countdown(arguments: str) -> Iterator[Item]:
    seed, _, count = arguments.partition(":")
    if not (seed.isdecimal() and count.isdecimal()):
        raise EvalError(f"give countdown:SEED:COUNT, not countdown:{arguments} (--task)")
    # There are some ten thousand in all: below this bound, drawing distinct ones ends soon.
    if not 1 <= int(count) <= 2000:
        raise EvalError("countdown generates 1 to 2000 puzzles (--task)")
    mixture = Mixture(three_numbers=0.0, target_24=0.0)
    pool = Pool(random.Random(int(seed)), mixture, "held_out")
    seen: set[tuple[tuple[int, ...], int]] = set()
    while len(seen) < int(count):
        puzzle = pool.puzzle()
        key = (tuple(sorted(puzzle.numbers)), puzzle.target)
        if key not in seen:
            seen.add(key)
            yield Item(f"puzzle {len(seen)}", puzzle.prompt, str(puzzle.target))


def _gsm8k(file: str) -> Iterator[Item]:
    for where, row in _rows(file):
        answer = _text(row, "answer", where)
        _, mark, final = answer.rpartition("####")
        if not mark:
            raise EvalError(f"{where}: the answer has no '####' before its result")
        yield Item(where, _text(row, "question", where), final.strip())


def _math(file: str) -> Iterator[Item]:
    for where, row in _rows(file):
        source = _text(row, "answer" if "answer" in row else "solution", where)
        yield Item(where, _text(row, "problem", where), grader.final_answer(source))


def _jsonl(file: str) -> Iterator[Item]:
    for where, row in _rows(file):
        yield Item(where, _text(row, "prompt", where), _text(row, "answer", where))


def _rows(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place, such as "test.jsonl:7", and its object."""
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"cannot read the task file {file!r}: {error} (--task)") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path.name}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise EvalError(f"{where} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise EvalError(f"{where} is not a JSON object")
            yield where, row


def _text(row: dict[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise EvalError(f"{where} needs a text {field!r}")
    return value


_KINDS: dict[str, tuple[Callable[[str], Iterator[Item]], str, Grade]] = {
    "game24": (_game24, PLACEHOLDER, grader.puzzle),
    "countdown": (_countdown, PLACEHOLDER, grader.puzzle),
    "gsm8k": (_gsm8k, f"Question: {PLACEHOLDER}\nAnswer:", grader.number),
    "math": (_math, f"Problem:\n{PLACEHOLDER}\n\nSolution:", grader.formula),
    "jsonl": (_jsonl, PLACEHOLDER, grader.formula),
}
"""Where items come from, the template when none is given, and the grader."""
