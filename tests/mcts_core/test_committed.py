"""What would break: a step that is kept back until the search is over, or KV that outlives it."""

from __future__ import annotations

import demo
from mcts_core.query import Query, Reply, TokenEvent
from mcts_core.search.parameters import SearchParameters
from mcts_core.search.work import Sampling
from mcts_core.served import load


async def test_steps_are_told_while_the_search_goes_on() -> None:
    served = load(demo.checkpoint_path(), name="demo", threads=1)
    try:
        wanted = {
            "commit": True,
            "parallel": 1,
            "budget": {"simulations": 80, "tokens": None},
            "stop_when": {"converged": False, "score": None},
        }
        query = Query(
            prompt=tuple(served.tokenizer.encode("Use 4 9 10 13 to make 24.\n")),
            search=SearchParameters.model_validate(wanted).over(served.preset),
            sampling=Sampling(seed=5),
            max_tokens=150,
            stream=True,
        )
        events = [event async for event in served.search(query)]
        gauges = served.gauges()
    finally:
        served.close()
    *steps, reply = events
    assert isinstance(reply, Reply)
    texts = [event.text for event in steps if isinstance(event, TokenEvent)]
    assert texts
    best = reply.result.trajectories[0]
    assert best.text.startswith("".join(texts))
    assert best.finish_reason == "stop"
    assert reply.result.simulations <= 80
    assert all(pool.held == 0 and pool.free == pool.total for pool in gauges.pools.values())
