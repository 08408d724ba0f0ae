"""Random numbers keyed by what they are for, not by when or where they are drawn."""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def uniform(seed: int, node: int, draw: int, position: int) -> float:
    """A number in [0, 1), the same for the same key in any batch and on any machine.

    The words of the key are absorbed one after the other by the finaliser of SplitMix64 (Steele,
    Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    state = 0
    for word in (seed, node, draw, position):
        state = (state + _GOLDEN + word) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return (state >> 11) * 2.0**-53
