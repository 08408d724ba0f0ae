"""Regular expressions of requests: what they may cost before the first match."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import regex

T = TypeVar("T")

_MOST_COPIES = 5000
_REPEATS = re.compile(r"(\)?)\{([0-9]*)(?:,([0-9]*))?\}")
_LAYOUT = re.compile(r"#[^\n]*|\s")
"""What a pattern in verbose mode may have between a number's digits."""


@lru_cache(maxsize=64)
def compiled(pattern: str) -> regex.Pattern[str]:
    """The expression, of 256 characters at most. Raises ValueError if it is none, or one whose
    counted repeats make more than 5,000 copies of what they repeat: they are written out when an
    expression is compiled, and a short one could take all of the memory."""
    if max(_copies(pattern), _copies(_LAYOUT.sub("", pattern))) > _MOST_COPIES:
        raise ValueError(
            "its counted repeats come to too many copies: "
            "use * or + in place of large numbers in {}"
        )
    try:
        return regex.compile(pattern, cache_pattern=False)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from None


def within(seconds: float, match: Callable[[float], T]) -> T:
    """What `match` gives, which is told a timeout as `regex` takes it. Raises TimeoutError once
    this thread has been busy with it for `seconds`.

    By `regex`'s own clock all threads' work counts: what it gives up depends on how busy the
    process is. So where this thread had less than its time, it has more."""
    timeout = seconds
    while True:
        began = time.thread_time()
        try:
            return match(timeout)
        except TimeoutError:
            if time.thread_time() - began >= seconds / 2:
                raise
            timeout *= 2


def _copies(pattern: str) -> int:
    """No less than what `pattern` has once its repeats are written out: those of groups multiply
    each other and all else, wherever they stand."""
    single, groups = len(pattern), 1
    for group, least, most in _REPEATS.findall(pattern):
        count = max(int(least or 0), int(most or 0))
        if group:
            groups *= max(1, count)
        else:
            single += count
    return single * groups
