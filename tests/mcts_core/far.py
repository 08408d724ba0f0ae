"""A device that is far away: tensors whose numbers the host cannot see without waiting.

They compute on the CPU and say that they are on torch's device `meta`. What would let the host wait
for an accelerator is an error here; reading back on purpose, by copying to the CPU, is counted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

FAR = torch.device("meta")
_ATEN = torch.ops.aten
_WAITS = {
    _ATEN._local_scalar_dense.default,
    _ATEN.is_nonzero.default,
    _ATEN.nonzero.default,
    _ATEN.masked_select.default,
    _ATEN.equal.default,
    _ATEN._unique2.default,
}
"""Their results, or the shapes of these, follow from numbers."""


class HostWaits(AssertionError):
    """The host would wait for the device."""


class _Tensor(torch.Tensor):
    """`near` holds its numbers. Used under `FarDevice` only."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls: type[_Tensor], near: torch.Tensor) -> _Tensor:
        made: _Tensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, near.shape, strides=near.stride(), dtype=near.dtype, device=FAR
        )
        made.near = near
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of FarDevice")


def far(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, as if it were there."""
    return _Tensor(tensor.detach())


class FarDevice(TorchDispatchMode):
    """Within, whatever is made on `FAR` or from something there is there."""

    def __init__(self) -> None:
        super().__init__()
        self.read_backs = 0
        """Copies to the host."""
        self.uploads = 0
        """Copies to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        seen = [0]

        def near(tensor: _Tensor) -> torch.Tensor:
            seen[0] += 1
            return tensor.near

        args, kwargs = tree_map_only(_Tensor, near, (args, kwargs))
        made_there = kwargs.get("device") == FAR
        if made_there:
            kwargs["device"] = torch.device("cpu")
        if not seen[0] and not made_there:
            return func(*args, **kwargs)
        if seen[0] and func in _WAITS:
            raise HostWaits(f"{func}")
        indexed = args[1] if func in (_ATEN.index.Tensor, _ATEN.index_put_.default) else ()
        if any(each is not None and each.dtype == torch.bool for each in indexed):
            raise HostWaits(f"{func} by a mask")
        if func is _ATEN._to_copy.default:
            if made_there and not seen[0]:
                self.uploads += 1
                if not kwargs.get("non_blocking"):
                    raise HostWaits("a copy to the device that is waited for")
            elif not made_there and kwargs.get("device") == torch.device("cpu"):
                self.read_backs += 1
                return func(*args, **kwargs)
        found = func(*args, **kwargs)
        return tree_map_only(torch.Tensor, lambda tensor: _Tensor(tensor), found)
