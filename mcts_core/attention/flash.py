"""Paged attention through the package flash-attn, for NVIDIA GPUs since Ampere.

Rows and prompts' chunks go through its kernel for sequences of different lengths over a block table
(Dao, "FlashAttention-2", arXiv:2307.08691), which takes our storage as it lies, by its strides.
Each row reads its whole context: what rows share is read once for each of them.

The kernel for a KV cache is not used: from 2.8.4 on it reads the lengths back in every layer, so
that the host waits and nothing can be captured, and where it decides on the number of splits by
itself, a row's result depends on the batch (pytorch#194167: or is not a number). The other kernel
splits only sequences of a single query with several heads for a KV head; so the heads of a group go
in as queries of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch.nn import functional

from mcts_core.attention.interface import AttentionBatch, AttentionRefused, Chunk, Row
from mcts_core.kv.blocks import PADDING_BLOCK
from mcts_core.transfer import upload_all

PAGE_TOKENS = 256
"""A block's tokens must be a multiple of this."""
_MOST_DIM = 256
_DIM_STEP = 8
"""Heads of other widths it would pad, and copy the whole pool in every layer."""
DTYPES = (torch.float16, torch.bfloat16)


class Kernel(Protocol):
    """flash-attn's `flash_attn_varlen_func`, as far as it is used here."""

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        *,
        softmax_scale: float,
        causal: bool,
        window_size: tuple[int, int],
        softcap: float,
        block_table: torch.Tensor,
    ) -> torch.Tensor:
        """q `[queries, heads, dim]`, sequence after sequence; k, v `[blocks, block_size, kv_heads,
        dim]`; where each sequence's queries and keys begin, `[sequences + 1]` int32 each;
        block_table `[sequences, width]` int32. The last query of a sequence sees its last key.
        Returns `[queries, heads, dim]`."""


@dataclass(frozen=True, slots=True)
class _Chunks:
    """What the kernel is told of the chunks."""

    query_starts: torch.Tensor
    """[chunks + 1] int32"""
    key_starts: torch.Tensor
    """[chunks + 1] int32"""
    table: torch.Tensor
    """[chunks, width] int32"""
    blocks: int
    """Of all chunks."""


@dataclass(slots=True)
class _Layout:
    """What the kernel is told of the rows."""

    rows: torch.Tensor
    """[rows] int64: indices into the step's tokens."""
    key_starts: torch.Tensor
    """[rows + 1] int32"""
    table: torch.Tensor
    """[rows, width] int32"""
    read: int
    chunks: _Chunks | None = None
    _query_starts: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def attended(self) -> int:
        return self.read

    def query_starts(self, queries: int) -> torch.Tensor:
        """`[rows + 1]` int32, where each row has so many queries."""
        if queries not in self._query_starts:
            ends = (self.rows.shape[0] + 1) * queries
            self._query_starts[queries] = torch.arange(
                0, ends, queries, dtype=torch.int32, device=self.rows.device
            )
        return self._query_starts[queries]


@dataclass(frozen=True, slots=True)
class FlashTables:
    """Implements `attention.interface.Tables`: the blocks of the longest row are the units."""

    rows: list[int]
    lengths: list[int]
    tables: list[Sequence[int]]
    units: int
    read: int

    @property
    def attended(self) -> int:
        return self.read

    def lists(self) -> Sequence[list[int]]:
        starts, table = [0], list[int]()
        for length, blocks in zip(self.lengths, self.tables, strict=True):
            starts.append(starts[-1] + length)
            table.extend(blocks)
            table.extend([PADDING_BLOCK] * (self.units - len(blocks)))
        return self.rows, starts, table

    def padded(self, rows: int, units: int) -> FlashTables:
        more = rows - len(self.rows)
        return FlashTables(
            [*self.rows, *range(len(self.rows), rows)],
            self.lengths + [1] * more,
            self.tables + [[PADDING_BLOCK]] * more,
            units,
            self.read,
        )

    def plan(self, tables: Sequence[torch.Tensor]) -> _Layout:
        rows, starts, table = tables
        return _Layout(rows, starts.int(), table.int().view(-1, max(1, self.units)), self.read)


