"""The logits after states, kept for those that are drawn from soonest."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from mcts_core.engine.state import Seat
from mcts_core.kv.sizing import LOGITS_SHARE
from mcts_core.kv.storage import KVStorage
from mcts_core.models.logits import LogitsRow

_LEAST = 64
"""States, however small the pool is: a step computes the logits of as many at once."""


class KeptLogits:
    """Rows `[vocabulary]` of one model, in no more than `LOGITS_SHARE` of its KV's memory,
    or `_LEAST` of them where that is less.

    A row of a large vocabulary takes more than the KV of a whole option, and most states are never
    drawn from. Those that were made or drawn from longest ago lose theirs; their last token is
    computed again when they are (`Seating.attach`), and gives the same bits.
    """

    __slots__ = ("_room", "_seats", "_storage", "_version")

    def __init__(self, storage: KVStorage) -> None:
        self._storage = storage
        self._seats: WeakKeyDictionary[Seat, None] = WeakKeyDictionary()
        """Coldest first; some may have been released since, or evicted."""
        self._room = 0
        self._version: int | None = None
        """Of the storage, when the room was taken from its size."""

    def keep(self, seat: Seat, row: LogitsRow | None) -> None:
        """None in a model without a language head."""
        if row is None:
            return
        seat.logits = logits = row.copy()
        self._warm(seat)
        if self._version != self._storage.version:
            self._version = self._storage.version
            self._room = max(_LEAST, int(self._storage.bytes * LOGITS_SHARE) // logits.nbytes)
        while len(self._seats) > self._room:
            coldest = next(iter(self._seats))
            del self._seats[coldest]
            coldest.logits = None

    def take(self, seat: Seat) -> torch.Tensor | None:
        """What a draw after the state looks at; None if that has to be computed again."""
        if seat.logits is not None:
            self._warm(seat)
        return seat.logits

    def _warm(self, seat: Seat) -> None:
        self._seats.pop(seat, None)
        self._seats[seat] = None
