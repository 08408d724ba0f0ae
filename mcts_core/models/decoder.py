"""What the engine asks of a model: one forward over the new tokens of many sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from mcts_core.attention.interface import CHUNK_TOKENS, Reads
from mcts_core.kv.branch import Branch
from mcts_core.kv.storage import KVStorage
from mcts_core.models.logits import LogitsRow


class Rows(NamedTuple):
    """The next tokens of one sequence; their room in `branch` has been made."""

    branch: Branch
    tokens: Sequence[int]
    start: int
    """Position of the first of them."""
    ends: Sequence[int]
    """Indices into `tokens` of those whose hidden states and logits are wanted."""
    stretches: Sequence[int] | None = None
    """Positions at which stretches of the sequence end, ascending: the whole tiles within a stretch
    attend as chunks, what is beside them and behind the last stretch as single rows. So a token's
    bits depend on its place in the sequence, and not on where a computation began. None: the
    tokens are one stretch."""

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Positions (first, end) of the runs of whole tiles among the tokens."""
        stop = self.start + len(self.tokens)
        begin = 0
        for end in (stop,) if self.stretches is None else self.stretches:
            first = max(begin, self.start)
            first += -first % CHUNK_TOKENS
            last = min(end, stop) // CHUNK_TOKENS * CHUNK_TOKENS
            if first < last:
                yield first, last
            begin = end


@dataclass(frozen=True, slots=True)
class Computed:
    """What a forward gives for the wanted tokens of all sequences, in their order."""

    hidden: torch.Tensor
    """[wanted, hidden], after the model's final norm."""
    logits: torch.Tensor | None
    """[wanted, vocabulary]; None for a model without a language head."""
    finite: Callable[[], Sequence[bool]]
    """Of the wanted, whether all of the hidden state is. To be asked before the next forward, and
    only where it must be known: the host may wait for the device."""

    def row(self, at: int) -> LogitsRow | None:
        """The logits of one of the wanted."""
        return None if self.logits is None else LogitsRow(self.logits, at)


class Decoder(Protocol):
    """A model's weights, and a way to run them over a paged KV cache."""

    @property
    def name(self) -> str:
        """Of the way: `modules`, or that of a compiled kernel."""

    @property
    def parameters(self) -> int:
        """Of the model, critics' heads aside."""

    @property
    def vocabulary(self) -> int:
        """Token ids that the model knows."""

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""

    @property
    def context_length(self) -> int:
        """Most positions that the model was made for."""

    def forward(self, sequences: Sequence[Rows], storage: KVStorage, reads: Reads) -> Computed:
        """Writes the new tokens' KV to `storage`, adds to `reads` what was read there."""

    def prepare(self, storage: KVStorage) -> None:
        """Takes the memory beside KV and a forward's own that later steps keep, if there is any.
        Comes after the first forward, and again when the pool was made anew."""
