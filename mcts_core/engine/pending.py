"""Something that a piece of work waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mcts_core.search.work import Failed


class WorkFailed(Exception):
    """Thrown into the job that waits for something that failed."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


@dataclass(slots=True, eq=False)
class Pending:
    """Settled once, with or without a failure; then it calls those who wait."""

    settled: bool = False
    failure: Failed | None = None
    waiters: list[Callable[[], None]] = field(default_factory=list)

    def settle(self, failure: Failed | None = None) -> None:
        if self.settled:
            return
        self.settled, self.failure = True, failure
        waiters, self.waiters = self.waiters, []
        for wake in waiters:
            wake()
