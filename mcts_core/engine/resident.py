"""A model that stays on the device, with its KV pool and the critic heads that read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any, Protocol

import torch

from mcts_core.attention.interface import (
    CHUNK_TOKENS,
    MIN_ROWS,
    VECTOR_ROWS,
    AttentionBatch,
    Chunk,
    Reads,
    Row,
)
from mcts_core.kv.blocks import BlockPool
from mcts_core.kv.branch import Branch, Copies
from mcts_core.kv.storage import KVStorage


class Head(Protocol):
    """Scores states from a model's hidden states."""

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden `[states, hidden]`; returns `[states]`."""


@dataclass(frozen=True, slots=True)
class Rows:
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


class Resident:
    """One model: weights, pool of KV blocks, heads. Used by the engine thread alone."""

    def __init__(
        self,
        model: Any,
        *,
        heads: Mapping[str, Head],
        blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.heads = dict(heads)
        self.pool = BlockPool(blocks, block_size)
        self.storage = KVStorage(blocks, block_size, dtype, device)
        self.reads = Reads()
        """Of all forwards since the start."""
        self._model = model
        self._device = device
        self._language_head = model.get_output_embeddings()
        self._seen: list[torch.Tensor] = []
        if self._language_head is not None:
            self._language_head.register_forward_pre_hook(self._see)

    def whole(self, tokens: int) -> int:
        """How many of a sequence's first tokens fill whole blocks and whole tiles: at these places
        its computation may begin with what others have computed."""
        return tokens - tokens % lcm(self.pool.block_size, CHUNK_TOKENS)

    def resize(self, blocks: int) -> None:
        """A new, empty pool of so many blocks. Raises `ValueError` while one is held."""
        if self.pool.held:
            raise ValueError(f"{self.pool.held} blocks of the pool are held")
        self.pool = BlockPool(blocks, self.pool.block_size)
        self.storage.resize(blocks)

    @property
    def parameters(self) -> int:
        """Of the model, heads aside."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    @property
    def vocabulary(self) -> int:
        """Token ids that the model knows."""
        return int(self._model.config.get_text_config().vocab_size)

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return int(self._model.config.get_text_config().hidden_size)

    @property
    def context_length(self) -> int:
        """Most positions that the model was made for."""
        config = self._model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or 4096)

    @torch.inference_mode()
    def forward(self, sequences: Sequence[Rows], copies: Copies) -> Computed:
        """One forward over the new tokens of all sequences.

        `copies` are the block copies that making room asked for; they come before any write.
        """
        self._seen.clear()  # of a forward that failed
        self.storage.copy(copies)
        batch, inputs, positions, ends = self._lay_out(sequences)
        keep = ends + [0] * (-len(ends) % MIN_ROWS or MIN_ROWS * (not ends))
        kept = torch.tensor(keep, device=self._device)
        if self._language_head is None:
            output = self._model(
                input_ids=inputs, position_ids=positions, use_cache=False, batch=batch
            )
            hidden = output.last_hidden_state[0].index_select(0, kept)
            return Computed(hidden[: len(ends)], None)
        output = self._model(
            input_ids=inputs,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=kept,
            batch=batch,
        )
        hidden = self._seen.pop()[0]
        return Computed(hidden[: len(ends)], output.logits[0, : len(ends)])

    @torch.inference_mode()
    def score(self, critic: str, hidden: Sequence[torch.Tensor]) -> list[float]:
        """The critic's scores of states, from their last tokens' hidden states `[hidden]` each."""
        padding = [hidden[-1]] * (-len(hidden) % VECTOR_ROWS)
        scores = self.heads[critic](torch.stack([*hidden, *padding]))
        return [float(score) for score in scores[: len(hidden)].tolist()]

    def scrub(self, branch: Branch) -> None:
        """Zeroes a branch's own blocks: after a failure they may hold values that are not finite,
        which would reach whoever is given them next, masked or not. Blocks that it shares, and
        those of known prompts, hold what was computed before, and others read them."""
        self.storage.zero(branch.own())

    def _see(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._seen.append(inputs[0])

    def _lay_out(
        self, sequences: Sequence[Rows]
    ) -> tuple[AttentionBatch, torch.Tensor, torch.Tensor, list[int]]:
        """The batch, input ids `[1, tokens]`, positions `[1, tokens]`, and the wanted rows."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        ends: list[int] = []
        rows: list[Row] = []
        chunks: list[Chunk] = []
        size = self.pool.block_size
        for sequence in sequences:
            blocks, start, count = sequence.branch.blocks, sequence.start, len(sequence.tokens)
            first = len(tokens)
            tokens.extend(sequence.tokens)
            positions.extend(range(start, start + count))
            slots.extend(sequence.branch.slots(range(start, start + count)))
            at = start
            tiles = sequence.tiles() if count >= CHUNK_TOKENS else ()
            for tiled, end in (*tiles, (start + count,) * 2):
                rows.extend(
                    Row(first + position - start, blocks, position + 1)
                    for position in range(at, tiled)
                )
                if tiled < end:
                    table = self._tensor(blocks[: -(-end // size)])
                    chunks.append(Chunk(first + tiled - start, end - tiled, table, tiled))
                at = end
            ends.extend(first + end for end in sequence.ends)
        padding = [0] * (-len(tokens) % MIN_ROWS)
        batch = AttentionBatch(
            self.storage, len(tokens), self._tensor(slots), rows, chunks, self.reads
        )
        inputs = self._tensor(tokens + padding)[None]
        return batch, inputs, self._tensor(positions + padding)[None], ends

    def _tensor(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, device=self._device)
