"""One request inside the engine: its search, what it holds and what it has cost."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING
from weakref import WeakSet

from mcts_core.engine.pending import Pending
from mcts_core.engine.state import NodeState
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
    priority: int = 0
    """Requests of a lower number are computed first, and keep their KV longest."""
    cache_salt: str | None = None
    """Only prompts with the same salt share their KV with this one."""
    place: int = 0
    """In the order in which the engine began its requests."""
    ledger: Ledger = field(default_factory=Ledger)
    states: WeakSet[NodeState] = field(default_factory=WeakSet)
    """Those that its search may still use."""
    events: list[Event] = field(default_factory=list)
    progress_due: float = inf
    """From when on progress may be told (the engine's clock); infinity: nobody asked."""
    simulations_told: int = 0
    jobs: dict[Job, None] = field(default_factory=dict)
    """Pieces of work under way, oldest first."""
    ended: bool = False

    def release(self) -> None:
        """Gives back all that it holds, tensors and tree included, whoever keeps hold of the
        session itself or of its search."""
        for state in tuple(self.states):
            state.release()
        self.jobs.clear()
        self.ledger.release_all()
        self.search.close()

    def emit(self, event: Event) -> None:
        """The listener hears of it at the end of the step."""
        self.events.append(event)


@dataclass(slots=True, eq=False)
class Job:
    """One piece of work being done."""

    session: Session
    work: Work
    place: int
    """In the order in which the engine's jobs were begun."""
    cost: int = 0
    """Tokens of all models that it is charged for; see `Account.spent`."""
    steps: Steps | None = None
    waits: Sequence[Pending] = ()
    """What it waits for now."""
    runs: list[Run] = field(default_factory=list)
    """The runs that draw its tokens."""

    def close(self) -> None:
        """It is done, or nobody waits for it any more. Jobs and runs know each other: they are
        freed at once, with the tensors that they hold, if they let go of each other."""
        if self.steps is not None:
            self.steps.close()
        self.steps = None
        self.waits = ()
        self.runs.clear()
