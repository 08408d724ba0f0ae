"""Random numbers keyed by what they are for, not by when or where they are drawn."""

from __future__ import annotations

from math import sqrt

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROTATIONS = tuple(sqrt(prime) % 1.0 for prime in (2, 3, 5, 7, 11, 13, 17, 19))
"""Irrational steps, one for each of an option's first tokens (Richtmyer's sequence)."""


class Noise:
    """The numbers of one node: what keys have in common is hashed once."""

    __slots__ = ("_draw", "_node", "_state")

    def __init__(self, seed: int, node: int) -> None:
        self._node = _absorbed(_absorbed(0, seed), node)
        self._draw: int | None = None
        self._state = 0
        """Of the draw that was asked for last, which mostly is the one asked for next."""

    def uniform(self, draw: int, position: int) -> float:
        """A number in [0, 1), the same for the same key in any batch and on any machine.

        Each number by itself is uniform. Over the draws from one node, those for the first
        positions are spread evenly: a random start, and then steps of an irrational number (a
        randomly shifted Kronecker sequence; Cranley and Patterson, 1976). Options drawn side by
        side, which cannot know of each other yet, so rarely come out the same.
        """
        spread = position < len(_ROTATIONS)
        key = 0 if spread else draw
        if key != self._draw:
            self._draw, self._state = key, _absorbed(self._node, key)
        number = (_absorbed(self._state, position) >> 11) * 2.0**-53
        return (number + draw * _ROTATIONS[position]) % 1.0 if spread else number


def uniform(seed: int, node: int, draw: int, position: int) -> float:
    """One number; see `Noise.uniform`."""
    return Noise(seed, node).uniform(draw, position)


def _absorbed(state: int, word: int) -> int:
    """The state after one more word, by the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast
    splittable pseudorandom number generators", 2014)."""
    state = (state + _GOLDEN + word) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
