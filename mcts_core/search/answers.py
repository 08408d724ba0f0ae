"""Answers: what a finished text says in the end, and whether two texts say the same."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any

import regex

from mcts_core.search.quantity import Quantity, quantity

_ANSWER = regex.compile(
    r"^[\s*#>]*(?:final |the )?answer(?: is)?\s*[:：]\**(.*)$", regex.I | regex.M
)
_WORDS = regex.compile(r"\\(?:text|textrm|mathrm|mbox)\{([^{}]*)\}")
_SET = regex.compile(r"[A-Za-z]\s*=(.*)")
_COMMAND = regex.compile(r"\\(?:[dt]?frac|sqrt|pi|cdot|times|div|left|right|pm|infty)(?![A-Za-z])")
_POWER = regex.compile(r"(?:\^|\*\*)\s*\{?\s*-?(\d{1,2})?(?!\d)")
_TAME = regex.compile(r"[\dA-Za-z{}()\[\]+\-*/^.,|\s]*")

_SPACE = regex.compile(r"(?<!\w) | (?!\w)")

_LONGEST = 40
_HIGHEST = 10
_HIGHEST_OF_VARIABLES = 4
_MOST = 32


def extract(text: str) -> str:
    r"""The answer that a finished text gives: what follows `Answer:` on the last such line; else
    the content of the last `\boxed{}`; else the last line that is not empty. White space, dollar
    signs and a full stop around it are left out, and so is a box on that line."""
    stated = _ANSWER.findall(text)
    if stated and stated[-1].strip(" *"):
        found = stated[-1].strip(" *")
        return bare(_boxed(found) or found)
    boxed = _boxed(text)
    if boxed is not None:
        return bare(boxed)
    lines = text.split("\n")
    return bare(next((line for line in reversed(lines) if line.strip()), ""))


class Comparison:
    r"""Whether answers are the same; one for each search, which it may cost only so much.

    First by text, white space aside where it separates no words, and `\text{}` around all of it.
    Then numbers (1,000; 0.5; 1/2; \frac{1}{2}; 50%; 6 \text{ cm}) by value and unit.
    What else looks like a formula is left to math-verify; `x = 5` counts as 5, but any other
    equation or sentence is compared by its text alone: math-verify would only look at the last
    number in it.

    math-verify can be interrupted in a main thread only, and a tower of powers keeps it busy for
    ever. So it is asked about short formulas of plain arithmetic with small powers alone, and about
    at most 32 pairs in one search; it is imported when it is first needed.
    """

    __slots__ = ("_forms", "_formulas", "_left")

    def __init__(self) -> None:
        self._left = _MOST
        self._forms: dict[str, _Form] = {}
        self._formulas: dict[str, Any] = {}

    def same(self, one: str, other: str) -> bool:
        first, second = self._form(one), self._form(other)
        if first.packed == second.packed:
            return True
        if first.number is not None and second.number is not None:
            return first.number.same(second.number)
        if not (self._left and first.tame and second.tame):
            return False
        self._left -= 1
        try:
            library = _math_verify()
            return bool(
                library.verify(
                    self._formula(library, first.value),
                    self._formula(library, second.value),
                    timeout_seconds=None,
                )
            )
        except Exception:  # whatever a parser of free text stumbles over: not the same
            return False

    def _form(self, text: str) -> _Form:
        """A text is looked at once, and compared with many others."""
        form = self._forms.get(text)
        if form is None:
            value = _value(text)
            form = _Form(value, _packed(value), quantity(value), _tame(value))
            self._forms[text] = form
        return form

    def _formula(self, library: Any, text: str) -> Any:
        if text not in self._formulas:
            self._formulas[text] = library.parse(f"${text}$", parsing_timeout=None)
        return self._formulas[text]


@dataclass(frozen=True, slots=True)
class _Form:
    """What an answer is compared by."""

    value: str
    packed: str
    """The text, without white space that separates no words."""
    number: Quantity | None
    tame: bool


def _math_verify() -> Any:
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of every call without alarm
    return import_module("math_verify")


def _boxed(text: str) -> str | None:
    r"""Content of the last \boxed{} whose braces are balanced."""
    start = len(text)
    while (start := text.rfind("\\boxed{", 0, start)) >= 0:
        depth = 0
        for at in range(start + 6, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                return text[start + 7 : at]
    return None


def bare(text: str) -> str:
    """`text` without white space, dollar signs and a full stop around it."""
    text = text.strip().removesuffix(".").strip()
    while len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    return text.removeprefix("$").strip()


def _value(text: str) -> str:
    named = _SET.fullmatch(text)
    text = named[1].strip() if named is not None else text
    worded = _WORDS.fullmatch(text)
    return worded[1].strip() if worded is not None else text


def _packed(text: str) -> str:
    return _SPACE.sub("", " ".join(text.split()))


def _tame(text: str) -> bool:
    """Whether math-verify may be asked about `text`: it is short, it is arithmetic, its variables
    have one letter, and its powers multiply to little."""
    if not text or len(text) > _LONGEST:
        return False
    plain = _COMMAND.sub(" ", text)
    variables = regex.search(r"[A-Za-z]", plain) is not None
    powers = [int(power) if power else _HIGHEST + 1 for power in _POWER.findall(plain)]
    return (
        _TAME.fullmatch(plain) is not None
        and not regex.search(r"[A-Za-z]{2}|\d{16}", plain)
        and prod(max(1, power) for power in powers)
        <= (_HIGHEST_OF_VARIABLES if variables else _HIGHEST)
    )
