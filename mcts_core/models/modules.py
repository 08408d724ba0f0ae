"""A decoder that runs transformers' own modules, with this engine's attention in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mcts_core.attention.interface import (
    CHUNK_TOKENS,
    MIN_ROWS,
    AttentionBatch,
    Chunk,
    Reads,
    Row,
)
from mcts_core.kv.storage import KVStorage
from mcts_core.models.decoder import Computed, Rows


class ModuleDecoder:
    """Implements `Decoder` for every architecture that the gate admits."""

    name = "modules"

    def __init__(self, model: Any, *, trunks: bool = True) -> None:
        """`model` was admitted by `models.gate` and stays on its device. Without `trunks` each row
        reads its whole context by itself."""
        self.model = model
        self._trunks = trunks
        self._device = next(model.parameters()).device
        self._language_head = model.get_output_embeddings()
        self._seen: list[torch.Tensor] = []
        if self._language_head is not None:
            self._language_head.register_forward_pre_hook(self._see)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def vocabulary(self) -> int:
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def hidden(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def context_length(self) -> int:
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or 4096)

    def forward(self, sequences: Sequence[Rows], storage: KVStorage, reads: Reads) -> Computed:
        self._seen.clear()  # of a forward that failed
        batch, inputs, positions, ends = self._lay_out(sequences, storage, reads)
        keep = ends + [0] * (-len(ends) % MIN_ROWS or MIN_ROWS * (not ends))
        kept = torch.tensor(keep, device=self._device)
        if self._language_head is None:
            output = self.model(
                input_ids=inputs, position_ids=positions, use_cache=False, batch=batch
            )
            hidden = output.last_hidden_state[0].index_select(0, kept)
            hidden = hidden[: len(ends)]
            return Computed(hidden, None, _finite(hidden))
        output = self.model(
            input_ids=inputs,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=kept,
            batch=batch,
        )
        hidden = self._seen.pop()[0, : len(ends)]
        return Computed(hidden, output.logits[0, : len(ends)], _finite(hidden))

    def _see(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._seen.append(inputs[0])

    def _lay_out(
        self, sequences: Sequence[Rows], storage: KVStorage, reads: Reads
    ) -> tuple[AttentionBatch, torch.Tensor, torch.Tensor, list[int]]:
        """The batch, input ids `[1, tokens]`, positions `[1, tokens]`, and the wanted rows."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        ends: list[int] = []
        rows: list[Row] = []
        chunks: list[Chunk] = []
        size = storage.block_size
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
            storage, len(tokens), self._tensor(slots), rows, chunks, reads, self._trunks
        )
        inputs = self._tensor(tokens + padding)[None]
        return batch, inputs, self._tensor(positions + padding)[None], ends

    def _tensor(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, device=self._device)


def _finite(hidden: torch.Tensor) -> list[bool]:
    found: list[bool] = hidden.isfinite().all(dim=-1).tolist()
    return found
