"""Trees of branches in a pool of random KV, and attention over their next tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mcts_core.attention.interface import Attention, AttentionBatch, Chunk, Reads, Row
from mcts_core.kv.blocks import BlockPool
from mcts_core.kv.branch import Branch, Ledger
from mcts_core.kv.storage import KVStorage


@dataclass(frozen=True, slots=True)
class Shape:
    """What an attention layer looks like."""

    heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    value_dim: int = 16
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    scaling: float | None = None


SHAPES = {
    "grouped": Shape(),
    "one-to-one": Shape(heads=3, kv_heads=3),
    "one-kv-head": Shape(heads=6, kv_heads=1, dim=8, value_dim=8),
    "seven-to-one": Shape(heads=14, kv_heads=2, dim=64, value_dim=64),
    "window-in-the-tail": Shape(window=7),
    "window-in-the-trunk": Shape(window=75),
    "softcap": Shape(softcap=2.0, scaling=0.5),
    "sinks": Shape(sinks=True),
    "sinks-and-window": Shape(sinks=True, window=50),
    "narrow-values": Shape(heads=4, kv_heads=4, dim=24, value_dim=16),
    "head-of-80": Shape(dim=80, value_dim=80),
}


class Layer(torch.nn.Module):
    """The one thing that a backend asks a module for."""

    layer_idx = 0


class Forest:
    """A pool, its storage full of random values, and the branches of several requests."""

    def __init__(
        self,
        shape: Shape,
        *,
        block_size: int = 4,
        blocks: int = 1500,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._device, self._dtype = device, dtype
        self.shape = shape
        self.pool = BlockPool(blocks, block_size)
        self.storage = KVStorage(blocks, block_size, dtype, device)
        self._generator = torch.Generator().manual_seed(3)
        slots = torch.arange(block_size, blocks * block_size, device=device)
        keys = self._random(shape.kv_heads, len(slots), shape.dim)
        values = self._random(shape.kv_heads, len(slots), shape.value_dim)
        self._keys, self._values = (
            blocks.flatten(1, 2) for blocks in self.storage.write(0, keys, values, slots)
        )
        self.sinks = self._random(shape.heads) if shape.sinks else None

    def tree(self, prompt: int, suffixes: Sequence[int]) -> list[Branch]:
        """Branches over one prompt, each with so many tokens of its own."""
        root = Branch(self.pool, Ledger())
        self._grow(root, prompt)
        branches = [root.fork() for _ in suffixes]
        for branch, count in zip(branches, suffixes, strict=True):
            self._grow(branch, count)
        return branches

    def thicket(self, rng: random.Random) -> list[Branch]:
        """Forks of forks at any token, some cut back and grown again, of two requests."""
        branches = self.tree(rng.randrange(1, 200), [0]) + self.tree(rng.randrange(60, 200), [0])
        for _ in range(20):
            origin = rng.choice(branches)
            twig = origin.fork(rng.randrange(1, origin.length + 1))
            self._grow(twig, rng.randrange(0, 40))
            branches.append(twig)
        return branches

    def _grow(self, branch: Branch, count: int) -> None:
        self.storage.copy(branch.grow(count))

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device, self._dtype)

    def next_tokens(self, branches: Sequence[Branch], *, chunk: int = 0) -> Step:
        """The last token of each branch is the step's; after them, `chunk` last tokens of the
        first branch once more, as a slice of a prompt."""
        rows = [Row(n, branch.blocks, branch.length) for n, branch in enumerate(branches)]
        slots = [slot for each in branches for slot in each.slots([each.length - 1])]
        chunks = []
        if chunk:
            first = branches[0]
            context = first.length - chunk
            chunks = [
                Chunk(len(rows), chunk, torch.tensor(first.blocks, device=self._device), context)
            ]
            slots += first.slots(range(context, first.length))
        shape = self.shape
        padded = len(slots) + -len(slots) % 16
        query = self._random(1, shape.heads, padded, shape.dim)
        stored = torch.tensor(slots + [0] * (padded - len(slots)), device=self._device)
        # What is stored already is written again: whichever row comes first changes nothing.
        key, value = self._keys[None, :, stored], self._values[None, :, stored]
        return Step(self, query, key, value, stored[: len(slots)], rows, chunks)


@dataclass(frozen=True, slots=True)
class Step:
    """One layer's work."""

    forest: Forest
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    slots: torch.Tensor
    rows: list[Row]
    chunks: list[Chunk]

    def only(self, picked: Sequence[int]) -> Step:
        """The same rows, as if the others were not there."""
        columns = torch.tensor([*picked, *[0] * (-len(picked) % 16)], device=self.slots.device)
        rows = [
            Row(n, self.rows[index].blocks, self.rows[index].length)
            for n, index in enumerate(picked)
        ]
        query, key, value = (tensor[:, :, columns] for tensor in (self.query, self.key, self.value))
        slots = self.slots[columns[: len(picked)]]
        return Step(self.forest, query, key, value, slots, rows, [])

    def beside(self, other: Step) -> Step:
        """Both steps as one, of the same forest."""
        mine, theirs = len(self.slots), len(other.slots)
        query, key, value = (
            torch.cat([one[:, :, :mine], two[:, :, :theirs]], dim=2)
            for one, two in (
                (self.query, other.query),
                (self.key, other.key),
                (self.value, other.value),
            )
        )
        rows = [Row(mine + row.index, row.blocks, row.length) for row in other.rows]
        chunks = [replace(chunk, start=mine + chunk.start) for chunk in other.chunks]
        slots = torch.cat([self.slots, other.slots])
        return Step(
            self.forest, query, key, value, slots, [*self.rows, *rows], [*self.chunks, *chunks]
        )

    def attend(self, backend: Attention, reads: Reads | None = None) -> torch.Tensor:
        """`[tokens, heads, value_dim]`"""
        shape = self.forest.shape
        batch = AttentionBatch(
            self.forest.storage,
            len(self.slots),
            self.slots,
            self.rows,
            self.chunks,
            reads or Reads(),
        )
        out, _ = backend(
            Layer(),
            self.query,
            self.key,
            self.value,
            None,
            scaling=shape.scaling,
            sliding_window=shape.window,
            softcap=shape.softcap,
            s_aux=self.forest.sinks,
            batch=batch,
        )
        assert out.shape == (1, self.query.shape[2], shape.heads, shape.value_dim)
        return out[0, : len(self.slots)]
