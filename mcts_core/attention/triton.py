"""Paged attention with Triton kernels, for NVIDIA GPUs: segments that rows share, then each row.

Context is cut as on CPU (`attention.plan`). A segment's tile takes eight rows with their grouped
heads, so that a tree of eight branches fetches the trunk once; the tiles of wider trees run side by
side and find it in the cache. Prompts' chunks go through torch's fused attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import triton

from mcts_core.attention.cpu import attend_chunk
from mcts_core.attention.interface import AttentionBatch, Row
from mcts_core.attention.plan import SEGMENT_BLOCKS, TRUNK_SEGMENTS, Segments, segments_of
from mcts_core.attention.triton_kernels import attend_rows, attend_segments
from mcts_core.kv.blocks import PADDING_BLOCK

TILE_ROWS = 8
"""Rows that a segment is read for at once."""

_LEAST_DOT = 16
"""Rows and columns of the smallest matrix product that Triton makes."""
_KEYS_AT_ONCE = 32


_OWN_BLOCKS = TRUNK_SEGMENTS * SEGMENT_BLOCKS
"""Most blocks behind a row's last cut, and of a context that is not cut."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """The kernels' tables of one window; all int64. See the kernels for what each holds."""

    read: int
    attended: int
    tile_rows: torch.Tensor
    tile_lengths: torch.Tensor
    tile_tables: torch.Tensor
    tile_starts: torch.Tensor
    rows: torch.Tensor
    lengths: torch.Tensor
    tables: torch.Tensor
    table_starts: torch.Tensor
    starts: torch.Tensor
    entries: torch.Tensor
    entry_starts: torch.Tensor


@dataclass(frozen=True, slots=True)
class TritonTables:
    """Implements `attention.interface.Tables`: the layout's tables, and a tile is a unit."""

    tile_rows: list[int]
    tile_lengths: list[int]
    tile_tables: list[int]
    tile_starts: list[int]
    rows: list[int]
    lengths: list[int]
    tables: list[int]
    table_starts: list[int]
    starts: list[int]
    entries: list[int]
    entry_starts: list[int]
    read: int
    attended: int

    @property
    def units(self) -> int:
        return len(self.tile_starts)

    def lists(self) -> Sequence[list[int]]:
        return (
            self.tile_rows,
            self.tile_lengths,
            self.tile_tables,
            self.tile_starts,
            self.rows,
            self.lengths,
            self.tables,
            self.table_starts,
            self.starts,
            self.entries,
            self.entry_starts,
        )

    def padded(self, rows: int, units: int) -> TritonTables:
        """A row has an entry in some tile for each of its segments, and `_OWN_BLOCKS` at most."""
        more, entries = rows - len(self.rows), units * TILE_ROWS
        return TritonTables(
            tile_rows=_filled(self.tile_rows, entries, -1),
            tile_lengths=_filled(self.tile_lengths, entries, 0),
            tile_tables=_filled(self.tile_tables, units * SEGMENT_BLOCKS, PADDING_BLOCK),
            tile_starts=_filled(self.tile_starts, units, 0),
            rows=[*self.rows, *range(len(self.rows), rows)],
            lengths=_filled(self.lengths, rows, 1),
            tables=_filled(self.tables, rows * _OWN_BLOCKS, PADDING_BLOCK),
            table_starts=[*self.table_starts, *[len(self.tables)] * more],
            starts=_filled(self.starts, rows, 0),
            entries=_filled(self.entries, entries, 0),
            entry_starts=_filled(self.entry_starts, rows + 1, len(self.entries)),
            read=self.read,
            attended=self.attended,
        )

    def plan(self, tables: Sequence[torch.Tensor]) -> _Layout:
        return _Layout(self.read, self.attended, *tables)


def _filled(table: list[int], length: int, padding: int) -> list[int]:
    return table + [padding] * (length - len(table))


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
    heads, dim, value_dim = query.shape[1], query.shape[-1], value.shape[-1]
    keys, values = batch.storage.write(
        int(module.layer_idx),  # type: ignore[arg-type]
        key[0, :, :count],
        value[0, :, :count],
        batch.slots,
    )
    scale = dim**-0.5 if scaling is None else scaling
    layout = cast(_Layout, batch.tabulated(sliding_window, tabulate))
    out = query.new_zeros((1, padded, heads, value_dim))
    if layout.rows.shape[0]:
        _attend_rows(query[0], keys, values, layout, out, s_aux, scale, softcap, sliding_window)
    grouped = heads // kv_heads
    sinks = None if s_aux is None else s_aux.view(kv_heads, 1, grouped, 1)
    for chunk in batch.chunks:
        batch.reads.read += chunk.blocks.shape[0]
        batch.reads.attended += chunk.blocks.shape[0]
        tokens = slice(chunk.start, chunk.start + chunk.count)
        scaled = (query[0, :, tokens] * scale).view(kv_heads, grouped, chunk.count, dim)
        attended = attend_chunk(
            scaled.transpose(1, 2), chunk, keys, values, sliding_window, softcap, sinks
        )
        out[0, tokens] = attended.transpose(0, 1).reshape(chunk.count, heads, value_dim)
    return out, None


