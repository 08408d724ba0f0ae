"""How a step's rows read the KV pool: blocks that several rows share are fetched once.

A row's context is cut at fixed positions, every `SEGMENT_BLOCKS` blocks. A segment that stands in
the block tables of several rows - the prompt under all branches of a tree, a trunk that some of
them share - is one matrix product for all of them. What is behind the last cut is the row's own.

Where a row's context is cut depends on the row's own length alone, and a segment's product gives a
row the same bits however many rows take part in it: that blocks are shared changes what is read,
never a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mcts_core.attention.interface import Row
from mcts_core.kv.blocks import PADDING_BLOCK
from mcts_core.transfer import upload

SEGMENT_BLOCKS = 8
"""Blocks between two cuts: long enough for a good matrix product, and short enough that little of
a shared prompt lies behind the last cut, where each row reads its own."""

TRUNK_SEGMENTS = 2
"""A context is cut once this many segments lie behind its last token. Shorter ones are read row by
row: less than 256 tokens (at 16 a block) cost more to take apart than to read again."""

GROUP_BLOCKS = 4
"""Contexts that are not cut are padded to a multiple of this many blocks."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows with as many segments and as much of their own behind the last cut.

    The width of what a row looks at depends on its own length alone, never on its neighbours': a
    row's result is then the same bits whatever else is in the batch.
    """

    rows: torch.Tensor
    """[rows] int64: indices into the step's tokens."""
    segments: int
    """Segments of each row."""
    entries: torch.Tensor
    """[rows * segments] int64: where each row's segments stand among all `SegmentGroup` rows."""
    blocks: torch.Tensor
    """[rows * own] int64: the rows' own blocks, one row after the other, padded with block 0."""
    mask: torch.Tensor
    """[rows, 1, width] float32, additive, over the segments' tokens and then the own ones."""


@dataclass(frozen=True, slots=True)
class SegmentGroup:
    """Segments that are read by about the same number of rows each."""

    blocks: torch.Tensor
    """[segments * SEGMENT_BLOCKS] int64"""
    count: int
    """Segments."""
    rows: torch.Tensor
    """[segments * rows] int64: indices into the step's tokens; padded with rows whose results
    nobody takes."""


@dataclass(frozen=True, slots=True)
class Plan:
    groups: Sequence[RowGroup]
    segments: Sequence[SegmentGroup]
    read: int
    """Blocks fetched, the padding block aside."""
    attended: int
    """Blocks looked at by the rows, each row counted."""


@dataclass(slots=True)
class Segments:
    """The distinct segments of a step, and the rows that look at each."""

    readers: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    def reader(self, blocks: tuple[int, ...], row: int) -> tuple[tuple[int, ...], int]:
        """Notes that the row looks at the segment; returns the segment and the row's place."""
        rows = self.readers.setdefault(blocks, [])
        rows.append(row)
        return blocks, len(rows) - 1


@dataclass(slots=True)
class _Group:
    """A `RowGroup` while it is being filled."""

    rows: list[int] = field(default_factory=list)
    places: list[tuple[tuple[int, ...], int]] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """Position of the first token that a row's mask speaks of."""
    lengths: list[int] = field(default_factory=list)


def segments_of(length: int, span: int, window: int | None) -> tuple[int, int]:
    """The segments (first, end), of `span` tokens each, that the last of `length` tokens looks at
    as segments; what is behind them it reads by itself."""
    end = (length - 1) // span
    if end < TRUNK_SEGMENTS:
        return 0, 0
    return (0 if window is None else max(0, length - window) // span), end


def make_plan(
    rows: Sequence[Row],
    window: int | None,
    size: int,
    device: torch.device,
    *,
    tile_rows: int,
    trunks: bool = True,
) -> Plan:
    """`size` is the tokens of a block. With a `window`, a row looks at its last `window` tokens
    only, and segments that lie before them are not read. The rows of a segment are padded to
    `tile_rows` times a power of two. Without `trunks` no context is cut: every row reads all of
    its own, shared or not, which is what a benchmark compares with."""
    groups: dict[tuple[int, int], _Group] = {}
    segments = Segments()
    read = attended = 0
    span = SEGMENT_BLOCKS * size
    for row in rows:
        own = (row.length - 1) // size + 1
        first, cut = segments_of(row.length, span, window) if trunks else (0, 0)
        width = SEGMENT_BLOCKS if cut else own + -own % GROUP_BLOCKS
        tail = row.blocks[cut * SEGMENT_BLOCKS : own]
        group = groups.setdefault((cut - first, width), _Group())
        group.rows.append(row.index)
        for index in range(first * SEGMENT_BLOCKS, cut * SEGMENT_BLOCKS, SEGMENT_BLOCKS):
            blocks = tuple(row.blocks[index : index + SEGMENT_BLOCKS])
            group.places.append(segments.reader(blocks, row.index))
        group.blocks.extend(tail)
        group.blocks.extend([PADDING_BLOCK] * (width - len(tail)))
        group.starts.append(first * span)
        group.lengths.append(row.length)
        read += len(tail)
        attended += own - first * SEGMENT_BLOCKS
    laid_out, entry = _lay_out(segments, tile_rows, device)
    return Plan(
        [
            RowGroup(
                rows=upload(group.rows, device),
                segments=count,
                entries=upload([entry[blocks] + place for blocks, place in group.places], device),
                blocks=upload(group.blocks, device),
                mask=_mask(group, (count * SEGMENT_BLOCKS + width) * size, window, device),
            )
            for (count, width), group in groups.items()
        ],
        laid_out,
        read + len(segments.readers) * SEGMENT_BLOCKS,
        attended,
    )


def _lay_out(
    segments: Segments, tile_rows: int, device: torch.device
) -> tuple[list[SegmentGroup], dict[tuple[int, ...], int]]:
    """The segments by the padded number of their rows, and each segment's first entry."""
    by_rows: dict[int, list[tuple[tuple[int, ...], list[int]]]] = {}
    for blocks, rows in segments.readers.items():
        tiles = -(-len(rows) // tile_rows)
        by_rows.setdefault(tile_rows << (tiles - 1).bit_length(), []).append((blocks, rows))
    groups: list[SegmentGroup] = []
    entry: dict[tuple[int, ...], int] = {}
    entries = 0
    for padded, members in by_rows.items():
        tables: list[int] = []
        indices: list[int] = []
        for blocks, rows in members:
            entry[blocks] = entries
            entries += padded
            tables.extend(blocks)
            indices.extend(rows)
            indices.extend(rows[:1] * (padded - len(rows)))
        groups.append(
            SegmentGroup(
                blocks=upload(tables, device),
                count=len(members),
                rows=upload(indices, device),
            )
        )
    return groups, entry


def _mask(group: _Group, width: int, window: int | None, device: torch.device) -> torch.Tensor:
    """A row sees its own first `length` tokens, of these the last `window`."""
    lengths = upload(group.lengths, device)[:, None]
    starts = upload(group.starts, device)[:, None]
    position = starts + torch.arange(width, device=device)
    visible = position < lengths
    if window is not None:
        visible &= position >= lengths - window
    return additive(visible)[:, None, :]


def additive(visible: torch.Tensor) -> torch.Tensor:
    """What to add to the scores: 0 where visible, minus infinity elsewhere; float32."""
    mask = torch.zeros(visible.shape, device=visible.device)
    return mask.masked_fill_(~visible, float("-inf"))
