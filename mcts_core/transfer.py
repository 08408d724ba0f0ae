"""Numbers on their way to the device, and back.

`torch.tensor(numbers, device=cuda)` lets the host wait until the device has caught up. Here numbers
go through pinned memory, and the host goes on at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import torch

_ALIGNED = 2
"""Tables begin at multiples of this many int64 numbers (16 bytes): Triton compiles a kernel once
more for pointers that do not."""


def staged(
    numbers: Sequence[float], device: torch.device, dtype: torch.dtype = torch.long
) -> torch.Tensor:
    """`[numbers]` on the host, where a copy to the device need not be waited for."""
    if not numbers:
        return torch.empty(0, dtype=dtype)
    # An array takes a list's numbers several times faster than a tensor does.
    kind, wide = ("q", torch.long) if dtype == torch.long else ("d", torch.float64)
    host = torch.frombuffer(array(kind, numbers), dtype=wide).to(dtype)
    return host.pin_memory() if device.type == "cuda" else host


def upload(
    numbers: Sequence[float], device: torch.device, dtype: torch.dtype = torch.long
) -> torch.Tensor:
    """`[numbers]` on the device; the host does not wait for it."""
    return staged(numbers, device, dtype).to(device, non_blocking=True)


def upload_all(tables: Sequence[Sequence[int]], device: torch.device) -> list[torch.Tensor]:
    """Each table as a tensor `[numbers]` int64, in one copy."""
    return unpacked(upload(packed(tables), device), [len(table) for table in tables])


def packed(tables: Iterable[Sequence[int]]) -> list[int]:
    """All tables' numbers, one after the other; what `unpacked` takes apart."""
    numbers: list[int] = []
    for table in tables:
        numbers.extend(table)
        numbers.extend([0] * (-len(table) % _ALIGNED))
    return numbers


def unpacked(numbers: torch.Tensor, lengths: Iterable[int]) -> list[torch.Tensor]:
    """Views of the tables, of the lengths that they had, in the packed `numbers`."""
    views: list[torch.Tensor] = []
    start = 0
    for length in lengths:
        views.append(numbers[start : start + length])
        start += length + -length % _ALIGNED
    return views


def read_back(values: torch.Tensor) -> list[list[float]]:
    """`[rows, values]` as numbers: here the host waits for the device."""
    found: list[list[float]] = values.cpu().tolist()
    return found
