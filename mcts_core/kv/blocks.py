"""The block pool of one model: which KV blocks are free and how often each held one is shared.

Pure bookkeeping: it knows block numbers and no tensor.
"""

from __future__ import annotations


class KVExhausted(Exception):
    """The pool has no free block."""


PADDING_BLOCK = 0


class BlockPool:
    """Reference counts of `total` blocks of `block_size` tokens each.

    Invariant: `free + held + pinned == total`; a block is free exactly when nobody refers to it.
    Block 0 is pinned from the start: it is never given out and stays zero, and block tables are
    padded with it.
    """

    def __init__(self, total: int, block_size: int = 16) -> None:
        if total < 2 or block_size < 1:
            raise ValueError(
                f"a pool of {total} blocks of {block_size} tokens cannot hold anything"
            )
        self.total = total
        self.block_size = block_size
        self.pinned = 1
        self._references = [1] + [0] * (total - 1)
        self._free = list(range(total - 1, 0, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def held(self) -> int:
        return self.total - len(self._free) - self.pinned

    def allocate(self) -> int:
        """A block with one reference. Raises `KVExhausted`."""
        if not self._free:
            raise KVExhausted(f"all {self.held} blocks are held")
        block = self._free.pop()
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more reference to a held block."""
        if self._references[block] < 1:
            raise ValueError(f"block {block} is free and cannot be shared")
        self._references[block] += 1

    def release(self, block: int) -> bool:
        """One reference less; True when that freed the block."""
        count = self._references[block]
        if count < 1:
            raise ValueError(f"block {block} was released more often than it was held")
        self._references[block] = count - 1
        if count == 1:
            self._free.append(block)
            return True
        return False

    def shared(self, block: int) -> bool:
        """Whether more than one branch refers to the block."""
        return self._references[block] > 1

    def check_integrity(self) -> None:
        """Raises `AssertionError` when the books do not balance."""
        free = set(self._free)
        if len(free) != len(self._free):
            raise AssertionError("a block stands twice in the free list")
        for block, count in enumerate(self._references):
            if count < 0 or (count == 0) != (block in free):
                raise AssertionError(f"block {block} has {count} references, free: {block in free}")
