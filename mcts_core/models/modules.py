"""A decoder that runs transformers' own modules, with this engine's attention in them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from mcts_core.attention.interface import MIN_ROWS, AttentionBatch, Chunk, Reads
from mcts_core.kv.storage import KVStorage
from mcts_core.models.decoder import Computed, Rows
from mcts_core.models.graphs import Capture, DecodeGraphs, Outputs
from mcts_core.models.step import Step, lay_out
from mcts_core.transfer import read_back, upload_all


class ModuleDecoder:
    """Implements `Decoder` for every architecture that the gate admits."""

    name = "modules"

    def __init__(self, model: Any, *, trunks: bool = True, capture: Capture | None = None) -> None:
        """`model` was admitted by `models.gate` and stays on its device. Without `trunks` each row
        reads its whole context by itself. With `capture`, steps of single tokens run through
        graphs."""
        self.model = model
        self._trunks = trunks
        self._device = next(model.parameters()).device
        self._language_head = model.get_output_embeddings()
        self._seen: list[torch.Tensor] = []
        self._layers: dict[int | None, int] = {}
        """Attention layers of each window: learnt from the first forward, which the probe makes."""
        self.graphs = None if capture is None else DecodeGraphs(self._run, capture, self._device)
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

    def prepare(self, storage: KVStorage) -> None:
        if self.graphs is not None:
            self.graphs.prepare(storage, self._layers)

    def forward(self, sequences: Sequence[Rows], storage: KVStorage, reads: Reads) -> Computed:
        step = lay_out(sequences, storage.block_size)
        outputs = None
        if self.graphs is not None:
            outputs = self.graphs.run(step, storage, reads, self._layers)
        hidden, logits = outputs or self._run_once(step, storage, reads)
        return Computed(hidden, logits, partial(_finite, hidden))

    def _run_once(self, step: Step, storage: KVStorage, reads: Reads) -> Outputs:
        """The step without a graph."""
        count, wanted = len(step.tokens), len(step.ends)
        padding = [0] * (-count % MIN_ROWS)
        keep = step.ends + [0] * (-wanted % MIN_ROWS or MIN_ROWS * (not wanted))
        ids, positions, slots, kept, *blocks = upload_all(
            [
                step.tokens + padding,
                step.positions + padding,
                step.slots,
                keep,
                *(each.blocks for each in step.slices),
            ],
            self._device,
        )
        chunks = [
            Chunk(each.start, each.count, table, each.context)
            for each, table in zip(step.slices, blocks, strict=True)
        ]
        batch = AttentionBatch(storage, count, slots, step.rows, chunks, reads, self._trunks)
        for window, tables in step.tables.items():
            batch.plans[window] = tables.plan(upload_all(tables.lists(), self._device))
        hidden, logits = self._run(batch, ids[None], positions[None], kept)
        self._layers = batch.layers
        return hidden[:wanted], None if logits is None else logits[:wanted]

    def _run(
        self,
        batch: AttentionBatch,
        ids: torch.Tensor,
        positions: torch.Tensor,
        kept: torch.Tensor,
    ) -> Outputs:
        """See `models.graphs.Compute`."""
        self._seen.clear()  # of a forward that failed
        if self._language_head is None:
            output = self.model(input_ids=ids, position_ids=positions, use_cache=False, batch=batch)
            return output.last_hidden_state[0].index_select(0, kept), None
        output = self.model(
            input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=kept, batch=batch
        )
        return self._seen.pop()[0], output.logits[0]

    def _see(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._seen.append(inputs[0])


def _finite(hidden: torch.Tensor) -> list[bool]:
    return [bool(each) for (each,) in read_back(hidden.isfinite().all(dim=-1)[:, None])]
