"""Attention as its definition reads, token by token and head by head: the oracle of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from mcts_core.attention.interface import AttentionBatch


def reference_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    batch: AttentionBatch,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """See `attention.interface.Attention`. Computes in float64; reads every token anew."""
    count, (kv_heads, padded) = batch.tokens, key.shape[1:3]
    heads, dim = query.shape[1], query.shape[-1]
    keys, values = batch.storage.write(
        int(module.layer_idx),  # type: ignore[arg-type]
        key[0, :, :count],
        value[0, :, :count],
        batch.slots,
    )
    scale = dim**-0.5 if scaling is None else scaling
    out = query.new_zeros((1, padded, heads, value.shape[-1]))
    for index, blocks, length in _contexts(batch):
        first = 0 if sliding_window is None else max(0, length - sliding_window)
        for head in range(heads):
            of = head // (heads // kv_heads)
            own_keys = keys[of, blocks].flatten(0, 1)[first:length].double()
            own_values = values[of, blocks].flatten(0, 1)[first:length].double()
            scores = own_keys @ query[0, head, index].double() * scale
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            if s_aux is not None:
                scores = torch.cat([scores, s_aux[head : head + 1].double()])
            weights = torch.softmax(scores, dim=0)[: length - first]
            out[0, index, head] = (weights @ own_values).to(out.dtype)
    return out, None


def _contexts(batch: AttentionBatch) -> Iterator[tuple[int, list[int], int]]:
    """For each token of the step: its index, its sequence's blocks, and what it may look at."""
    for row in batch.rows:
        yield row.index, list(row.blocks), row.length
    for chunk in batch.chunks:
        for offset in range(chunk.count):
            yield chunk.start + offset, chunk.blocks.tolist(), chunk.context + offset + 1
