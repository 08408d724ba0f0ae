"""Streams: what arrives together is what arrives whole, and errors come in the stream."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import openai
import pytest

from tests.server.conftest import PUZZLE, Body, check_search, endless, without_times


def events(http: httpx.Client, path: str, body: Body) -> tuple[list[Body], list[str]]:
    """The data of a stream, and its raw lines; the stream ends with [DONE]."""
    with http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert all(line.startswith(("data: ", ": ")) for line in lines)
    assert data[-1] == "[DONE]"
    return [json.loads(each) for each in data[:-1]], lines


@pytest.mark.parametrize("model", ["demo", "demo:beam", "demo:greedy", "demo:sample"])
def test_streamed_completions_are_the_whole_ones(client: openai.OpenAI, model: str) -> None:
    fields: Any = {"model": model, "prompt": PUZZLE, "seed": 11}
    whole: Any = client.completions.create(**fields)
    chunks: Any = list(
        client.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    )
    *content, last = chunks
    assert "".join(chunk.choices[0].text for chunk in content) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in content[:-1]] == [None] * (len(content) - 1)
    assert content[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    check_search(content[-1].search)
    assert without_times(content[-1].search) == without_times(whole.search)
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(chunk.usage is None for chunk in content)
    assert {(chunk.id, chunk.object, chunk.created, chunk.model) for chunk in chunks} == {
        (chunks[0].id, "text_completion", chunks[0].created, model)
    }


@pytest.mark.parametrize("model", ["demo", "demo:greedy"])
def test_streamed_chats_begin_with_the_role_and_end_with_a_reason(
    client: openai.OpenAI, model: str
) -> None:
    fields: Any = {
        "model": model,
        "messages": [{"role": "user", "content": PUZZLE}],
        "seed": 11,
    }
    whole: Any = client.chat.completions.create(**fields)
    chunks: Any = list(client.chat.completions.create(**fields, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert deltas[0].content == ""
    text = "".join(delta.content or "" for delta in deltas)
    assert text == whole.choices[0].message.content
    assert deltas[-1].model_dump(exclude_unset=True) == {}
    assert chunks[-1].choices[0].finish_reason == "stop"
    check_search(chunks[-1].search)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_samples_are_streamed_while_they_grow(client: openai.OpenAI) -> None:
    stream = client.completions.create(**endless(n=2, max_tokens=300), stream=True)
    times = []
    indices = set()
    for chunk in stream:
        times.append(time.monotonic())
        indices.add(chunk.choices[0].index)
    assert len(times) > 100
    assert times[-1] - times[0] > 0.1
    assert indices == {0, 1}


def test_a_stop_string_never_shows_in_a_stream(client: openai.OpenAI) -> None:
    chunks = client.completions.create(
        model="demo:greedy", prompt=PUZZLE, stop="nswer", stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks).endswith("\nA")


@pytest.mark.parametrize("model", ["demo", "demo:greedy"])
def test_streamed_logprobs_are_the_whole_ones(http: httpx.Client, model: str) -> None:
    body = {"model": model, "prompt": PUZZLE, "seed": 2, "logprobs": 2}
    whole = http.post("/v1/completions", json=body).json()["choices"][0]
    chunks, _ = events(http, "/v1/completions", body)
    joined: dict[str, list[Any]] = {name: [] for name in whole["logprobs"]}
    for chunk in chunks:
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            joined[name] += values
    assert joined.pop("token_logprobs") == pytest.approx(whole["logprobs"].pop("token_logprobs"))
    for tops, expected in zip(
        joined.pop("top_logprobs"), whole["logprobs"].pop("top_logprobs"), strict=True
    ):
        assert tops == pytest.approx(expected)
    assert joined == whole["logprobs"]


def test_several_prompts_stream_with_a_report_each(http: httpx.Client) -> None:
    body = {"model": "demo", "prompt": [PUZZLE, "Use 1 2 3 4 to make 24.\n"], "n": 2, "echo": True}
    chunks, _ = events(http, "/v1/completions", {**body, "seed": 4})
    whole = http.post("/v1/completions", json={**body, "seed": 4}).json()
    texts: dict[int, str] = {}
    reports = []
    for chunk in chunks:
        assert "search" not in chunk
        (choice,) = chunk["choices"]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        if "search" in choice:
            reports.append(choice["search"])
    assert texts == {choice["index"]: choice["text"] for choice in whole["choices"]}
    assert len(reports) == 2


def test_silence_is_filled_with_comments(http: httpx.Client) -> None:
    budget = {"simulations": 2000, "tokens": 100_000, "deadline_ms": 2000}
    search = {"budget": budget, "stop_when": {"converged": False}}
    body = {"model": "demo", "prompt": PUZZLE, "search": search}
    chunks, lines = events(http, "/v1/completions", body)
    assert ": keep-alive" in lines
    assert chunks[-1]["choices"][0]["finish_reason"]


def test_an_error_after_the_headers_is_in_the_stream(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="demo",
        prompt=PUZZLE,
        stream=True,
        extra_body={"search": {"budget": {"deadline_ms": 0.001}}},
    )
    with pytest.raises(openai.APIError) as failed:
        list(stream)
    assert failed.value.code == "deadline_exceeded"


def test_an_error_before_the_headers_is_a_plain_one(http: httpx.Client) -> None:
    response = http.post("/v1/completions", json={"model": "demo", "prompt": "", "stream": True})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"
