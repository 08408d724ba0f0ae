"""The queue: by priority, then first come, first served; bounded, and never leaking a place."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from server.admission import Admission, QueueFull
from tests.server.conftest import PUZZLE, Process, endless


async def test_places_go_to_the_first_who_came() -> None:
    admission = Admission(max_running=1, max_waiting=2)
    order: list[str] = []

    async def search(name: str) -> None:
        with admission.admit(1) as (ticket,):
            await ticket.turn()
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*map(search, "abc"))
    assert order == ["a", "b", "c"]
    assert (admission.running, admission.waiting) == (0, 0)


async def test_lower_priority_numbers_are_called_first_and_equals_in_their_order() -> None:
    admission = Admission(max_running=1, max_waiting=9)
    order: list[str] = []

    async def search(name: str, priority: int) -> None:
        with admission.admit(1, priority) as (ticket,):
            await ticket.turn()
            order.append(name)
            await asyncio.sleep(0)

    with admission.admit(1):
        named = {"a": 0, "b": 3, "c": -1, "d": 0, "e": 3, "f": -1}
        waiting = [asyncio.create_task(search(name, each)) for name, each in named.items()]
        await asyncio.sleep(0)
        waiting[3].cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == ["c", "f", "a", "b", "e"]
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    admission = Admission(max_running=1, max_waiting=1)
    with admission.admit(1), admission.admit(1):
        with pytest.raises(QueueFull) as full:
            admission.admit(1)
        assert 1 <= full.value.retry_after <= 60
        assert (admission.running, admission.waiting) == (1, 1)
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_request_is_admitted_with_all_its_searches_or_not_at_all() -> None:
    admission = Admission(max_running=2, max_waiting=1)
    with admission.admit(1):
        with pytest.raises(QueueFull):
            admission.admit(3)
        assert admission.running == 1
        with admission.admit(2):
            assert (admission.running, admission.waiting) == (2, 1)


async def test_who_leaves_the_queue_makes_room_and_is_never_called() -> None:
    admission = Admission(max_running=1, max_waiting=2)
    with admission.admit(1) as (first,):
        with admission.admit(2) as (second, third):
            second.give_back()
            assert admission.waiting == 1
            first.give_back()
            assert await third.turn() >= 0
        assert (admission.running, admission.waiting) == (0, 0)
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_cancelled_wait_gives_its_ticket_back() -> None:
    admission = Admission(max_running=1, max_waiting=1)

    async def wait() -> None:
        with admission.admit(1) as (ticket,):
            await ticket.turn()

    with admission.admit(1):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert admission.waiting == 0


async def test_a_crowd_before_a_narrow_server_is_refused_and_recovers(narrow: Process) -> None:
    body = endless(model="small:sample", n=4, max_tokens=400)
    async with httpx.AsyncClient(base_url=narrow.url, timeout=60) as calls:
        answers = await asyncio.gather(
            *(calls.post("/v1/completions", json=body | {"stream": n % 2 == 0}) for n in range(8))
        )
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(refused) >= 5
        for answer in refused:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "queue_full"
        healthy = {"model": "small", "prompt": PUZZLE}
        assert (await calls.post("/v1/completions", json=healthy)).status_code == 200
        too_many = {"model": "small:greedy", "prompt": [PUZZLE, PUZZLE]}
        assert (await calls.post("/v1/completions", json=too_many)).status_code == 200
        metrics = (await calls.get("/metrics")).text
    counted = 'mcts_admission_rejections_total{model_name="small",reason="queue_full"}'
    assert f"{counted} {len(refused)}.0" in metrics


async def test_a_deadline_counts_the_time_in_the_queue(narrow: Process) -> None:
    body = endless(model="small:sample", max_tokens=400, n=4, stream=True)
    hasty = {"model": "small", "prompt": PUZZLE, "search": {"budget": {"deadline_ms": 20}}}
    async with (
        httpx.AsyncClient(base_url=narrow.url, timeout=60) as calls,
        calls.stream("POST", "/v1/completions", json=body) as first,
    ):
        lines = first.aiter_lines()
        await anext(lines)  # it has the only place
        answer = await calls.post("/v1/completions", json=hasty)
        assert answer.status_code == 504
        error = answer.json()["error"]
        assert error["code"] == "deadline_exceeded"
        assert "waited for its turn" in error["message"]
        *_, last = [line async for line in lines if line]
        assert last == "data: [DONE]"
