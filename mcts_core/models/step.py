"""What a forward computes, as plain numbers: before anything of it is on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mcts_core.attention.interface import CHUNK_TOKENS, Row, Tables
from mcts_core.models.decoder import Rows


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive tokens of one sequence in whole tiles; see `attention.interface.Chunk`."""

    start: int
    count: int
    blocks: Sequence[int]
    context: int


@dataclass(frozen=True, slots=True)
class Step:
    """The tokens of all sequences, one sequence after the other."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """Indices of the tokens whose hidden states and logits are wanted."""
    rows: list[Row] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    tables: dict[int | None, Tables] = field(default_factory=dict)
    """Of the rows, by window; see `attention.interface.Tables`. Those that were asked for."""


def lay_out(sequences: Sequence[Rows], size: int) -> Step:
    """`size` is the tokens of a block."""
    step = Step()
    for sequence in sequences:
        blocks, start, count = sequence.branch.blocks, sequence.start, len(sequence.tokens)
        first = len(step.tokens)
        step.tokens.extend(sequence.tokens)
        step.positions.extend(range(start, start + count))
        step.slots.extend(sequence.branch.slots(range(start, start + count)))
        at = start
        tiles = sequence.tiles() if count >= CHUNK_TOKENS else ()
        for tiled, end in (*tiles, (start + count,) * 2):
            step.rows.extend(
                Row(first + position - start, blocks, position + 1) for position in range(at, tiled)
            )
            if tiled < end:
                table = blocks[: -(-end // size)]
                step.slices.append(Slice(first + tiled - start, end - tiled, table, tiled))
            at = end
        step.ends.extend(first + end for end in sequence.ends)
    return step
