"""Graders: whether a completion answers a question. Pure, so that a ledger can be graded anew."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from math_verify import parse, verify

from demo.puzzle import grade, parse_prompt
from mcts_core.search.answers import Comparison, bare, extract

Grade = Callable[[str, str, str], bool]
"""question, answer, completion: whether the completion gives the answer."""

_SECONDS = 5
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z*]+\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2}")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def puzzle(question: str, answer: str, completion: str) -> bool:
    """Whether the `Answer:` line is an expression over exactly the puzzle's numbers that makes its
    target; `answer` is not needed."""
    return grade(parse_prompt(question), completion)


def number(question: str, answer: str, completion: str) -> bool:
    """As GSM8K is graded: what follows the last `####`; else the stated or boxed answer, if it is
    a number; else the last number of the text. A model that goes on with a question of its own has
    answered before it."""
    completion, *_ = completion.split("\nQuestion:", 1)
    _, mark, stated = completion.rpartition("####")
    found = stated if mark else extract(completion)
    if not _NUMBER.fullmatch(found.strip().removeprefix("$")):
        numbers = _NUMBER.findall(found if mark else completion)
        if not numbers:
            return False
        found = numbers[0] if mark else numbers[-1]
    return Comparison().same(found.strip().removeprefix("$"), answer)


def formula(question: str, answer: str, completion: str) -> bool:
    r"""Whether the stated answer (`Answer:`, `\boxed{}`, or the last line) is the same text, number
    or formula as `answer`, by the rules of the votes (`mcts_core.search.answers`); or, of whatever
    length, by math-verify, which here can be interrupted."""
    found, answer = final_answer(completion), bare(answer)
    return Comparison().same(found, answer) or _verified(found, answer)


def _verified(found: str, answer: str) -> bool:
    """Whether math-verify says so of two formulas; of what has words in it, it would look at the
    last number. It interrupts itself by an alarm, which only the main thread may set."""
    if not (_formulaic(found) and _formulaic(answer)):
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    gold, target = (parse(f"${text}$", parsing_timeout=_SECONDS) for text in (answer, found))
    return bool(verify(gold, target, timeout_seconds=_SECONDS))


def _formulaic(text: str) -> bool:
    return _WORD.search(_COMMAND.sub(" ", text)) is None


def final_answer(text: str) -> str:
    """The answer that a solution comes to."""
    return extract(text)