def tabulate(rows: Sequence[Row], window: int | None, size: int) -> FlashTables:
    """See `attention.interface.Tabulate`."""
    widths = [(row.length - 1) // size + 1 for row in rows]
    before = [0 if window is None else max(0, row.length - window) // size for row in rows]
    return FlashTables(
        [row.index for row in rows],
        [row.length for row in rows],
        [row.blocks[:width] for row, width in zip(rows, widths, strict=True)],
        max(widths, default=0),
        sum(widths) - sum(before),
    )


def limits(dtype: torch.dtype, block_size: int) -> str | None:
    """What flash-attn has against a model of this format over blocks of so many tokens."""
    if dtype not in DTYPES:
        return (
            f"attention 'flash' computes in float16 and bfloat16, not in {str(dtype)[6:]}: "
            "set dtype 'bfloat16', or use attention 'triton' or 'cpu'"
        )
    if block_size % PAGE_TOKENS:
        return (
            f"attention 'flash' needs KV blocks of a multiple of {PAGE_TOKENS} tokens, not of "
            f"{block_size}: set block_size {PAGE_TOKENS}, or use attention 'triton' or 'cpu'"
        )
    return None


class FlashAttention:
    """Implements `attention.interface.Attention`."""

    def __init__(self, kernel: Kernel) -> None:
        """`kernel` is flash-attn's `flash_attn_varlen_func`."""
        self._kernel = kernel

    def __call__(
        self,
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
        """Raises `AttentionRefused` for a layer that the kernel cannot compute; the probe at load
        calls each of them."""
        count, (kv_heads, padded) = batch.tokens, key.shape[1:3]
        heads, dim = query.shape[1], query.shape[-1]
        _check(dim, value.shape[-1], sinks=s_aux is not None)
        keys, values = (
            blocks.permute(1, 2, 0, 3)
            for blocks in batch.storage.write(
                int(module.layer_idx),  # type: ignore[arg-type]
                key[0, :, :count],
                value[0, :, :count],
                batch.slots,
            )
        )
        layout = batch.plan(sliding_window, lambda: _lay_out(batch, sliding_window))
        left = -1 if sliding_window is None else sliding_window - 1
        run: dict[str, Any] = {
            # Only an upper bound, and the same in every step: how a window is treated follows it.
            "max_seqlen_k": batch.storage.blocks * batch.storage.block_size,
            "softmax_scale": dim**-0.5 if scaling is None else scaling,
            "softcap": softcap or 0.0,
        }
        out = query.new_zeros((padded, heads, dim))
        if (rows := layout.rows.shape[0]) > 0:
            # A window counts from a query's place, which the heads of a group must not differ in.
            group = heads // kv_heads if sliding_window is None else 1
            mine = query[0].index_select(1, layout.rows).view(-1, group, rows, dim)
            attended = self._kernel(
                mine.permute(2, 1, 0, 3).reshape(rows * group, -1, dim),
                keys,
                values,
                layout.query_starts(group),
                layout.key_starts,
                group,
                causal=False,
                window_size=(left, -1 if left < 0 else 0),
                block_table=layout.table,
                **run,
            )
            attended = attended.view(rows, group, -1, dim).transpose(1, 2)
            out.index_copy_(0, layout.rows, attended.reshape(rows, heads, dim))
        if layout.chunks is not None:
            spans = [slice(chunk.start, chunk.start + chunk.count) for chunk in batch.chunks]
            sizes = [chunk.count for chunk in batch.chunks]
            attended = self._kernel(
                torch.cat([query[0, :, span] for span in spans], dim=1).transpose(0, 1),
                keys,
                values,
                layout.chunks.query_starts,
                layout.chunks.key_starts,
                max(sizes),
                causal=True,
                window_size=(left, 0),
                block_table=layout.chunks.table,
                **run,
            )
            for span, part in zip(spans, attended.split_with_sizes(sizes), strict=True):
                out[span] = part
        return out[None], None


def _check(dim: int, value_dim: int, *, sinks: bool) -> None:
    reason = None
    if sinks:
        reason = "has attention sinks"
    elif value_dim != dim:
        reason = f"has keys {dim} and values {value_dim} wide, which must be the same"
    elif dim > _MOST_DIM or dim % _DIM_STEP:
        reason = f"has heads {dim} wide: {_MOST_DIM} at most, and a multiple of {_DIM_STEP}"
    if reason is not None:
        raise AttentionRefused(
            f"attention 'flash' cannot compute this model, which {reason}: use attention 'triton' "
            "or 'cpu'"
        )


def _lay_out(batch: AttentionBatch, window: int | None) -> _Layout:
    device = batch.slots.device
    tables = tabulate(batch.rows, window, batch.storage.block_size)
    layout = tables.plan(upload_all(tables.lists(), device))
    if batch.chunks:
        layout.chunks = _chunks(batch.chunks, device)
        layout.read += layout.chunks.blocks
    return layout


def _chunks(chunks: Sequence[Chunk], device: torch.device) -> _Chunks:
    counts = [chunk.count for chunk in chunks]
    keys = [chunk.context + chunk.count for chunk in chunks]
    starts = [[0, *accumulate(counts)], [0, *accumulate(keys)]]
    query_starts, key_starts = (each.int() for each in upload_all(starts, device))
    widths = [chunk.blocks.shape[0] for chunk in chunks]
    tables = [
        functional.pad(chunk.blocks, (0, max(widths) - width), value=PADDING_BLOCK)
        for chunk, width in zip(chunks, widths, strict=True)
    ]
    return _Chunks(query_starts, key_starts, torch.stack(tables).int(), sum(widths))
