"""Random searches with random deadlines, all on one engine: how late are they, in engine steps?

    python benchmarks/deadlines.py --searches 1000 --at-once 8

A search is as late as the number of engine steps that ended after its deadline and before its own
end. Steps are counted in the engine's thread, not derived from times. Prints how many searches
were how many steps late, and what they came back with; the exit status is 1 if one was more than
one step late, or came back with neither a complete, scored trajectory nor a reason.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

import typer

import demo
from demo.puzzle import test_puzzles
from mcts_core.engine.engine import Engine
from mcts_core.engine.session import Session
from mcts_core.query import Query, Reply
from mcts_core.search.parameters import Budget, Method, SearchParameters, StopWhen
from mcts_core.search.search import SearchFailed
from mcts_core.search.work import Sampling
from mcts_core.served import ServedModel, load

METHODS: tuple[Method, ...] = ("mcts", "beam", "dvts", "best_first", "best_of_n", "sample")


class Stopwatch:
    """Counts, in the engine's thread, the steps by which sessions end after their deadlines."""

    def __init__(self, engine: Engine) -> None:
        self.late: Counter[int] = Counter()
        """Sessions by the steps that ended between their deadline and their own end."""
        self._ends: list[float] = []
        self._step, self._end = engine._step, engine._sessions.end
        engine._step = self._timed_step  # type: ignore[method-assign]
        engine._sessions.end = self._timed_end  # type: ignore[method-assign]

    def _timed_step(self) -> bool:
        busy = self._step()
        self._ends.append(time.monotonic())
        return busy

    def _timed_end(self, session: Session) -> None:
        if session.deadline is not None:
            self.late[len(self._ends) - bisect_left(self._ends, session.deadline)] += 1
        self._end(session)


@dataclass
class Tally:
    """What the searches came back with."""

    endings: Counter[str] = field(default_factory=Counter)
    without_reason: int = 0


def query(served: ServedModel, chance: random.Random, least_ms: float, most_ms: float) -> Query:
    """A search that would go on for long, and a deadline."""
    search = served.preset.model_copy(
        update={
            "method": chance.choice(METHODS),
            "budget": Budget(simulations=10_000, deadline_ms=chance.uniform(least_ms, most_ms)),
            "stop_when": StopWhen(converged=False),
            "parallel": chance.randint(1, 16),
            "commit": chance.random() < 0.3,
        }
    )
    puzzle = chance.choice(test_puzzles())
    return Query(
        prompt=tuple(served.tokenizer.encode(puzzle.prompt)),
        search=SearchParameters.model_validate(search.model_dump()),
        sampling=Sampling(seed=chance.getrandbits(32)),
        max_tokens=150,
    )


async def run(served: ServedModel, queries: list[Query], at_once: int) -> Tally:
    """All queries, `at_once` at a time."""
    tally, waiting = Tally(), list(queries)

    async def worker() -> None:
        while waiting:
            try:
                events = [event async for event in served.search(waiting.pop())]
            except SearchFailed as failure:
                tally.endings[f"nothing, {failure.reason}"] += 1
                tally.without_reason += not failure.reason
                continue
            reply = events[-1]
            assert isinstance(reply, Reply)
            best, stop = reply.result.trajectories[0], reply.result.stop_reason
            scored = "scored" if best.score is not None else "not scored"
            whole = "complete" if best.finish_reason == "stop" else "unfinished"
            tally.endings[f"{whole}, {scored}, {stop}"] += 1
            tally.without_reason += (whole, scored) != ("complete", "scored") and not stop

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return tally


def main(
    searches: Annotated[int, typer.Option(help="How many.")] = 1000,
    at_once: Annotated[int, typer.Option(help="Searches under way together.")] = 8,
    least_ms: Annotated[float, typer.Option(help="The shortest deadline.")] = 5.0,
    most_ms: Annotated[float, typer.Option(help="The longest deadline.")] = 500.0,
    seed: Annotated[int, typer.Option(help="Of the searches.")] = 0,
) -> None:
    served = load(demo.checkpoint_path(), name="demo")
    try:
        watch = Stopwatch(served._engine)
        chance = random.Random(seed)
        queries = [query(served, chance, least_ms, most_ms) for _ in range(searches)]
        tally = asyncio.run(run(served, queries, at_once))
    finally:
        served.close()
    print(f"{'steps late':<44} searches")
    for steps, count in sorted(watch.late.items()):
        print(f"{steps:<44} {count}")
    for ending, count in tally.endings.most_common():
        print(f"{ending:<44} {count}")
    if max(watch.late) > 1 or tally.without_reason:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
