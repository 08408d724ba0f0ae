"""A model that stays on the device, with its KV pool and the critic heads that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm
from typing import Protocol

import torch

from mcts_core.attention.interface import CHUNK_TOKENS, VECTOR_ROWS, Reads
from mcts_core.engine.kept_logits import KeptLogits
from mcts_core.kv.blocks import BlockPool
from mcts_core.kv.branch import Branch, Copies
from mcts_core.kv.storage import KVStorage
from mcts_core.models.decoder import Computed, Decoder, Rows


class DeviceLost(Exception):
    """The device does not even write zeros any more, as after an error of CUDA that stays."""


class Head(Protocol):
    """Scores states from a model's hidden states."""

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden `[states, hidden]`; returns `[states]`."""


class Resident:
    """One model: weights, pool of KV blocks, heads. Used by the engine thread alone."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        heads: Mapping[str, Head],
        blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.decoder = decoder
        self.heads = dict(heads)
        self.pool = BlockPool(blocks, block_size)
        self.storage = KVStorage(blocks, block_size, dtype, device)
        self.logits = KeptLogits(self.storage)
        """Of its states."""
        self.reads = Reads()
        """Of all forwards since the start."""

    def whole(self, tokens: int) -> int:
        """How many of a sequence's first tokens fill whole blocks and whole tiles: at these places
        its computation may begin with what others have computed."""
        return tokens - tokens % lcm(self.pool.block_size, CHUNK_TOKENS)

    @staticmethod
    def before_last(tokens: int) -> int:
        """How many of a sequence's tokens must be there for its last one to be computed again with
        the same bits: all before it, or before its tile if it is the last of one."""
        return tokens - (1 if tokens % CHUNK_TOKENS else CHUNK_TOKENS)

    def resize(self, blocks: int) -> None:
        """A new, empty pool of so many blocks. Raises `ValueError` while one is held."""
        if self.pool.held:
            raise ValueError(f"{self.pool.held} blocks of the pool are held")
        self.pool = BlockPool(blocks, self.pool.block_size)
        self.storage.resize(blocks)

    @torch.inference_mode()
    def prepare(self) -> None:
        """See `Decoder.prepare`."""
        self.decoder.prepare(self.storage)

    @torch.inference_mode()
    def forward(self, sequences: Sequence[Rows], copies: Copies) -> Computed:
        """One forward over the new tokens of all sequences.

        `copies` are the block copies that making room asked for; they come before any write.
        """
        self.storage.copy(copies)
        return self.decoder.forward(sequences, self.storage, self.reads)

    @torch.inference_mode()
    def score(self, critic: str, hidden: Sequence[torch.Tensor]) -> torch.Tensor:
        """The critic's scores `[states]` float32, on the device, from the states' last tokens'
        hidden states `[hidden]` each."""
        padding = [hidden[-1]] * (-len(hidden) % VECTOR_ROWS)
        scores = self.heads[critic](torch.stack([*hidden, *padding]))
        return scores[: len(hidden)].float().reshape(len(hidden))

    def scrub(self, branch: Branch) -> None:
        """Zeroes a branch's own blocks: after a failure they may hold values that are not finite,
        which would reach whoever is given them next, masked or not. Blocks that it shares, and
        those of known prompts, hold what was computed before, and others read them.

        Raises `DeviceLost`."""
        try:
            self.storage.zero(branch.own())
        except Exception as error:
            raise DeviceLost(str(error)) from error
