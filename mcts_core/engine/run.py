"""A run: one sequence being computed in one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from mcts_core.engine.decode import Decode
from mcts_core.engine.kept_logits import KeptLogits
from mcts_core.engine.pending import Pending
from mcts_core.engine.state import NodeState, Seat
from mcts_core.kv.branch import Branch
from mcts_core.models.decoder import Computed
from mcts_core.models.logits import LogitsRow
from mcts_core.search.work import Tally

if TYPE_CHECKING:
    from mcts_core.engine.session import Job


_ONLY = (0,)


@dataclass(slots=True, eq=False)
class Run(Pending):
    """Computes `tokens[branch.length:]`, and goes on drawing tokens if it decodes.

    Settled when all is computed. A run that decodes ends with its newest token computed too
    (`compute_last`), so that the option's state can be scored and continued from.
    """

    job: Job = field(kw_only=True)
    """Who pays."""
    model: str = field(kw_only=True)
    branch: Branch = field(kw_only=True)
    tokens: list[int] = field(kw_only=True)
    tally: Tally = field(kw_only=True)
    origin: NodeState = field(kw_only=True)
    """The state that it computes, or from which it goes on: its ancestry may hold KV."""
    stretches: Sequence[int] = field(kw_only=True)
    """See `Rows.stretches`."""
    charged: int = field(kw_only=True)
    """Its job pays for the tokens from here on."""
    seats: Sequence[Seat] = ()
    """States along the sequence that are to be seated here, shortest first."""
    decode: Decode | None = None
    compute_last: bool = True
    parked: bool = False
    """It gave up its KV because the pool is full; it begins again later."""
    found: bool = False
    """It began with KV that was found by its prompt's beginning."""
    evicted: Sequence[Seat] = ()
    """Seats on the way whose KV or logits are computed again, and given back to them."""
    seat: Seat | None = None
    """Of the state that it has come to by decoding."""
    embedded: int | None = None
    """Length of the sequence up to which the hidden states of drawn tokens are summed; what is
    computed again does not count again. None where no sum is wanted."""
    embedding: torch.Tensor | None = None
    """[hidden], their sum so far, in float32."""
    root: Seat | None = None
    """Of the prompt, if this run computes it."""
    leader: Run | None = None
    """A run that came first and computes a beginning that both prompts have in common: this one
    waits, and goes on from there."""
    awaited: int = 0
    """Tokens that it waits for the leader to make known."""
    known: int = 0
    """Tokens of its prompt that it has made known on its way."""
    family: list[Run] = field(default_factory=list)
    """All runs that came from the same one by splitting, this one included."""

    def split(self, draws: tuple[int, ...]) -> Run:
        """A run of its own for some of the draws, which are about to part from the others."""
        assert self.decode is not None
        other = copy(self)
        other.waiters = list(self.waiters)
        other.branch = self.branch.fork()
        other.tokens = list(self.tokens)
        other.decode = self.decode.split(draws)
        self.tally.cached += self.branch.length
        self.family.append(other)
        return other

    @property
    def rank(self) -> tuple[int, int, int]:
        """Who comes first when room is short: by priority, then the request that came first, then
        its oldest job."""
        session = self.job.session
        return session.priority, session.place, self.job.place

    @property
    def leads(self) -> bool:
        """Whether it is about to make a prompt known that others may begin with."""
        under_way = not (self.settled or self.parked or self.job.session.ended)
        return under_way and self.root is not None and not self.root.settled

    @property
    def prompt_length(self) -> int:
        return self.origin.prompt_length

    def charge(self, end: int) -> None:
        """The tokens before position `end` are there. Each is paid for once, however it was come
        by: a budget must not depend on what other requests have left or taken."""
        new = end - self.charged
        if new > 0:
            job = self.job
            job.cost += new
            job.session.account.spent += new
            self.charged = end

    @property
    def remaining(self) -> int:
        """Tokens that can be computed now."""
        return len(self.tokens) - self.branch.length

    @property
    def draws_next(self) -> bool:
        """Whether, all being computed, its option goes on: nobody else is given the KV before the
        next token is drawn."""
        decode = self.decode
        if decode is None or decode.finish is not None or self.evicted:
            return False
        return len(self.tokens) == self.branch.length

    def wanted(self, start: int, count: int) -> Sequence[int]:
        """Which of the `count` tokens from position `start` must give hidden states and logits:
        those that end a state, and always the last, which shows whether all is finite."""
        if count == 1:
            return _ONLY
        if not (self.seats or self.evicted):
            return [count - 1]
        ends = {
            seat.length - 1 - start
            for seat in (*self.seats, *self.evicted)
            if start < seat.length <= start + count
        }
        return sorted(ends | {count - 1})

    def draw_from(self, computed: Computed, at: int) -> None:
        """The option goes on (`draws_next`) from the row `at` of what a forward gave."""
        assert self.decode is not None
        if self.embedded is not None:
            self._embed(computed.hidden[at])
        self.decode.logits = computed.row(at)

    def computed(
        self, start: int, ends: Sequence[int], computed: Computed, first: int, kept: KeptLogits
    ) -> None:
        """Takes over what the forward gave for the wanted tokens (`ends`, as `wanted` said): theirs
        are the rows from `first` of what was `computed` for the whole batch. The logits of states
        go to `kept`."""
        last = first + len(ends) - 1
        if self.evicted:
            rows = {start + end + 1: computed.row(row) for row, end in enumerate(ends, first)}
            self._restore(rows, kept)
        decode = self.decode
        if decode is None:
            at = {start + end + 1: row for row, end in enumerate(ends, first)}
            for seat in self.seats:
                if start < seat.length <= self.branch.length:
                    row = at[seat.length]
                    seat.occupy(self.branch.fork(seat.length), computed.hidden[row].clone())
                    if not seat.released:
                        kept.keep(seat, computed.row(row))
            if not self.remaining:
                self.branch.release()
                self.settle()
        elif not self.remaining:
            if self.embedded is not None:
                self._embed(computed.hidden[last])
            if decode.finish is None:
                decode.logits = computed.row(last)
            else:
                self.seat = Seat(length=len(self.tokens))
                self.seat.occupy(self.branch, computed.hidden[last].clone())
                kept.keep(self.seat, computed.row(last))
                self.settle()

    def _embed(self, hidden: torch.Tensor) -> None:
        """Adds the newest token's hidden state `[hidden]`, if it was not yet."""
        assert self.embedded is not None
        if self.embedded < len(self.tokens):
            self.embedded = len(self.tokens)
            # One token at a time and in order: the same bits in any batch.
            own = hidden.float()
            self.embedding = own if self.embedding is None else self.embedding + own

    def _restore(self, logits: Mapping[int, LogitsRow | None], kept: KeptLogits) -> None:
        """Gives evicted seats what was computed again; `logits` by their lengths."""
        there = [seat for seat in self.evicted if seat.length <= self.branch.length]
        self.evicted = [seat for seat in self.evicted if seat not in there]
        for seat in there:
            if seat.evicted:
                seat.restore(self.branch.fork(seat.length))
            if seat.branch is not None:
                kept.keep(seat, logits[seat.length])
