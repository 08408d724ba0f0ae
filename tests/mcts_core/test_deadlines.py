"""What would break: a search that goes on after its deadline, or that leaves KV behind there."""

from __future__ import annotations

import asyncio
import random

import demo
from benchmarks.deadlines import Stopwatch, query, run
from mcts_core.served import load


def test_no_search_is_later_than_the_step_that_its_deadline_falls_into() -> None:
    """Counts engine steps, so that a slow machine changes nothing."""
    served = load(demo.checkpoint_path(), name="demo", threads=1)
    try:
        watch = Stopwatch(served._engine)
        chance = random.Random(3)
        queries = [query(served, chance, 5, 300) for _ in range(30)]
        queries += [query(served, chance, 5000, 6000) for _ in range(2)]
        tally = asyncio.run(run(served, queries, at_once=4))
        gauges = served.gauges()
    finally:
        served.close()
    assert sum(watch.late.values()) == len(queries) == sum(tally.endings.values())
    assert max(watch.late) <= 1
    assert watch.late[1], "no search was ended by its deadline"
    assert not tally.without_reason
    assert any(ending.startswith("complete, scored") for ending in tally.endings)
    assert all(pool.held == 0 and pool.free == pool.total for pool in gauges.pools.values())
