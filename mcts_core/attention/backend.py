"""Which attention a server uses: chosen once, when it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from transformers import AttentionInterface

from mcts_core.attention.cpu import paged_attention
from mcts_core.attention.interface import Attention, AttentionRefused, Tabulate
from mcts_core.kernels import Library, best_library


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of `Attention`."""

    name: str
    attention: Attention
    library: Library | None = None
    """The compiled kernel for the models that it can run; the others run their modules."""
    tabulate: Tabulate | None = None
    """Lays a step's rows out in tables whose sizes can be fixed, which a captured graph needs; None
    where what is computed has shapes that follow from the data."""
    limits: Callable[[torch.dtype, int], str | None] | None = None
    """What is against a model of this format over blocks of so many tokens."""

    def check(self, dtype: torch.dtype, block_size: int) -> None:
        """Raises `AttentionRefused` for a model of this format over blocks of so many tokens."""
        reason = None if self.limits is None else self.limits(dtype, block_size)
        if reason is not None:
            raise AttentionRefused(reason)

    @property
    def implementation(self) -> str:
        """The name under which transformers' model classes find it: one with "flash" in it they
        would take for a kernel of their own."""
        return f"tree_{self.name.replace('flash', 'varlen')}"

    def register(self) -> None:
        """Makes it known to transformers; doing it again changes nothing."""
        AttentionInterface.register(self.implementation, self.attention)


CPU = Backend("cpu", paged_attention)
"""torch's own kernels; works on every device."""


def _needs_gpu(name: str, device: torch.device) -> None:
    if device.type != "cuda":
        raise AttentionRefused(
            f"attention {name!r} needs an NVIDIA GPU, and the device is {str(device)!r}: "
            "use attention 'cpu', or device 'cuda'"
        )


def _triton(device: torch.device) -> Backend:
    _needs_gpu("triton", device)
    if find_spec("triton") is None:
        raise AttentionRefused(
            "attention 'triton' needs the package triton: pip install '.[gpu]' in the folder of "
            "the sources, or use attention 'cpu'"
        )
    from mcts_core.attention.triton import paged_attention as attention
    from mcts_core.attention.triton import tabulate

    return Backend("triton", attention, tabulate=tabulate)


def _flash(device: torch.device) -> Backend:
    _needs_gpu("flash", device)
    try:
        from flash_attn import flash_attn_varlen_func as kernel
    except ImportError as error:
        raise AttentionRefused(
            f"attention 'flash' needs the package flash-attn ({error}): pip install '.[flash]' "
            "in the folder of the sources, which takes CUDA's compiler, or use attention 'triton' "
            "or 'cpu'"
        ) from None
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        raise AttentionRefused(
            "attention 'flash' needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer, "
            f"and {str(device)!r} has {capability[0]}.{capability[1]}: use attention 'triton'"
        )
    from mcts_core.attention.flash import FlashAttention, limits, tabulate

    return Backend("flash", FlashAttention(kernel), tabulate=tabulate, limits=limits)


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
    "flash": _flash,
}


def choose(wanted: str, device: torch.device) -> Backend:
    """The backend of that name. Raises `AttentionRefused` when it cannot work on this device."""
    if wanted not in BACKENDS:
        raise AttentionRefused(f"attention {wanted!r} is not one of {', '.join(BACKENDS)}")
    return BACKENDS[wanted](device)
