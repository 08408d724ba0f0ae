"""The learning-rate schedule of every training here."""

import math


def schedule(progress: float, warmup: float = 0.02) -> float:
    """Linear warm-up, then a cosine to zero; `progress` in 0..1 -> a factor in 0..1."""
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))
