"""Clients that leave: their searches end at once and all of their KV comes back."""

from __future__ import annotations

import asyncio
import random
import time

import httpx

from tests.server.conftest import PUZZLE, endless
from tests.server.test_metrics import scrape, value


def pools(http: httpx.Client) -> dict[str, float]:
    return {
        f"{dict(labels)['pool']} {dict(labels)['state']}": count
        for (name, labels), count in scrape(http).items()
        if name == "mcts_kv_blocks"
    }


def settled(http: httpx.Client, seconds: float = 5) -> None:
    """Waits until nothing runs."""
    deadline = time.monotonic() + seconds
    while True:
        samples = scrape(http)
        busy = [
            value(samples, f"mcts_{name}")
            for name in ("requests_running", "requests_waiting", "searches_active")
        ]
        if not any(busy):
            return
        assert time.monotonic() < deadline, busy
        time.sleep(0.05)


async def test_two_hundred_cancelled_requests_leave_nothing_behind(
    calls: httpx.AsyncClient, http: httpx.Client
) -> None:
    settled(http)
    before = pools(http)
    counted = value(scrape(http), "mcts_search_cancellations_total", reason="client_disconnect")
    rng = random.Random(0)

    async def leave(number: int) -> bool:
        slow = {
            "budget": {"tokens": 20_000, "simulations": 2000},
            "stop_when": {"converged": False},
        }
        bodies = [
            {"model": "demo", "prompt": PUZZLE, "seed": number, "search": slow},
            endless(seed=number),
            endless(seed=number, stream=True, n=4),
        ]
        await asyncio.sleep(rng.random())
        try:
            async with asyncio.timeout(rng.random() * 2):
                await calls.post("/v1/completions", json=bodies[number % 3])
        except TimeoutError:
            return True
        return False

    left = await asyncio.gather(*map(leave, range(200)))
    assert sum(left) > 100
    await asyncio.to_thread(settled, http, 20)
    assert pools(http) == before
    after = scrape(http)
    cancelled = value(after, "mcts_search_cancellations_total", reason="client_disconnect")
    assert 0 < cancelled - counted <= sum(left)
    answer = await calls.post("/v1/completions", json={"model": "demo", "prompt": PUZZLE})
    assert answer.status_code == 200


async def test_one_departure_is_counted_as_499(
    calls: httpx.AsyncClient, http: httpx.Client
) -> None:
    labels = {"endpoint": "/v1/completions", "method": "sample", "status": "499"}
    before = value(scrape(http), "mcts_requests_total", **labels)
    for stream in (False, True):
        try:
            async with asyncio.timeout(0.5):
                await calls.post("/v1/completions", json=endless(stream=stream))
        except TimeoutError:
            pass
    await asyncio.to_thread(settled, http)
    assert value(scrape(http), "mcts_requests_total", **labels) == before + 2
