"""Paged attention with torch's own kernels: gather the blocks, then batched matrix products.

Grouped query heads are packed as query rows of their KV head, so that keys and values are never
expanded. Rows go through plain matrix products over contiguous operands: these give the same bits
for a row whatever the number of rows, which the fused CPU kernel does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from mcts_core.attention.interface import CHUNK_TOKENS, AttentionBatch, Chunk


def paged_attention(
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
    """See `attention.interface.Attention`."""
    count, (kv_heads, padded) = batch.tokens, key.shape[1:3]
    grouped, dim = query.shape[1] // kv_heads, query.shape[-1]
    keys, values = batch.storage.write(
        int(module.layer_idx),  # type: ignore[arg-type]
        key[0, :, :count],
        value[0, :, :count],
        batch.slots,
    )
    scaled = query[0] * (dim**-0.5 if scaling is None else scaling)
    packed = scaled.view(kv_heads, grouped, padded, dim).transpose(1, 2)
    out = query.new_zeros((kv_heads, padded, grouped, value.shape[-1]))
    sinks = None if s_aux is None else s_aux.view(kv_heads, 1, grouped, 1)
    for index, group in enumerate(batch.groups):
        mask = _row_mask(batch, index, sliding_window)
        shape = (kv_heads, group.rows.shape[0], mask.shape[-1], -1)
        found_keys = keys.index_select(1, group.blocks).view(shape)
        found_values = values.index_select(1, group.blocks).view(shape)
        rows = packed.index_select(1, group.rows)
        attended = _attend(rows, found_keys, found_values, mask, softcap, sinks)
        out.index_copy_(1, group.rows, attended)
    for chunk in batch.chunks:
        rows = packed[:, chunk.start : chunk.start + chunk.count]
        attended = _attend_chunk(rows, chunk, keys, values, sliding_window, softcap, sinks)
        out[:, chunk.start : chunk.start + chunk.count] = attended
    return out.transpose(0, 1).reshape(1, padded, -1, value.shape[-1]), None


def _row_mask(batch: AttentionBatch, index: int, window: int | None) -> torch.Tensor:
    """Additive mask `[rows, 1, width]` in float32: a row sees its own first `length` tokens, of
    these the last `window`."""
    if (index, window) not in batch.masks:
        group = batch.groups[index]
        width = group.blocks.shape[0] // group.rows.shape[0] * batch.storage.block_size
        position = torch.arange(width, device=group.lengths.device)
        visible = position < group.lengths[:, None]
        if window is not None:
            visible &= position >= group.lengths[:, None] - window
        batch.masks[index, window] = _additive(visible)[:, None, :]
    return batch.masks[index, window]


def _additive(visible: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(visible.shape, device=visible.device)
    return mask.masked_fill_(~visible, float("-inf"))


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """query (scaled) `[kv_heads, rows, grouped, dim]`; key, value `[kv_heads, rows, width, dim]`;
    mask `[rows, 1, width]`; sinks `[kv_heads, 1, grouped, 1]`.
    Returns `[kv_heads, rows, grouped, value_dim]`.

    Soft-capping is Gemma 2's; a sink (GPT-OSS) is one more logit in the softmax's denominator.
    """
    scores = (query @ key.transpose(-1, -2)).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores += mask
    if sinks is not None:
        sink = sinks.float().expand(*scores.shape[:-1], 1)
        weights = torch.softmax(torch.cat([scores, sink], dim=-1), dim=-1)[..., :-1]
    else:
        weights = torch.softmax(scores, dim=-1)
    return weights.to(value.dtype) @ value


def _attend_chunk(
    query: torch.Tensor,
    chunk: Chunk,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Causal attention of one sequence's consecutive tokens over its whole context, tile by tile:
    a tile's shape, and so its bits, follow from its place in the sequence alone.

    query (scaled) `[kv_heads, count, grouped, dim]`; keys, values as blocks.
    Returns `[kv_heads, count, grouped, value_dim]`.
    """
    total = chunk.context + chunk.count
    found_keys = keys.index_select(1, chunk.blocks).flatten(1, 2)[:, None, :total]
    found_values = values.index_select(1, chunk.blocks).flatten(1, 2)[:, None, :total]
    heads_first = query.transpose(1, 2)  # [kv_heads, grouped, count, dim]
    by_head = None if sinks is None else sinks.transpose(1, 2)
    position = torch.arange(total, device=query.device)
    attended: list[torch.Tensor] = []
    for start in range(0, chunk.count, CHUNK_TOKENS):
        end = chunk.context + start + CHUNK_TOKENS
        own = position[end - CHUNK_TOKENS : end, None]
        visible = position[:end] <= own
        if window is not None:
            visible &= position[:end] > own - window
        tile = heads_first[:, :, start : start + CHUNK_TOKENS]
        tile_keys, tile_values = found_keys[:, :, :end], found_values[:, :, :end]
        if softcap is None and sinks is None:
            attended.append(
                functional.scaled_dot_product_attention(
                    tile,
                    tile_keys.expand(-1, query.shape[2], -1, -1),
                    tile_values.expand(-1, query.shape[2], -1, -1),
                    attn_mask=visible,
                    scale=1.0,
                )
            )
        else:
            mask = _additive(visible)
            attended.append(_attend(tile, tile_keys, tile_values, mask, softcap, by_head))
    return torch.cat(attended, dim=2).transpose(1, 2)
