"""What the machine itself can do, by its own libraries, in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured rates."""

    threads: int
    copy_bytes_per_second: float
    """Bytes copied from one tensor to another, each byte counted once."""
    flops_per_second: float
    """Of a square matrix product in the models' format; a multiplication and an addition are 2."""


def measure(dtype: torch.dtype, threads: int, size: int, repeat: int) -> Machine:
    """`size` is the width of the matrices; the copied tensor has 32 times as many bytes as one
    float32 matrix. Medians of `repeat`."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
        source = torch.ones(32 * size * size)
        target = torch.empty_like(source)
        product = _median(lambda: left @ right, repeat)
        copy = _median(lambda: target.copy_(source), repeat)
    finally:
        torch.set_num_threads(before)
    return Machine(
        threads=threads,
        copy_bytes_per_second=source.numel() * source.element_size() / copy,
        flops_per_second=2 * size**3 / product,
    )


def _median(call: Callable[[], object], repeat: int) -> float:
    """Seconds of a call, the first one aside."""
    call()
    taken: list[float] = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
