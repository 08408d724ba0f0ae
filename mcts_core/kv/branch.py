"""A branch: the KV of one token sequence in one model's pool, as a table of blocks.

Branches share blocks. Forking costs a reference per block; a partly filled block that is shared, or
that a later prompt may find, is copied only when one of its owners writes to it (copy-on-write).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mcts_core.kv.blocks import BlockPool, KVExhausted


@dataclass(slots=True)
class Ledger:
    """What one request holds in one or more pools, counted as it happens."""

    held: int = 0
    """Blocks that the request's branches hold, each counted once."""
    references: int = 0
    """Blocks in all its branches' tables: what it would hold if nothing were shared."""
    peak: int = 0
    shared_at_peak: float = 0.0
    """`1 - held / references` when `held` was last at its peak."""
    branches: set[Branch] = field(default_factory=set)
    """All branches that are alive: what `release_all` gives back."""
    _counts: dict[BlockPool, dict[int, int]] = field(default_factory=dict)
    """References of the request's own to each block; others may refer to it as well."""

    def refer(self, pool: BlockPool, blocks: Sequence[int]) -> None:
        """One more of the request's branches has the blocks in its table."""
        counts = self._counts.setdefault(pool, {})
        before = len(counts)
        for block in blocks:
            counts[block] = counts.get(block, 0) + 1
        self.references += len(blocks)
        if len(counts) > before:
            self.held += len(counts) - before
            if self.held >= self.peak:
                self.peak = self.held
                self.shared_at_peak = 1.0 - self.held / self.references

    def forget(self, pool: BlockPool, blocks: Sequence[int]) -> None:
        """One of the request's branches less has the blocks."""
        counts = self._counts[pool]
        before = len(counts)
        for block in blocks:
            if counts[block] == 1:
                del counts[block]
            else:
                counts[block] -= 1
        self.references -= len(blocks)
        self.held -= before - len(counts)

    def release_all(self) -> None:
        """Gives back every block that the request holds, on whatever path it ended."""
        for branch in tuple(self.branches):
            branch.release()


Copies = list[tuple[int, int]]
"""(source block, destination block): contents to copy before the next write."""


class Branch:
    """`length` tokens of KV in `blocks`; position p lives in block `p // size`, offset `p % size`.

    Used by one thread. A released branch is empty and may not be used again.
    """

    __slots__ = ("_ledger", "_pool", "blocks", "give_up", "length", "used")

    def __init__(self, pool: BlockPool, ledger: Ledger) -> None:
        self._pool = pool
        self._ledger = ledger
        self.blocks: list[int] = []
        self.length = 0
        self.used = 0
        """When it was last forked, as the pool counts uses."""
        self.give_up: Callable[[], None] | None = None
        """Set by an owner who can do without the branch and compute it again: releases it."""
        ledger.branches.add(self)

    def fork(self, length: int | None = None) -> Branch:
        """A second branch over the first `length` tokens (all by default); no KV is copied."""
        length = self.length if length is None else length
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot fork at token {length} of {self.length}")
        branch = Branch(self._pool, self._ledger)
        branch._hold(self.blocks[: -(-length // self._pool.block_size)], length)
        self._pool.uses += 1
        self.used = branch.used = self._pool.uses
        return branch

    def adopt(self, blocks: Sequence[int]) -> None:
        """Begins an empty branch with full blocks that hold the beginning of its tokens."""
        if self.blocks:
            raise ValueError("the branch has blocks of its own already")
        self._hold(list(blocks), len(blocks) * self._pool.block_size)

    @property
    def pool(self) -> BlockPool:
        return self._pool

    def missing(self, count: int) -> int:
        """Blocks that `grow(count)` would take from the pool."""
        size = self._pool.block_size
        fresh = -(-(self.length + count) // size) - len(self.blocks)
        copied = self.length % size != 0 and count > 0 and not self._writable()
        return fresh + copied

    def grow(self, count: int) -> Copies:
        """Makes room for `count` more tokens and counts them in; returns the copies to be made.

        Raises `KVExhausted` and changes nothing when the pool cannot give the blocks.
        """
        size, blocks = self._pool.block_size, self.blocks
        room = len(blocks) * size - self.length
        if 0 < count <= room < size and self._pool.writable(blocks[-1]):  # within its own last
            self.length += count
            return []
        missing = self.missing(count)
        if missing > self._pool.available:
            raise KVExhausted(f"{missing} blocks needed, {self._pool.available} to be had")
        copies: Copies = []
        if count > 0 and self.length % size != 0 and not self._writable():
            source = self.blocks[-1]
            self._forget([source])
            self.blocks[-1] = self._take()
            copies.append((source, self.blocks[-1]))
        self.length += count
        while len(self.blocks) * size < self.length:
            self.blocks.append(self._take())
        return copies

    def truncate(self, length: int) -> None:
        """Keeps the first `length` tokens and gives the blocks behind them back."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} tokens to {length}")
        keep = -(-length // self._pool.block_size)
        if len(self.blocks) > keep:
            self._forget(self.blocks[keep:])
            del self.blocks[keep:]
        self.length = length

    def release(self) -> None:
        """Gives all blocks back; harmless when done twice."""
        self.truncate(0)
        self._ledger.branches.discard(self)
        self.give_up = None

    def own(self) -> list[int]:
        """The blocks that no other branch refers to and nobody finds later."""
        return [block for block in self.blocks if self._pool.writable(block)]

    def frees(self) -> bool:
        """Whether its release gives the pool a block to hand out."""
        return any(not self._pool.shared(block) for block in self.blocks)

    def slots(self, positions: Iterable[int]) -> list[int]:
        """Where the KV of these positions is stored: `block * block_size + offset`."""
        size, blocks = self._pool.block_size, self.blocks
        return [blocks[position // size] * size + position % size for position in positions]

    def _writable(self) -> bool:
        return self._pool.writable(self.blocks[-1])

    def _hold(self, blocks: list[int], length: int) -> None:
        self.blocks, self.length = blocks, length
        for block in blocks:
            self._pool.share(block)
        self._ledger.refer(self._pool, blocks)

    def _take(self) -> int:
        block = self._pool.allocate()
        self._ledger.refer(self._pool, [block])
        return block

    def _forget(self, blocks: list[int]) -> None:
        for block in reversed(blocks):
            self._pool.release(block)
        self._ledger.forget(self._pool, blocks)
