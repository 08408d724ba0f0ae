"""The same seed gives the same text and the same tree, alone and in a crowd."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.server.conftest import PUZZLE, without_times

OTHERS = [
    f"Use {a} {b} {c} {d} to make 24.\n"
    for a, b, c, d in zip(range(1, 13), range(3, 15), range(5, 17), range(2, 14), strict=True)
]


@pytest.mark.parametrize("model", ["demo", "demo:beam", "demo:sample"])
async def test_the_seed_decides_alone_and_among_fifteen_others(
    calls: httpx.AsyncClient, model: str
) -> None:
    async def ask(seed: int, prompt: str = PUZZLE, name: str = model) -> httpx.Response:
        body = {"model": name, "prompt": prompt, "seed": seed, "search": {"include": ["root"]}}
        return await calls.post("/v1/completions", json=body)

    alone = (await ask(123)).json()
    others = [ask(index, OTHERS[index % 12], "demo") for index in range(15)]
    answers = await asyncio.gather(*others[:7], ask(123), *others[7:])
    crowded = answers[7].json()
    assert {answer.status_code for answer in answers} == {200}
    assert crowded["choices"] == alone["choices"]
    # Scores are sums of floating-point products, whose order depends on the batch's shape.
    mine, theirs = without_times(alone["search"]), without_times(crowded["search"])
    for report in (mine, theirs):
        report["score"] = round(report["score"], 4)
        report["scores"] = {name: round(score, 4) for name, score in report["scores"].items()}
        report["root"] = [(option["text"], option["visits"]) for option in report["root"]]
    assert mine == theirs


async def test_without_a_seed_each_request_draws_its_own(calls: httpx.AsyncClient) -> None:
    body = {"model": "demo:sample", "prompt": PUZZLE, "n": 8, "temperature": 1.5}
    answers = [(await calls.post("/v1/completions", json=body)).json() for _ in range(2)]
    texts = [{choice["text"] for choice in answer["choices"]} for answer in answers]
    assert texts[0] != texts[1]
