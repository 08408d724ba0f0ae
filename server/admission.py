"""Admission: how many searches run at once, how many may wait, and who is next."""

from __future__ import annotations

import asyncio
import math
import time
from bisect import insort
from itertools import count
from types import TracebackType

_SMOOTHING = 0.1
"""Weight of the newest search in the running mean of how long one holds its place."""


class QueueFull(Exception):
    """The request would have to wait behind too many others; `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after


class Admission:
    """A queue before a fixed number of places: lower priority numbers first; among equals, first
    come, first served.

    Used from one event loop only.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._queue: list[Ticket] = []
        """In the order in which they are called."""
        self._serial = count()
        self._running = 0
        self._mean_seconds = 1.0

    @property
    def capacity(self) -> int:
        """The most searches that one request can ask for."""
        return self._max_running + self._max_waiting

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def admit(self, searches: int, priority: int = 0) -> Tickets:
        """Takes a request's searches on, all or none of them. Raises `QueueFull`, whatever the
        priority: who waits is not sent away for others."""
        room = self.capacity - self._running - len(self._queue)
        if searches > room:
            raise QueueFull(self._retry_after())
        tickets = [Ticket(self, (priority, next(self._serial))) for _ in range(searches)]
        for ticket in tickets:
            insort(self._queue, ticket, key=lambda waiting: waiting.rank)
        self._call_next()
        return Tickets(tickets)

    def _retry_after(self) -> int:
        """When a place in the queue should be free, in whole seconds."""
        ahead = (len(self._queue) + 1) / self._max_running
        return min(60, max(1, math.ceil(ahead * self._mean_seconds)))

    def _call_next(self) -> None:
        while self._queue and self._running < self._max_running:
            self._queue.pop(0).call()
            self._running += 1

    def leave(self, ticket: Ticket) -> None:
        """Called by a ticket that is given back."""
        held = ticket.held_seconds
        if held is None:
            self._queue.remove(ticket)
            return
        self._mean_seconds += _SMOOTHING * (held - self._mean_seconds)
        self._running -= 1
        self._call_next()


class Ticket:
    """One search's place: first in the queue, then among the running."""

    def __init__(self, admission: Admission, rank: tuple[int, int]) -> None:
        """`rank`: its priority, and its place among equals."""
        self.rank = rank
        self._admission = admission
        self._issued = time.monotonic()
        self._called: float | None = None
        self._returned = False
        self._turn = asyncio.Event()

    async def turn(self) -> float:
        """Waits for this ticket's turn; returns how long that took in all, in seconds."""
        await self._turn.wait()
        assert self._called is not None
        return self._called - self._issued

    def call(self) -> None:
        """Called by the queue when it is this ticket's turn."""
        self._called = time.monotonic()
        self._turn.set()

    @property
    def held_seconds(self) -> float | None:
        """How long the place has been held; None while the ticket is in the queue."""
        return None if self._called is None else time.monotonic() - self._called

    def give_back(self) -> None:
        """Leaves the queue or the running; a second time does nothing."""
        if not self._returned:
            self._returned = True
            self._admission.leave(self)


class Tickets:
    """A request's tickets: given back when the block ends, whatever ends it."""

    def __init__(self, tickets: list[Ticket]) -> None:
        self._tickets = tickets

    def __enter__(self) -> list[Ticket]:
        return self._tickets

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # From the back, so that a ticket that is about to go is not called first.
        for ticket in reversed(self._tickets):
            ticket.give_back()
