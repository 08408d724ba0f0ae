"""Triton kernels of paged decoding: segments that rows share, and each row's own blocks.

Scores, softmax and sums are in float32 and computed online (FlashAttention, arXiv:2205.14135);
partial results are merged by their log-sum-exp (FlashDecoding; Hydragen, arXiv:2402.05099).

Tiles have a fixed shape and a fixed order of sums, so a row's result does not depend on which other
rows are there.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _scan(
    query: tl.tensor,  # [block_m, block_d]
    keys: tl.tensor,  # the KV head's keys, [slots, dim]
    values: tl.tensor,  # the KV head's values, [slots, value_dim]
    table: tl.tensor,  # block numbers
    start: tl.tensor,  # position of the table's first token
    count: tl.tensor,  # tokens of the table to look at
    length: tl.tensor,  # [block_m]: a query row sees positions below
    peak: tl.tensor,  # [block_m]: the running maximum
    total: tl.tensor,  # [block_m]: the running sum of exponentials
    acc: tl.tensor,  # [block_m, block_v]: the running sum of values
    scale: tl.tensor,
    softcap: tl.constexpr,
    window: tl.constexpr,
    size: tl.constexpr,
    dim: tl.constexpr,
    value_dim: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
    block_v: tl.constexpr,
) -> tl.tensor:
    """Takes the running softmax over `count` tokens further."""
    d = tl.arange(0, block_d)
    v = tl.arange(0, block_v)
    for at in range(0, count, block_n):
        offset = at + tl.arange(0, block_n)
        there = offset < count
        block = tl.load(table + offset // size, mask=there, other=0)
        slot = block * size + offset % size
        found = tl.load(
            keys + slot[None, :] * dim + d[:, None],
            mask=there[None, :] & (d < dim)[:, None],
            other=0.0,
        )
        scores = tl.dot(query, found, input_precision="ieee") * scale
        if softcap > 0.0:
            scores = softcap * (2.0 * tl.sigmoid(2.0 / softcap * scores) - 1.0)
        position = start + offset
        visible = there[None, :] & (position[None, :] < length[:, None])
        if window > 0:
            visible = visible & (position[None, :] >= length[:, None] - window)
        scores = tl.where(visible, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(scores - base[:, None])
        fade = tl.exp(peak - base)
        found = tl.load(
            values + slot[:, None] * value_dim + v[None, :],
            mask=there[:, None] & (v < value_dim)[None, :],
            other=0.0,
        )
        total = total * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights.to(found.dtype), found, input_precision="ieee")
        peak = higher
    return peak, total, acc


@triton.jit
def attend_segments(
    query: tl.tensor,  # [heads, tokens, dim], by strides
    keys: tl.tensor,  # [kv_heads, slots, dim]
    values: tl.tensor,  # [kv_heads, slots, value_dim]
    rows: tl.tensor,  # [tiles * tile_rows]: indices into the tokens; -1 where there is none
    lengths: tl.tensor,  # [tiles * tile_rows]: tokens that the row may look at
    tables: tl.tensor,  # [tiles, segment_blocks]
    starts: tl.tensor,  # [tiles]: position of the segment's first token
    parts: tl.tensor,  # out: [tiles * tile_rows, heads, value_dim] float32
    lse: tl.tensor,  # out: [tiles * tile_rows, heads] float32
    scale: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    slots: tl.tensor,
    softcap: tl.constexpr,
    window: tl.constexpr,
    size: tl.constexpr,
    segment_blocks: tl.constexpr,
    tile_rows: tl.constexpr,
    grouped: tl.constexpr,
    dim: tl.constexpr,
    value_dim: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
    block_v: tl.constexpr,
) -> None:
    """Grid (tiles, kv_heads): a tile of rows, with their grouped heads, over one segment. A tile
    whose first row is -1 has none, and reads nothing."""
    tile = tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    heads = tl.num_programs(1) * grouped
    m = tl.arange(0, block_m)
    d = tl.arange(0, block_d)
    v = tl.arange(0, block_v)
    entry = tile * tile_rows + m // grouped
    head = kv_head * grouped + m % grouped
    there = m < tile_rows * grouped
    row = tl.load(rows + entry, mask=there, other=-1)
    there = there & (row >= 0)
    length = tl.load(lengths + entry, mask=there, other=0)
    mine = tl.load(
        query + (head * head_stride + row * token_stride)[:, None] + d[None, :],
        mask=there[:, None] & (d < dim)[None, :],
        other=0.0,
    )
    peak = tl.full([block_m], float("-inf"), tl.float32)
    total = tl.zeros([block_m], tl.float32)
    acc = tl.zeros([block_m, block_v], tl.float32)
    peak, total, acc = _scan(
        mine,
        keys + kv_head * slots * dim,
        values + kv_head * slots * value_dim,
        tables + tile * segment_blocks,
        tl.load(starts + tile),
        tl.where(tl.load(rows + tile * tile_rows) < 0, 0, segment_blocks * size),
        length,
        peak,
        total,
        acc,
        scale,
        softcap,
        window,
        size,
        dim,
        value_dim,
        block_n,
        block_d,
        block_v,
    )
    total = tl.where(there, total, 1.0)
    out = entry * heads + head
    tl.store(
        parts + out[:, None] * value_dim + v[None, :],
        acc / total[:, None],
        mask=there[:, None] & (v < value_dim)[None, :],
    )
    tl.store(lse + out, peak + tl.log(total), mask=there)


@triton.jit
def attend_rows(
    query: tl.tensor,  # [heads, tokens, dim], by strides
    keys: tl.tensor,  # [kv_heads, slots, dim]
    values: tl.tensor,  # [kv_heads, slots, value_dim]
    rows: tl.tensor,  # [rows]: indices into the tokens
    lengths: tl.tensor,  # [rows]: tokens that the row may look at
    tables: tl.tensor,  # the rows' own blocks, one row after the other
    table_starts: tl.tensor,  # [rows]: where each row's blocks begin in `tables`
    starts: tl.tensor,  # [rows]: position of the first token in them
    entries: tl.tensor,  # where each row's segments stand in `parts`, one row after the other
    entry_starts: tl.tensor,  # [rows + 1]: where each row's begin in `entries`
    parts: tl.tensor,  # [entries, heads, value_dim] float32
    lse: tl.tensor,  # [entries, heads] float32
    sinks: tl.tensor,  # [heads]
    out: tl.tensor,  # out: [tokens, heads, value_dim]
    scale: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    slots: tl.tensor,
    has_sinks: tl.constexpr,
    softcap: tl.constexpr,
    window: tl.constexpr,
    size: tl.constexpr,
    grouped: tl.constexpr,
    dim: tl.constexpr,
    value_dim: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
    block_v: tl.constexpr,
) -> None:
    """Grid (rows, kv_heads): one row's grouped heads over its own blocks, joined with what
    `attend_segments` found."""
    index = tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    heads = tl.num_programs(1) * grouped
    m = tl.arange(0, block_m)
    d = tl.arange(0, block_d)
    v = tl.arange(0, block_v)
    there = m < grouped
    head = kv_head * grouped + m
    row = tl.load(rows + index)
    length = tl.load(lengths + index)
    start = tl.load(starts + index)
    mine = tl.load(
        query + row * token_stride + (head * head_stride)[:, None] + d[None, :],
        mask=there[:, None] & (d < dim)[None, :],
        other=0.0,
    )
    if has_sinks:
        peak = tl.load(sinks + head, mask=there, other=0.0).to(tl.float32)
        total = tl.full([block_m], 1.0, tl.float32)
    else:
        peak = tl.full([block_m], float("-inf"), tl.float32)
        total = tl.zeros([block_m], tl.float32)
    acc = tl.zeros([block_m, block_v], tl.float32)
    for at in range(tl.load(entry_starts + index), tl.load(entry_starts + index + 1)):
        place = tl.load(entries + at) * heads + head
        theirs = tl.load(lse + place, mask=there, other=0.0)
        part = tl.load(
            parts + place[:, None] * value_dim + v[None, :],
            mask=there[:, None] & (v < value_dim)[None, :],
            other=0.0,
        )
        higher = tl.maximum(peak, theirs)
        fade = tl.exp(peak - higher)
        weight = tl.exp(theirs - higher)
        total = total * fade + weight
        acc = acc * fade[:, None] + part * weight[:, None]
        peak = higher
    peak, total, acc = _scan(
        mine,
        keys + kv_head * slots * dim,
        values + kv_head * slots * value_dim,
        tables + tl.load(table_starts + index),
        start,
        length - start,
        tl.full([block_m], 0, tl.int64) + length,
        peak,
        total,
        acc,
        scale,
        softcap,
        window,
        size,
        dim,
        value_dim,
        block_n,
        block_d,
        block_v,
    )
    tl.store(
        out + ((row * heads + head) * value_dim)[:, None] + v[None, :],
        (acc / total[:, None]).to(out.dtype.element_ty),
        mask=there[:, None] & (v < value_dim)[None, :],
    )
