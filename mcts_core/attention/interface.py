"""What a model's attention layers see of a step: which rows read which KV blocks.

transformers' model classes hand our attention function the queries, keys and values of the new
tokens only; the batch says where their KV is stored and what each row may look at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import torch

from mcts_core.kv.storage import KVStorage
from mcts_core.transfer import upload_all


class AttentionRefused(ValueError):
    """The backend cannot work here; the message says why and what to use instead."""


@dataclass(frozen=True, slots=True)
class Row:
    """A single token, and what it may look at."""

    index: int
    """Among the step's tokens."""
    blocks: Sequence[int]
    """The block table of its sequence, as far as its own block at least."""
    length: int
    """Tokens that it may look at, itself included."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence, in whole tiles of `CHUNK_TOKENS`: part of a long prompt.

    A tile begins at a multiple of its size. Its result is the same bits whichever other tiles are
    computed in the same chunk.
    """

    start: int
    """Index of its first token among the step's tokens."""
    count: int
    blocks: torch.Tensor
    """[blocks] int64: those of the context and of the chunk."""
    context: int
    """Tokens of the sequence before this chunk."""


@dataclass(slots=True)
class Reads:
    """KV blocks, counted once for each layer that reads them."""

    read: int = 0
    """Blocks that were fetched from the pool."""
    attended: int = 0
    """Blocks that rows and chunks looked at: what would be fetched if nothing were shared."""


class Plan(Protocol):
    """A backend's own layout of a step's rows, for the layers of one window."""

    @property
    def read(self) -> int:
        """KV blocks that a layer fetches for it."""

    @property
    def attended(self) -> int:
        """KV blocks that a layer's rows look at."""


Planned = TypeVar("Planned", bound=Plan)


class Tables(Protocol):
    """A step's rows as a backend's kernels read them: tables of whole numbers, still on the host.

    Their sizes follow from the number of rows and of `units`, and can be made larger, so that many
    steps have tables of the same sizes.
    """

    @property
    def read(self) -> int:
        """See `Plan`."""

    @property
    def attended(self) -> int:
        """See `Plan`."""

    @property
    def units(self) -> int:
        """Of what decides the sizes beside the rows."""

    def lists(self) -> Sequence[Sequence[int]]:
        """The tables, always in the same order."""

    def padded(self, rows: int, units: int) -> Tables:
        """The tables of a step whose tokens are its rows, for so many rows and units. The rows
        added look at the first token of the padding block and at nothing else; the units added do
        nothing."""

    def plan(self, tables: Sequence[torch.Tensor]) -> Plan:
        """What the layers take, from the `lists` on the device."""


Tabulate = Callable[[Sequence[Row], int | None, int], Tables]
"""Makes the tables of a step's rows for the layers of a window (None: they see all), with blocks of
so many tokens."""


@dataclass(slots=True)
class AttentionBatch:
    """One forward's worth of work for one model; passed through the model to each layer."""

    storage: KVStorage
    tokens: int
    """Real tokens; rows behind them are padding, which reads and writes nothing."""
    slots: torch.Tensor
    """[tokens] int64: where each token's KV is stored."""
    rows: Sequence[Row]
    chunks: Sequence[Chunk]
    reads: Reads = field(default_factory=Reads)
    """What the layers read is added here."""
    trunks: bool = True
    """Whether blocks that several rows share are read once for all of them."""
    plans: dict[int | None, Plan] = field(default_factory=dict)
    """By window; those that are not there are made when a layer first asks."""
    layers: dict[int | None, int] = field(default_factory=dict)
    """How many layers of each window have asked."""

    def plan(self, window: int | None, make: Callable[[], Planned]) -> Planned:
        """The backend's own layout of the rows, made once a step for all layers of a window; what a
        layer reads by it is counted."""
        plan = self.plans.get(window)
        if plan is None:
            plan = self.plans[window] = make()
        self.layers[window] = self.layers.get(window, 0) + 1
        self.reads.read += plan.read
        self.reads.attended += plan.attended
        return cast(Planned, plan)

    def tabulated(self, window: int | None, tabulate: Tabulate) -> Plan:
        """The plan of a backend that makes `Tables`."""

        def make() -> Plan:
            tables = tabulate(self.rows, window, self.storage.block_size)
            return tables.plan(upload_all(tables.lists(), self.slots.device))

        return self.plan(window, make)


class Attention(Protocol):
    """An attention backend, in the shape that `transformers.AttentionInterface` calls."""

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
        """query `[1, heads, tokens, dim]`; key, value `[1, kv_heads, tokens, dim]`: the new tokens
        only, positions applied. Returns `([1, tokens, heads, value_dim], None)`."""


MIN_ROWS = 16
"""Matrix products over fewer rows take other kernels on CPU and round differently; a step is
padded to a multiple of this, so that a row's result does not depend on how many others there are.
"""

VECTOR_ROWS = 32
"""Exponentials and logarithms of a vector are computed in runs of this many values, and one by one,
rounding differently, in what is left; vectors with a value a row are padded to a multiple of it."""

CHUNK_TOKENS = 16
"""Tokens of a tile: prompts attend in tiles that begin at multiples of it, what is left over as
single rows."""
