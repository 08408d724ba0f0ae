"""Training batches that a second process makes while the first one trains."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset

from demo.batches import Batch, Encoder
from demo.train_policy import Plan, Source, batches

_AHEAD = 16


class _Batches(IterableDataset[tuple[Batch, ...]]):
    def __init__(self, source: Source, encoder: Encoder, plan: Plan) -> None:
        self._source, self._encoder, self._plan = source, encoder, plan

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        torch.set_num_threads(1)
        return batches(self._source, self._encoder, self._plan)


def supply(source: Source, encoder: Encoder, plan: Plan) -> Iterator[tuple[Batch, ...]]:
    """What `train_policy.batches` yields, the same batches in the same order; up to 16 steps of
    them are made ahead."""
    made = _Batches(source, encoder, plan)
    return iter(DataLoader(made, batch_size=None, num_workers=1, prefetch_factor=_AHEAD))
