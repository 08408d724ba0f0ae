"""An engine over tiny random models, and searches that are written out by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from critics.head import Head
from mcts_core.attention import CPU
from mcts_core.engine.engine import Engine
from mcts_core.engine.jobs import Jobs
from mcts_core.engine.resident import Resident
from mcts_core.engine.scheduler import Scheduler
from mcts_core.engine.scoring import Scoring
from mcts_core.engine.seating import Seating
from mcts_core.engine.session import Session
from mcts_core.query import Event
from mcts_core.search.search import Progress, SearchFailed, SearchResult
from mcts_core.search.work import Account, Extended, Outcome, Work
from tests.mcts_core.models_zoo import make, seat

END_TOKEN = 2
CRITICS = {"value": "policy", "prm": "policy", "orm": "orm"}

Plan = Generator[Sequence[Work], list[Outcome], None]
"""A search as a generator: yields works that are done together, is sent their outcomes."""


class Letters:
    """Token n is the n-th character from the exclamation mark on."""

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(33 + token) for token in tokens if token != END_TOKEN)


class Scripted:
    """Implements `Search` by a plan."""

    def __init__(self, plan: Plan) -> None:
        self.result: SearchResult | SearchFailed | None = None
        self.unfinished: list[tuple[Work, Extended]] = []
        self._plan = plan
        self._awaited: list[Work] = []
        self._outcomes: dict[int, Outcome] = {}

    def start(self) -> Sequence[Work]:
        return self._go_on(None)

    def deliver(self, work: Work, outcome: Outcome) -> Sequence[Work]:
        self._outcomes[id(work)] = outcome
        if len(self._outcomes) < len(self._awaited):
            return ()
        outcomes = [self._outcomes[id(work)] for work in self._awaited]
        self._outcomes = {}
        return self._go_on(outcomes)

    def expire(self, unfinished: Sequence[tuple[Work, Extended]]) -> None:
        self.unfinished = list(unfinished)
        self.result = SearchFailed("deadline", "too late")

    def close(self) -> None:
        self._plan.close()

    @property
    def progress(self) -> Progress:
        return Progress(0, None)

    def _go_on(self, outcomes: list[Outcome] | None) -> Sequence[Work]:
        try:
            works = next(self._plan) if outcomes is None else self._plan.send(outcomes)
        except StopIteration:
            self.result = SearchResult(
                (), "test", "test", "exhausted", None, "best", 0, 0, 0, 0, 0, None
            )
            return ()
        self._awaited = [work for work in works if type(work).__name__ != "Release"]
        return works


class Running:
    """An engine, and the residents to look into."""

    def __init__(
        self,
        *,
        blocks: int = 400,
        block_size: int = 4,
        max_tokens: int = 2048,
        slice_tokens: int = 64,
        prefix_cache: bool = True,
        start: bool = True,
    ) -> None:
        """Without `start`, `start()` is called by the test: what was submitted before is begun in
        one step."""
        torch.manual_seed(1)
        heads = {name: Head(32, 8) for name in CRITICS}
        trunk_heads = {name: heads[name] for name, model in CRITICS.items() if model == "policy"}
        size: dict[str, Any] = {"blocks": blocks, "block_size": block_size}
        self.residents: dict[str, Resident] = {
            "policy": seat(make("llama"), heads=trunk_heads, **size),
            "rollout": seat(make("qwen2"), **size),
            "orm": seat(make("qwen3", language_head=False), heads={"orm": heads["orm"]}, **size),
        }
        seating = Seating(self.residents, 256, prefix_cache=prefix_cache)
        jobs = Jobs(
            seating,
            Scoring(self.residents, seating, CRITICS),
            Letters(),
            end_tokens=frozenset({END_TOKEN}),
            boundary_tokens={"\n": frozenset({10})},
            context_length=256,
        )
        self.engine = Engine(
            self.residents,
            jobs,
            lambda: Scheduler(max_tokens, min(slice_tokens, max_tokens)),
            attention=CPU.name,
            threads=1,
        )
        if start:
            self.start()

    def start(self) -> None:
        self.engine.start()

    def begin(
        self,
        plan: Plan,
        listener: Callable[[Any], None],
        deadline: float | None = None,
        salt: str | None = None,
        priority: int = 0,
    ) -> Session:
        now = time.monotonic()
        limit = None if deadline is None else now + deadline
        session = Session(
            Scripted(plan), Account(), listener, now, limit, cache_salt=salt, priority=priority
        )
        self.engine.submit(session)
        return session

    def run(
        self, *plans: Plan, deadline: float | None = None, salt: str | None = None
    ) -> list[Any]:
        """Runs plans side by side; a list of events or a `SearchFailed` for each."""
        answers: list[Any] = [None] * len(plans)
        ended = [threading.Event() for _ in plans]
        news: list[list[Event]] = [[] for _ in plans]

        def listener(index: int) -> Callable[[Any], None]:
            def listen(events: Sequence[Event] | SearchFailed) -> None:
                if isinstance(events, SearchFailed):
                    answers[index] = events
                    ended[index].set()
                    return
                news[index] += events
                if type(events[-1]).__name__ == "Reply":
                    answers[index] = news[index]
                    ended[index].set()

            return listen

        for index, plan in enumerate(plans):
            self.begin(plan, listener(index), deadline, salt)
        for event in ended:
            assert event.wait(60), "a request was never answered"
        return answers

    def idle(self) -> None:
        """Waits until nothing is under way, and checks that nothing was left behind."""
        self.wait_for(lambda: not self.engine.gauges().running and not self.engine.gauges().waiting)
        for name, resident in self.residents.items():
            pool = resident.pool
            pool.check_integrity()
            assert pool.held == 0, name
            assert pool.free + pool.cached + pool.pinned == pool.total, name

    @staticmethod
    def wait_for(condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            time.sleep(0.01)
        raise AssertionError("it did not come to pass within ten seconds")

    def close(self) -> None:
        self.engine.close()
