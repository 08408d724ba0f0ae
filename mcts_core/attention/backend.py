"""Which attention a server uses: chosen once, when it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from transformers import AttentionInterface

from mcts_core.attention.cpu import paged_attention
from mcts_core.attention.interface import Attention
from mcts_core.kernels import Library, best_library


class AttentionRefused(ValueError):
    """The backend cannot work here; the message says why and what to use instead."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of `Attention`."""

    name: str
    attention: Attention
    library: Library | None = None
    """The compiled kernel for the models that it can run; the others run their modules."""

    @property
    def implementation(self) -> str:
        """The name under which transformers' model classes find it."""
        return f"tree_{self.name}"

    def register(self) -> None:
        """Makes it known to transformers; doing it again changes nothing."""
        AttentionInterface.register(self.implementation, self.attention)


CPU = Backend("cpu", paged_attention)
"""torch's own kernels; works on every device."""


def _triton(device: torch.device) -> Backend:
    if device.type != "cuda":
        raise AttentionRefused(
            f"attention 'triton' needs an NVIDIA GPU, and the device is {str(device)!r}: "
            "use attention 'cpu', or device 'cuda'"
        )
    if find_spec("triton") is None:
        raise AttentionRefused(
            "attention 'triton' needs the package triton: install mcts-serve[gpu], or use "
            "attention 'cpu'"
        )
    from mcts_core.attention.triton import paged_attention as attention

    return Backend("triton", attention)


def _native(device: torch.device) -> Backend:
    library = best_library()
    if device.type != "cpu" or library is None:
        raise AttentionRefused(
            "attention 'native' needs a CPU with AVX2 or AVX-512 as the device, and a C++ compiler "
            "when the package is installed: use attention 'cpu'"
        )
    return Backend("native", paged_attention, library)


def _auto(device: torch.device) -> Backend:
    """On GPUs torch's own kernels too: the Triton kernels were only interpreted so far."""
    return CPU if device.type != "cpu" or best_library() is None else _native(device)


BACKENDS: dict[str, Callable[[torch.device], Backend]] = {
    "auto": _auto,
    "native": _native,
    "cpu": lambda device: CPU,
    "triton": _triton,
}


def choose(wanted: str, device: torch.device) -> Backend:
    """The backend of that name. Raises `AttentionRefused` when it cannot work on this device."""
    if wanted not in BACKENDS:
        raise AttentionRefused(f"attention {wanted!r} is not one of {', '.join(BACKENDS)}")
    return BACKENDS[wanted](device)