def _attend_rows(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: _Layout,
    out: torch.Tensor,
    sinks: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> None:
    """query `[heads, tokens, dim]`; keys, values as blocks; fills the layout's rows of out
    `[1, tokens, heads, value_dim]`."""
    heads, _, dim = query.shape
    kv_heads, blocks, size, value_dim = values.shape
    grouped = heads // kv_heads
    if query.stride(-1) != 1:
        query = query.contiguous()
    tiles = layout.tile_starts.shape[0]
    entries = max(1, tiles * TILE_ROWS)
    parts = torch.empty((entries, heads, value_dim), dtype=torch.float32, device=query.device)
    lse = torch.empty((entries, heads), dtype=torch.float32, device=query.device)
    run = (scale, query.stride(0), query.stride(1), blocks * size)
    shape: dict[str, Any] = {
        "softcap": softcap or 0.0,
        "window": window or 0,
        "size": size,
        "grouped": grouped,
        "dim": dim,
        "value_dim": value_dim,
        "block_n": _KEYS_AT_ONCE,
        "block_d": _whole(dim),
        "block_v": _whole(value_dim),
    }
    if tiles:
        attend_segments[(tiles, kv_heads)](
            query,
            keys,
            values,
            layout.tile_rows,
            layout.tile_lengths,
            layout.tile_tables,
            layout.tile_starts,
            parts,
            lse,
            *run,
            **shape,
            segment_blocks=SEGMENT_BLOCKS,
            tile_rows=TILE_ROWS,
            block_m=_whole(TILE_ROWS * grouped),
        )
    attend_rows[(layout.rows.shape[0], kv_heads)](
        query,
        keys,
        values,
        layout.rows,
        layout.lengths,
        layout.tables,
        layout.table_starts,
        layout.starts,
        layout.entries,
        layout.entry_starts,
        parts,
        lse,
        lse if sinks is None else sinks,
        out,
        *run,
        **shape,
        has_sinks=sinks is not None,
        block_m=_whole(grouped),
    )


def _whole(count: int) -> int:
    """The next power of two that a matrix product can have."""
    return max(_LEAST_DOT, int(triton.next_power_of_2(count)))


def tabulate(rows: Sequence[Row], window: int | None, size: int) -> TritonTables:
    """See `attention.interface.Tabulate`."""
    span = SEGMENT_BLOCKS * size
    segments = Segments()
    starts_of: dict[tuple[int, ...], int] = {}
    places: list[tuple[tuple[int, ...], int]] = []
    tables: list[int] = []
    table_starts: list[int] = []
    starts: list[int] = []
    entry_starts = [0]
    attended = 0
    for number, row in enumerate(rows):
        own = (row.length - 1) // size + 1
        first, cut = segments_of(row.length, span, window)
        for segment in range(first, cut):
            at = segment * SEGMENT_BLOCKS
            blocks = tuple(row.blocks[at : at + SEGMENT_BLOCKS])
            starts_of[blocks] = segment * span
            places.append(segments.reader(blocks, number))
        entry_starts.append(len(places))
        table_starts.append(len(tables))
        starts.append(cut * span)
        tables.extend(row.blocks[cut * SEGMENT_BLOCKS : own])
        attended += own - first * SEGMENT_BLOCKS
    entry: dict[tuple[int, ...], int] = {}
    readers: list[int] = []
    tile_tables: list[int] = []
    tile_starts: list[int] = []
    for blocks, mine in segments.readers.items():
        entry[blocks] = len(readers)
        readers.extend(mine)
        readers.extend([-1] * (-len(mine) % TILE_ROWS))
        for _ in range(0, len(mine), TILE_ROWS):
            tile_tables.extend(blocks)
            tile_starts.append(starts_of[blocks])
    return TritonTables(
        tile_rows=[-1 if number < 0 else rows[number].index for number in readers],
        tile_lengths=[0 if number < 0 else rows[number].length for number in readers],
        tile_tables=tile_tables,
        tile_starts=tile_starts,
        rows=[row.index for row in rows],
        lengths=[row.length for row in rows],
        tables=tables,
        table_starts=table_starts,
        starts=starts,
        entries=[entry[blocks] + place for blocks, place in places],
        entry_starts=entry_starts,
        read=len(tables) + len(segments.readers) * SEGMENT_BLOCKS,
        attended=attended,
    )
