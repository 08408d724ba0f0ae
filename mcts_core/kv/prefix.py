"""Which blocks hold the beginnings of prompts, so that a later prompt need not compute them again.

A tree of blocks: a node is one full block of tokens, below the block that comes before it. A node
is found by its tokens, compared one by one behind their hash, and by the salt of whoever put it
there: neither a collision nor another tenant can lead to a wrong block. Every model has a pool and
an index of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Key = tuple[str | None, tuple[int, ...]]
"""The salt, and a block's tokens."""


@dataclass(slots=True, eq=False)
class Prefix:
    """A full block, and the prompts' next blocks below it."""

    key: Key
    block: int
    above: dict[Key, Prefix]
    """Where it stands: among the blocks that go on from its parent."""
    below: dict[Key, Prefix] = field(default_factory=dict)


class PrefixIndex:
    """The blocks of a pool that can be found by their tokens.

    A block that no branch refers to is *idle* until it is found again or evicted. Whoever refers
    to a block refers to all blocks before it and lets go of them from the last to the first; so an
    idle block's successors are idle, too, and for longer: the one that is idle for longest is
    always a leaf.
    """

    def __init__(self) -> None:
        self._tops: dict[Key, Prefix] = {}
        self._known: dict[int, Prefix] = {}
        self._idle: OrderedDict[int, Prefix] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._known

    @property
    def idle(self) -> int:
        """Blocks that nobody refers to."""
        return len(self._idle)

    def find(self, salt: str | None, tokens: Sequence[int], size: int) -> list[int]:
        """The blocks of the longest known beginning of `tokens`, in blocks of `size`."""
        found: list[int] = []
        level = self._tops
        for key in _keys(salt, tokens, size):
            prefix = level.get(key)
            if prefix is None:
                break
            found.append(prefix.block)
            level = prefix.below
        return found

    def insert(
        self, salt: str | None, tokens: Sequence[int], size: int, blocks: Sequence[int]
    ) -> None:
        """Makes the full blocks of `tokens` known, which are held in `blocks`.

        Where another block is known for the same tokens, that one stays, and what is behind it is
        not taken up: it would stand below a block that its holders do not refer to.
        """
        level = self._tops
        for key, block in zip(_keys(salt, tokens, size), blocks, strict=False):
            prefix = level.get(key)
            if prefix is None:
                prefix = level[key] = self._known[block] = Prefix(key, block, level)
            elif prefix.block != block:
                return
            level = prefix.below

    def leave(self, block: int) -> None:
        """Nobody refers to the block any more."""
        self._idle[block] = self._known[block]

    def take(self, block: int) -> None:
        """The block is referred to again. Raises `KeyError` when it was not idle."""
        del self._idle[block]

    def evict(self) -> int:
        """Forgets the block that has been idle for longest. Raises `KeyError` without one."""
        block, prefix = self._idle.popitem(last=False)
        del self._known[block]
        del prefix.above[prefix.key]
        return block

    def check_integrity(self, references: Sequence[int]) -> None:
        """Raises `AssertionError` when the tree and the counts of references contradict."""
        seen: set[int] = set()
        levels = [(self._tops, True)]
        while levels:
            level, referred = levels.pop()
            for prefix in level.values():
                mine = references[prefix.block] > 0
                if mine and not referred:
                    raise AssertionError(f"block {prefix.block} is held, and its parent is not")
                if mine == (prefix.block in self._idle):
                    raise AssertionError(f"block {prefix.block}: held and idle, or neither")
                seen.add(prefix.block)
                levels.append((prefix.below, mine))
        if seen != set(self._known) or not set(self._idle) <= seen:
            raise AssertionError("a block is known that stands nowhere in the tree")


def _keys(salt: str | None, tokens: Sequence[int], size: int) -> Iterator[Key]:
    for start in range(0, len(tokens) - size + 1, size):
        yield salt, tuple(tokens[start : start + size])
