"""Random numbers keyed by what they are for, not by when or where they are drawn."""

from __future__ import annotations

from math import sqrt

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROTATIONS = tuple(sqrt(prime) % 1.0 for prime in (2, 3, 5, 7, 11, 13, 17, 19))
"""Irrational steps, one for each of an option's first tokens (Richtmyer's sequence)."""


def uniform(seed: int, node: int, draw: int, position: int) -> float:
    """A number in [0, 1), the same for the same key in any batch and on any machine.

    Each number by itself is uniform. Over the draws from one node, those for the first positions
    are spread evenly: a random start, and then steps of an irrational number (a randomly shifted
    Kronecker sequence; Cranley and Patterson, 1976). Options drawn side by side, which cannot know
    of each other yet, so rarely come out the same.
    """
    if position < len(_ROTATIONS):
        return (_hashed(seed, node, 0, position) + draw * _ROTATIONS[position]) % 1.0
    return _hashed(seed, node, draw, position)


def _hashed(*words: int) -> float:
    """The words absorbed one after the other by the finaliser of SplitMix64 (Steele, Lea and
    Flood, "Fast splittable pseudorandom number generators", 2014)."""
    state = 0
    for word in words:
        state = (state + _GOLDEN + word) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return (state >> 11) * 2.0**-53
