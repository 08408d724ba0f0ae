"""The tensors behind a block pool: keys and values of every layer of one model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mcts_core.transfer import upload


class KVStorage:
    """Per layer, keys `[kv_heads, slots, head_dim]` and values `[kv_heads, slots, value_dim]`.

    Heads come first, so that the blocks of a batch of rows are gathered in one copy, in the layout
    that a batched matrix product reads.

    A layer's tensors are made at its first write, from the shapes that the model really produces
    (the value dimension may differ from the key's, and layers may differ from each other). The
    load-time probe writes every layer, so that the memory is taken before the first request.
    """

    def __init__(
        self, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self._dtype = dtype
        self._device = device
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.version = 0
        """Grows when the tensors are made anew."""

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores keys `[kv_heads, tokens, head_dim]` and values `[kv_heads, tokens, value_dim]` at
        `slots` `[tokens]`; returns the layer's whole tensors as blocks,
        `[kv_heads, blocks, block_size, dim]`."""
        stored_keys, stored_values = self.tensors(
            layer, keys.shape[0], keys.shape[-1], values.shape[-1]
        )
        stored_keys.index_copy_(1, slots, keys)
        stored_values.index_copy_(1, slots, values)
        return self._blocks(stored_keys), self._blocks(stored_values)

    def tensors(
        self, layer: int, heads: int, key_dim: int, value_dim: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values, made at the first call. Whoever writes here without `write`
        may order the elements within a block's `block_size * dim` of a head as it likes."""
        if layer not in self._layers:
            self._layers[layer] = (self._empty(heads, key_dim), self._empty(heads, value_dim))
        return self._layers[layer]

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copies whole blocks, (source, destination), in every layer."""
        if not copies:
            return
        source = upload([pair[0] for pair in copies], self._device)
        target = upload([pair[1] for pair in copies], self._device)
        for pair in self._layers.values():
            for tensor in pair:
                blocks = self._blocks(tensor)
                blocks[:, target] = blocks[:, source]

    def zero(self, blocks: Sequence[int]) -> None:
        """Clears whole blocks in every layer."""
        at = upload(blocks, self._device)
        for pair in self._layers.values():
            for tensor in pair:
                self._blocks(tensor).index_fill_(1, at, 0)

    def finite(self, blocks: Sequence[int]) -> bool:
        """Whether all that stands in these blocks is finite."""
        at = upload(blocks, self._device)
        found = [
            self._blocks(tensor).index_select(1, at).isfinite().all()
            for pair in self._layers.values()
            for tensor in pair
        ]
        return not found or bool(torch.stack(found).all().cpu())

    def resize(self, blocks: int) -> None:
        """Room for so many blocks, empty, in all layers that were written before."""
        shapes = {
            layer: [(tensor.shape[0], tensor.shape[-1]) for tensor in pair]
            for layer, pair in self._layers.items()
        }
        self._layers.clear()  # first: there may be no room for both
        self.blocks = blocks
        self.version += 1
        for layer, (keys, values) in shapes.items():
            self._layers[layer] = (self._empty(*keys), self._empty(*values))

    @property
    def bytes_per_token(self) -> int:
        """Of all layers that were written before."""
        return self.bytes // (self.blocks * self.block_size)

    @property
    def bytes(self) -> int:
        """Memory of all layers' tensors."""
        return sum(
            tensor.numel() * tensor.element_size()
            for pair in self._layers.values()
            for tensor in pair
        )

    def _blocks(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(tensor.shape[0], self.blocks, self.block_size, tensor.shape[-1])

    def _empty(self, heads: int, dim: int) -> torch.Tensor:
        shape = (heads, self.blocks * self.block_size, dim)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)
