"""The order in which a search's decisions are made: first in, first out, whatever comes in first.

Decisions are generators that yield work and are sent its outcomes. Several are in flight, but only
the oldest one may go on, and only once all of its work is done; when it asks for more it goes to
the end of the queue. So a tree changes in an order that depends on the outcomes alone, never on
the time at which they arrive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias, TypeVar

from mcts_core.search.work import Failed, Outcome, Work

T = TypeVar("T")

Steps: TypeAlias = Generator[tuple[Work, ...], tuple[Outcome, ...], T]
"""Yields pieces of work to be done together, is sent their outcomes in the same order."""


class WorkFailed(Exception):
    """Raised inside `Steps` by work that it cannot do without."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


def attempt(steps: Steps[T]) -> Steps[T | Failed]:
    """`steps`, with a failure as its result instead of an exception."""
    try:
        return (yield from steps)
    except WorkFailed as error:
        return error.failed


def gather(many: Sequence[Steps[T]]) -> Steps[list[T]]:
    """Takes all of `many` on together, round by round; results in the order given.

    Within a round they go on in the order given. When one of them raises, the others are closed.
    """
    if len(many) == 1:
        return [(yield from many[0])]
    results: dict[int, T] = {}
    waiting: list[tuple[int, tuple[Work, ...]]] = []
    try:
        for index, steps in enumerate(many):
            try:
                waiting.append((index, next(steps)))
            except StopIteration as stop:
                results[index] = stop.value
        while waiting:
            outcomes = yield tuple(work for _, works in waiting for work in works)
            at = 0
            still: list[tuple[int, tuple[Work, ...]]] = []
            for index, works in waiting:
                own = outcomes[at : at + len(works)]
                at += len(works)
                try:
                    still.append((index, many[index].send(own)))
                except StopIteration as stop:
                    results[index] = stop.value
            waiting = still
    finally:
        for steps in many:
            steps.close()
    return [results[index] for index in range(len(many))]


def _nothing(_in_flight: int) -> None:
    return None


def _unheard(_failed: Failed) -> None:
    return None


class _Flight:
    """One generator under way and the outcomes that it waits for."""

    __slots__ = ("missing", "outcomes", "steps", "works")

    def __init__(self, steps: Steps[None]) -> None:
        self.steps = steps
        self.works: tuple[Work, ...] = ()
        self.outcomes: list[Outcome | None] = []
        self.missing = 0


class Flow:
    """The queue of generators in flight."""

    __slots__ = ("_commit", "_failed", "_next", "_outbox", "_queue", "_waiting")

    def __init__(
        self,
        next_steps: Callable[[int], Steps[None] | None],
        commit: Callable[[Work, Outcome], None],
        failed: Callable[[Failed], None],
        outbox: list[Work],
    ) -> None:
        """`next_steps`, given the number in flight, begins another generator or says None.
        `commit` sees every outcome once, in the order of the queue. `failed` hears of a generator
        that ended in `WorkFailed`. `outbox` collects work that nobody waits for (releases)."""
        self._next = next_steps
        self._commit = commit
        self._failed = failed
        self._outbox = outbox
        self._queue: deque[_Flight] = deque()
        self._waiting: dict[int, tuple[_Flight, int]] = {}

    def start(self) -> Sequence[Work]:
        issued: list[Work] = []
        self._fill(issued)
        return self._sent(issued)

    def deliver(self, work: Work, outcome: Outcome) -> Sequence[Work]:
        """Takes an outcome; returns new work. Raises ValueError for work that was not asked for."""
        entry = self._waiting.pop(id(work), None)
        if entry is None:
            raise ValueError("an outcome of work that this search does not wait for")
        flight, index = entry
        flight.outcomes[index] = outcome
        flight.missing -= 1
        if flight.missing or flight is not self._queue[0]:
            return ()
        issued: list[Work] = []
        queue = self._queue
        while queue and not queue[0].missing:
            flight = queue.popleft()
            self._resume(flight, self._committed(flight), issued)
            self._fill(issued)
        return self._sent(issued)

    def take_arrived(self) -> None:
        """Takes what has come in and waits for others only: each generator whose work is done goes
        on once, in the order of the queue, and no further. Nothing more is issued."""
        arrived = [flight for flight in self._queue if not flight.missing]
        for flight in arrived:
            self._queue.remove(flight)
            try:
                flight.steps.send(self._committed(flight))
            except StopIteration:
                continue
            except WorkFailed as error:
                self._failed(error.failed)
                continue
            flight.steps.close()

    def _committed(self, flight: _Flight) -> tuple[Outcome, ...]:
        """The outcomes of a flight that misses none, once they are counted."""
        outcomes = tuple(outcome for outcome in flight.outcomes if outcome is not None)
        for work, outcome in zip(flight.works, outcomes, strict=True):
            self._commit(work, outcome)
        return outcomes

    def close(self) -> None:
        """Ends everything in flight; outcomes that arrive later are not waited for, and nothing
        more is begun. Lets go of whom it told, who holds it."""
        for flight in self._queue:
            flight.steps.close()
        self._queue.clear()
        self._waiting.clear()
        self._next = _nothing
        self._failed = _unheard

    def _fill(self, issued: list[Work]) -> None:
        while (steps := self._next(len(self._queue))) is not None:
            self._resume(_Flight(steps), None, issued)

    def _resume(
        self, flight: _Flight, outcomes: tuple[Outcome, ...] | None, issued: list[Work]
    ) -> None:
        try:
            works = next(flight.steps) if outcomes is None else flight.steps.send(outcomes)
        except StopIteration:
            return
        except WorkFailed as error:
            self._failed(error.failed)
            return
        flight.works = works  # kept alive: they are known by their identity
        flight.missing = len(works)
        flight.outcomes = [None] * len(works)
        for index, work in enumerate(works):
            self._waiting[id(work)] = (flight, index)
        issued.extend(works)
        self._queue.append(flight)

    def _sent(self, issued: list[Work]) -> Sequence[Work]:
        if self._outbox:
            issued = [*self._outbox, *issued]
            self._outbox.clear()
        return issued
