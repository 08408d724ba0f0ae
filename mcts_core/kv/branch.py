"""A branch: the KV of one token sequence in one model's pool, as a table of blocks.

Branches share blocks. Forking costs a reference per block; a partly filled block that is shared is
copied only when one of its owners writes to it (copy-on-write).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mcts_core.kv.blocks import BlockPool, KVExhausted


@dataclass(slots=True)
class Ledger:
    """What one request holds in one or more pools, counted as it happens."""

    held: int = 0
    """Blocks that the request's branches hold, each counted once."""
    by_pool: dict[BlockPool, int] = field(default_factory=dict)
    """The same for each pool."""
    references: int = 0
    """Blocks in all its branches' tables: what it would hold if nothing were shared."""
    peak: int = 0
    shared_at_peak: float = 0.0
    """`1 - held / references` when `held` was last at its peak."""
    branches: set[Branch] = field(default_factory=set)
    """All branches that are alive: what `release_all` gives back."""

    def allocated(self, pool: BlockPool) -> None:
        self.held += 1
        self.by_pool[pool] = self.by_pool.get(pool, 0) + 1
        self.references += 1
        if self.held >= self.peak:
            self.peak = self.held
            self.shared_at_peak = 1.0 - self.held / self.references

    def freed(self, pool: BlockPool) -> None:
        self.held -= 1
        self.by_pool[pool] -= 1

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

    __slots__ = ("_ledger", "_pool", "blocks", "length")

    def __init__(self, pool: BlockPool, ledger: Ledger) -> None:
        self._pool = pool
        self._ledger = ledger
        self.blocks: list[int] = []
        self.length = 0
        ledger.branches.add(self)

    def fork(self, length: int | None = None) -> Branch:
        """A second branch over the first `length` tokens (all by default); no KV is copied."""
        length = self.length if length is None else length
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot fork at token {length} of {self.length}")
        branch = Branch(self._pool, self._ledger)
        branch.length = length
        branch.blocks = self.blocks[: -(-length // self._pool.block_size)]
        for block in branch.blocks:
            self._pool.share(block)
        self._ledger.references += len(branch.blocks)
        return branch

    def missing(self, count: int) -> int:
        """Blocks that `grow(count)` would take from the pool."""
        size = self._pool.block_size
        fresh = -(-(self.length + count) // size) - len(self.blocks)
        copied = self.length % size != 0 and count > 0 and self._pool.shared(self.blocks[-1])
        return fresh + copied

    def grow(self, count: int) -> Copies:
        """Makes room for `count` more tokens and counts them in; returns the copies to be made.

        Raises `KVExhausted` and changes nothing when the pool cannot give the blocks.
        """
        if self.missing(count) > self._pool.free:
            raise KVExhausted(f"{self.missing(count)} blocks needed, {self._pool.free} free")
        copies: Copies = []
        size = self._pool.block_size
        if count > 0 and self.length % size != 0 and self._pool.shared(self.blocks[-1]):
            source = self.blocks[-1]
            self._forget(source)
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
        for block in self.blocks[keep:]:
            self._forget(block)
        del self.blocks[keep:]
        self.length = length

    def release(self) -> None:
        """Gives all blocks back; harmless when done twice."""
        self.truncate(0)
        self._ledger.branches.discard(self)

    def own(self) -> list[int]:
        """The blocks that no other branch refers to."""
        return [block for block in self.blocks if not self._pool.shared(block)]

    def slots(self, positions: Iterable[int]) -> list[int]:
        """Where the KV of these positions is stored: `block * block_size + offset`."""
        size, blocks = self._pool.block_size, self.blocks
        return [blocks[position // size] * size + position % size for position in positions]

    def _take(self) -> int:
        block = self._pool.allocate()
        self._ledger.allocated(self._pool)
        return block

    def _forget(self, block: int) -> None:
        self._ledger.references -= 1
        if self._pool.release(block):
            self._ledger.freed(self._pool)
