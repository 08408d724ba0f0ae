"""The block pool of one model: which KV blocks are free, which hold what nobody needs now but may
need again, and how often each held one is shared.

Pure bookkeeping: it knows block numbers and no tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcts_core.kv.prefix import PrefixIndex


class KVExhausted(Exception):
    """The pool has no block to give."""


PADDING_BLOCK = 0


class BlockPool:
    """Reference counts of `total` blocks of `block_size` tokens each.

    Invariant: `free + held + cached + pinned == total`. Nobody refers to a free block or to a
    cached one; a cached one holds the beginning of a prompt and can be found by its tokens. Block
    0 is pinned from the start: it is never given out, and block tables are padded with it. What it
    holds is finite and means nothing: zeros, or what the padding of captured steps wrote.
    """

    def __init__(self, total: int, block_size: int = 16) -> None:
        if total < 2 or block_size < 1:
            raise ValueError(
                f"a pool of {total} blocks of {block_size} tokens cannot hold anything"
            )
        self.total = total
        self.block_size = block_size
        self.pinned = 1
        self.uses = 0
        """Counts uses of branches: what tells a cold one."""
        self.found_tokens = 0
        """Tokens whose KV was found by its prompt's beginning, in all; counted by who finds it."""
        self._references = [1] + [0] * (total - 1)
        self._free = list(range(total - 1, 0, -1))
        self._prefixes = PrefixIndex()

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def cached(self) -> int:
        return self._prefixes.idle

    @property
    def available(self) -> int:
        """Blocks that can be had: the free ones and, when these are used up, the cached ones."""
        return len(self._free) + self._prefixes.idle

    @property
    def held(self) -> int:
        return self.total - self.available - self.pinned

    def allocate(self) -> int:
        """A block with one reference; the cached one that was not used for longest, when none is
        free. Raises `KVExhausted`."""
        if self._free:
            block = self._free.pop()
        elif self._prefixes.idle:
            block = self._prefixes.evict()
        else:
            raise KVExhausted(f"all {self.held} blocks are held")
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more reference to a held block or a cached one."""
        if self._references[block] < 1:
            if block not in self._prefixes:
                raise ValueError(f"block {block} is free and cannot be shared")
            self._prefixes.take(block)
        self._references[block] += 1

    def release(self, block: int) -> None:
        """One reference less. A sequence's blocks are released from the last to the first."""
        count = self._references[block]
        if count < 1:
            raise ValueError(f"block {block} was released more often than it was held")
        self._references[block] = count - 1
        if count == 1:
            if block in self._prefixes:
                self._prefixes.leave(block)
            else:
                self._free.append(block)

    def references(self, block: int) -> int:
        """How many branches hold it."""
        return self._references[block]

    def shared(self, block: int) -> bool:
        """Whether more than one branch refers to the block."""
        return self._references[block] > 1

    def writable(self, block: int) -> bool:
        """Whether its one owner may write to it: nobody else reads it now, nor finds it later."""
        return self._references[block] == 1 and block not in self._prefixes

    def find(self, salt: str | None, tokens: Sequence[int]) -> list[int]:
        """The blocks that hold the longest known beginning of `tokens`; refers to none of them."""
        return self._prefixes.find(salt, tokens, self.block_size)

    def keep(self, salt: str | None, tokens: Sequence[int], blocks: Sequence[int]) -> None:
        """Makes the full blocks of a prompt known, which are held in `blocks`: they are found by
        whoever gives the same salt, and stay cached when they are released."""
        self._prefixes.insert(salt, tokens, self.block_size, blocks)

    def check_integrity(self) -> None:
        """Raises `AssertionError` when the books do not balance."""
        free = set(self._free)
        if len(free) != len(self._free):
            raise AssertionError("a block stands twice in the free list")
        for block, count in enumerate(self._references):
            unused = block in free or (block in self._prefixes and count == 0)
            if count < 0 or (count == 0) != unused:
                raise AssertionError(f"block {block} has {count} references, free: {block in free}")
            if block in free and block in self._prefixes:
                raise AssertionError(f"block {block} is free and can be found")
        self._prefixes.check_integrity(self._references)
