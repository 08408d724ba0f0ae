"""`priority` through the API: who comes first, and that no answer depends on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.server.conftest import PUZZLE, Process, endless, running, without_times

MESSAGES: list[Any] = [{"role": "user", "content": PUZZLE}]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server that runs one search at a time."""
    yield from running(tmp_path_factory.mktemp("single") / "log", "--max-running", "1")


def _has_text(line: str) -> bool:
    """Whether a line of a stream carries some of the answer, not a chat's role alone."""
    if not line.startswith("data: {"):
        return False
    choice = json.loads(line.removeprefix("data: "))["choices"][0]
    return bool(choice.get("text") or choice.get("delta", {}).get("content"))


async def test_who_waits_is_called_by_priority(single: Process) -> None:
    """Each request streams until its client leaves at the first token, so that the next is called
    because this one was seen."""
    called: list[int] = []
    async with httpx.AsyncClient(base_url=single.url, timeout=120) as calls:

        async def ask(route: str, priority: int, leave: asyncio.Event) -> None:
            body = endless(stream=True, priority=priority)
            if route == "chat/completions":
                body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
            async with calls.stream("POST", f"/v1/{route}", json=body) as answer:
                assert answer.status_code == 200
                async for line in answer.aiter_lines():
                    if _has_text(line):
                        called.append(priority)
                        await leave.wait()
                        return

        async def waiting() -> float:
            lines = (await calls.get("/metrics")).text.splitlines()
            return next(
                float(line.split()[-1])
                for line in lines
                if line.startswith("mcts_requests_waiting{")
            )

        all_wait, at_once = asyncio.Event(), asyncio.Event()
        at_once.set()
        first = asyncio.create_task(ask("completions", 9, all_wait))
        while not called:
            assert not first.done(), "the first request ended without a token"
            await asyncio.sleep(0.01)
        others: list[asyncio.Task[None]] = []
        for number, priority in enumerate((7, 0, -5, 2)):
            route = ("completions", "chat/completions")[number % 2]
            others.append(asyncio.create_task(ask(route, priority, at_once)))
            while await waiting() <= number:
                assert called == [9], "the first request ended before the others came"
                await asyncio.sleep(0.01)
        all_wait.set()
        await asyncio.gather(first, *others)
    assert called == [9, -5, 0, 2, 7]


def test_an_answer_does_not_depend_on_the_priority(client: openai.OpenAI) -> None:
    def ask(**extra: Any) -> Any:
        return client.completions.create(model="demo", prompt=PUZZLE, seed=4, extra_body=extra)

    plain, urgent, null = ask(), ask(priority=-3), ask(priority=None)
    assert urgent.choices == plain.choices == null.choices
    assert without_times(urgent.search) == without_times(plain.search)


@pytest.mark.parametrize("priority", ["high", 1.5, True, 2**31, [0]])
@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_what_is_no_priority_is_refused_by_name(
    http: httpx.Client, route: str, priority: Any
) -> None:
    prompt: dict[str, Any] = {"prompt": PUZZLE} if route == "completions" else {}
    body = {"model": "demo", "messages": MESSAGES, "priority": priority, **prompt}
    answer = http.post(f"/v1/{route}", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "priority"
    assert "'priority'" in error["message"]
