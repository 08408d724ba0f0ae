"""Paged attention with torch's own kernels: gather the blocks, then batched matrix products.

Grouped query heads are packed as query rows of their KV head, so that keys and values are never
expanded. Rows go through plain matrix products over contiguous operands: these give the same bits
for a row whatever the number of rows, which the fused CPU kernel does not.

Segments that rows share are gathered once (`attention.plan`). Their scores join the row's own
before one softmax, so that nothing has to be merged afterwards but sums of values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from mcts_core.attention.interface import CHUNK_TOKENS, AttentionBatch, Chunk
from mcts_core.attention.plan import Plan, RowGroup, additive, make_plan

_PRODUCT_ROWS = 8
"""Products of fewer than four rows take other kernels and round differently; twice that is sure."""


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
    plan = batch.plan(
        sliding_window,
        lambda: make_plan(
            batch.rows,
            sliding_window,
            batch.storage.block_size,
            query.device,
            tile_rows=_tile_rows(grouped),
            trunks=batch.trunks,
        ),
    )
    _attend_rows(packed, plan, keys, values, softcap, sinks, out)
    for chunk in batch.chunks:
        batch.reads.read += chunk.blocks.shape[0]
        batch.reads.attended += chunk.blocks.shape[0]
        rows = packed[:, chunk.start : chunk.start + chunk.count]
        attended = attend_chunk(rows, chunk, keys, values, sliding_window, softcap, sinks)
        out[:, chunk.start : chunk.start + chunk.count] = attended
    return out.transpose(0, 1).reshape(1, padded, -1, value.shape[-1]), None


def _tile_rows(grouped: int) -> int:
    """The least power of two of rows with enough query heads for a product that does not depend on
    their number."""
    return 1 << (-(-_PRODUCT_ROWS // grouped) - 1).bit_length()


def _attend_rows(
    packed: torch.Tensor,
    plan: Plan,
    keys: torch.Tensor,
    values: torch.Tensor,
    softcap: float | None,
    sinks: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """packed (scaled) `[kv_heads, tokens, grouped, dim]`; keys, values as blocks; fills the plan's
    rows of out `[kv_heads, tokens, grouped, value_dim]`."""
    kv_heads = packed.shape[0]
    shared = _shared_scores(packed, plan, keys) if plan.segments else None
    shared_weights = None if shared is None else values.new_zeros(shared.shape)
    parts: list[tuple[RowGroup, torch.Tensor]] = []
    for group in plan.groups:
        shape = (kv_heads, group.rows.shape[0], -1)
        found = keys.index_select(1, group.blocks).view(*shape, keys.shape[-1])
        scores = _product(packed.index_select(1, group.rows), found.transpose(-1, -2))
        if group.segments:
            assert shared is not None
            joint = _by_row(shared, group).transpose(2, 3).flatten(3)
            scores = torch.cat([joint, scores], dim=-1)
        weights = _weights(scores, group.mask, softcap, sinks).to(values.dtype)
        if group.segments:
            assert shared_weights is not None
            span = shared_weights.shape[-1]
            joint, weights = weights.tensor_split([group.segments * span], dim=-1)
            joint = joint.reshape(*joint.shape[:3], group.segments, span).transpose(2, 3)
            shared_weights.index_copy_(1, group.entries, joint.flatten(1, 2))
        found = values.index_select(1, group.blocks).view(*shape, values.shape[-1])
        parts.append((group, _product(weights.contiguous(), found)))
    attended = None
    if shared_weights is not None:
        attended = _shared_values(shared_weights, plan, values)
    for group, part in parts:
        if group.segments:
            assert attended is not None
            part = _folded(_by_row(attended, group).float()).add_(part).to(part.dtype)
        out.index_copy_(1, group.rows, part)


def _shared_scores(packed: torch.Tensor, plan: Plan, keys: torch.Tensor) -> torch.Tensor:
    """Every segment's scores `[kv_heads, entries, grouped, span]`."""
    kv_heads, _, grouped, dim = packed.shape
    found = []
    for group in plan.segments:
        rows = packed.index_select(1, group.rows).view(kv_heads, group.count, -1, dim)
        segment = keys.index_select(1, group.blocks).view(kv_heads, group.count, -1, dim)
        scores = _product(rows, segment.transpose(-1, -2))
        found.append(scores.view(kv_heads, -1, grouped, segment.shape[2]))
    return torch.cat(found, dim=1)


def _shared_values(weights: torch.Tensor, plan: Plan, values: torch.Tensor) -> torch.Tensor:
    """Every segment's sums of values, `[kv_heads, entries, grouped, value_dim]`, for its weights
    `[kv_heads, entries, grouped, span]`."""
    kv_heads, _, grouped, span = weights.shape
    found = []
    entries = weights.split_with_sizes([group.rows.shape[0] for group in plan.segments], dim=1)
    for group, mine in zip(plan.segments, entries, strict=True):
        segment = values.index_select(1, group.blocks).view(kv_heads, group.count, span, -1)
        attended = _product(mine.reshape(kv_heads, group.count, -1, span), segment)
        found.append(attended.view(kv_heads, -1, grouped, values.shape[-1]))
    return torch.cat(found, dim=1)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right` `[a, b, n, m]`. Many products are shared out among the threads one by one, but
    a lone one is cut between them, and rounds differently at the cut: it is made twice instead."""
    if left.shape[0] * left.shape[1] > 1:
        return left @ right
    twice = torch.bmm(left[0].expand(2, -1, -1), right[0].expand(2, -1, -1))
    return twice[None, :1]


def _by_row(entries: torch.Tensor, group: RowGroup) -> torch.Tensor:
    """The group's own of all `[kv_heads, entries, ...]`: `[kv_heads, rows, segments, ...]`."""
    found = entries.index_select(1, group.entries)
    return found.view(found.shape[0], -1, group.segments, *found.shape[2:])


def _folded(parts: torch.Tensor) -> torch.Tensor:
    """The sum over dimension 2, in an order that its size alone decides: element-wise additions
    round the same for every row, which a reduction's kernels do not promise."""
    while (count := parts.shape[2]) > 1:
        half = count // 2
        folded = parts[:, :, :half] + parts[:, :, half : 2 * half]
        if count % 2:
            folded[:, :, 0] += parts[:, :, -1]
        parts = folded
    return parts[:, :, 0]


def _weights(
    scores: torch.Tensor,
    mask: torch.Tensor,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """scores `[kv_heads, rows, grouped, width]`; mask `[rows, 1, width]`;
    sinks `[kv_heads, 1, grouped, 1]`. Returns the attention's weights in float32.

    Soft-capping is Gemma 2's; a sink (GPT-OSS) is one more logit in the softmax's denominator.
    """
    scores = scores.float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores += mask
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    sink = sinks.float().expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat([scores, sink], dim=-1), dim=-1)[..., :-1]


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    weights = _weights(query @ key.transpose(-1, -2), mask, softcap, sinks)
    return weights.to(value.dtype) @ value


def attend_chunk(
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
            mask = additive(visible)
            attended.append(_attend(tile, tile_keys, tile_values, mask, softcap, by_head))
    return torch.cat(attended, dim=2).transpose(1, 2)
