"""One request inside the engine: its search, what it holds and what it has cost."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcts_core.engine.pending import Pending
from mcts_core.kv.branch import Ledger
from mcts_core.query import Event
from mcts_core.search.search import Search, SearchFailed
from mcts_core.search.work import Account, Outcome, Work

if TYPE_CHECKING:
    from mcts_core.engine.run import Run

Listener = Callable[[Sequence[Event] | SearchFailed], None]
"""Called from the engine thread: with the newest events, the last of them a `Reply`; or once with
the failure."""

Steps = Generator[Sequence[Pending], None, Outcome]
"""A job's work: yields what it waits for, returns the outcome."""


@dataclass(slots=True, eq=False)
class Session:
    """Everything of one request; gone, with all its KV, when its search ends."""

    search: Search
    account: Account
    listener: Listener
    submitted: float
    """When it was handed to the engine (the engine's clock, seconds)."""
    deadline: float | None = None
    """When its search must have ended (the same clock)."""
    begun: float | None = None
    ledger: Ledger = field(default_factory=Ledger)
    events: list[Event] = field(default_factory=list)
    jobs: dict[Job, None] = field(default_factory=dict)
    """Pieces of work under way, oldest first."""
    ended: bool = False

    def emit(self, event: Event) -> None:
        """The listener hears of it at the end of the step."""
        self.events.append(event)


@dataclass(slots=True, eq=False)
class Job:
    """One piece of work being done."""

    session: Session
    work: Work
    cost: int = 0
    """Tokens computed for it by all models."""
    steps: Steps | None = None
    waits: Sequence[Pending] = ()
    """What it waits for now."""
    runs: list[Run] = field(default_factory=list)
    """The runs that draw its options."""
