"""Stop strings that a text may be about to come to."""

from __future__ import annotations


def begun(text: str, stop: tuple[str, ...]) -> int:
    """Length of the longest end of `text` with which one of the strings in `stop` begins; less than
    that string's own. It is not to be shown yet: what follows may complete the string."""
    if not stop:
        return 0
    for length in range(min(max(map(len, stop)) - 1, len(text)), 0, -1):
        if any(string.startswith(text[-length:]) for string in stop):
            return length
    return 0
