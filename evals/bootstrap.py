"""Bootstrap confidence intervals of a mean (Efron 1979, the percentile method)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CHUNK = 4_000_000
"""Draws in memory at once."""


def interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The interval that holds `level` of the means of samples drawn with replacement.

    One value for each item: several seeds of one item are averaged first, because they are not
    independent. Raises ValueError without values, or for a level outside (0, 1).
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    if not 0 < level < 1:
        raise ValueError(f"a level of {level} is not between 0 and 1")
    sample = np.asarray(values, dtype=np.float64)  # [items]
    generator = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    rows = max(1, _CHUNK // len(sample))
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), len(sample))
        means.append(sample[generator.integers(0, len(sample), shape)].mean(axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)
