"""Streams: what arrives together is what arrives whole, and errors come in the stream."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from mcts_core.query import ProgressEvent, TokenEvent
from server.generation import Piece
from server.streaming import Feed
from tests.server.conftest import PUZZLE, Body, Process, check_search, endless, without_times
from tests.server.test_cancellation import pools, settled
from tests.server.test_metrics import scrape, value


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
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(last.usage, name) == getattr(whole.usage, name)
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


def test_samples_are_streamed_while_they_grow(client: openai.OpenAI, http: httpx.Client) -> None:
    settled(http)
    stream = iter(client.completions.create(**endless(), stream=True))
    first = next(stream)
    assert value(scrape(http), "mcts_requests_running") == 1, "text came before the end"
    chunks = [first, *stream]
    assert len(chunks) > 100
    assert {chunk.choices[0].index for chunk in chunks} == set(range(16))


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
    search = {"budget": budget, "stop_when": {"converged": False, "score": None}}
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


WRITE_BUFFERS = Path("/proc/sys/net/ipv4/tcp_wmem")
"""Least, usual and largest bytes that wait in a socket to be sent."""

LONG: Body = {
    "budget": {"simulations": 300, "tokens": 100_000, "deadline_ms": 60_000},
    "stop_when": {"converged": False, "score": None},
}

BEAM: Body = {
    "model": "demo",
    "prompt": PUZZLE,
    "seed": 5,
    "search": {
        **LONG,
        **{"method": "beam", "commit": True, "width": {"beam": 1}, "include": ["tree"]},
        "step": {"until": {"tokens": 2}},
    },
}


@pytest.mark.parametrize("method", ["mcts", "beam", "best_of_n"])
def test_progress_says_how_far_the_search_is(client: openai.OpenAI, method: str) -> None:
    search = {**LONG, "method": method, "progress": True}
    fields: Any = {"model": "demo", "prompt": PUZZLE, "seed": 5}
    chunks: Any = list(
        client.completions.create(**fields, stream=True, extra_body={"search": search})
    )
    told = [chunk.search for chunk in chunks[:-1] if getattr(chunk, "search", None)]
    final = chunks[-1].search
    assert told
    assert all(set(each) == {"simulations", "score", "tokens", "time_ms"} for each in told)
    counts = [each["simulations"] for each in told]
    assert counts == sorted(set(counts)), "told only when something has happened"
    assert 1 <= counts[0] <= counts[-1] <= final["simulations"]
    spent = [each["tokens"]["spent"] for each in told]
    assert spent == sorted(spent)
    assert 0 < spent[0] <= spent[-1] <= final["tokens"]["spent"]
    times = [each["time_ms"]["search"] for each in told]
    assert all(later - sooner >= 99 for sooner, later in itertools.pairwise(times))
    scores = [each["score"] for each in told if each["score"] is not None]
    assert scores == sorted(scores)
    assert not scores or scores[-1] <= final["score"]
    plain = {**LONG, "method": method}
    whole: Any = client.completions.create(**fields, extra_body={"search": plain})
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert without_times(final) == without_times(whole.search), "watching changes nothing"


@pytest.mark.parametrize(
    ("method", "readout"),
    [
        ("mcts", "best"),
        ("mcts", "visits"),
        ("best_first", "best"),
        ("beam", "best"),
        ("dvts", "best"),
    ],
)
def test_committed_steps_join_to_the_whole_text(
    client: openai.OpenAI, method: str, readout: str
) -> None:
    search = {**LONG, "method": method, "commit": True, "progress": True, "readout": readout}
    fields: Any = {
        "model": "demo",
        "messages": [{"role": "user", "content": PUZZLE}],
        "seed": 5,
        "extra_body": {"search": search},
    }
    chunks: Any = list(client.chat.completions.create(**fields, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    final = chunks[-1].search
    news = [
        ("text", chunk.choices[0].delta.content)
        if chunk.choices[0].delta.content
        else ("search", None)
        for chunk in chunks[1:-1]
    ]
    assert ("search", None) in news
    text = "".join(text or "" for _, text in news)
    fields["extra_body"] = {"search": {**search, "progress": False}}
    whole: Any = client.chat.completions.create(**fields)
    assert whole.choices[0].message.content == text
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "stop"
    assert without_times(whole.search) == without_times(final)
    check_search(final)
    assert final["simulations"] <= 300
    assert final["score"] is not None


def test_a_beam_commits_each_of_its_steps(http: httpx.Client) -> None:
    """A beam of one draws nothing beside its one state: each step is settled as it is chosen."""
    body = {**BEAM, "max_tokens": 100}
    chunks, _ = events(http, "/v1/completions", body)
    whole = http.post("/v1/completions", json=body).json()
    sent = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(sent) == whole["choices"][0]["text"]
    nodes = whole["search"]["tree"]
    depth = max(node["depth"] for node in nodes)
    steps = [node["text"] for node in nodes if node["parent"] is not None]
    assert sent[: depth - 1] == steps[: depth - 1], "a chunk for each step"


def test_a_step_is_sent_while_the_search_goes_on(http: httpx.Client) -> None:
    """Who leaves at the first step leaves a search that has not ended: it is not counted as one."""
    settled(http)
    before = scrape(http)
    body = {**BEAM, "max_tokens": 1000, "logit_bias": {"1": -100}, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as response:
        first = next(line for line in response.iter_lines() if line.startswith("data: {"))
    settled(http)
    after = scrape(http)
    assert json.loads(first.removeprefix("data: "))["choices"][0]["text"]

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("mcts_search_cancellations_total", reason="client_disconnect") == 1
    assert grown("mcts_search_duration_seconds_count") == 0


def test_committed_logprobs_are_the_whole_ones(http: httpx.Client) -> None:
    body = {"model": "demo", "prompt": PUZZLE, "seed": 5, "logprobs": 1}
    body |= {"search": {**LONG, "commit": True}}
    whole = http.post("/v1/completions", json=body).json()["choices"][0]
    chunks, _ = events(http, "/v1/completions", body)
    tokens = [
        token
        for chunk in chunks
        for token in (chunk["choices"][0]["logprobs"] or {"tokens": []})["tokens"]
    ]
    assert tokens == whole["logprobs"]["tokens"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"search": {"progress": True}}, "search.progress"),
        ({"search": {"commit": True}, "n": 2, "stream": True}, "search.commit"),
        ({"search": {"commit": True, "readout": "vote"}}, "search.commit"),
        *(
            ({"search": {"commit": True, "method": method}, "stream": True}, "search.commit")
            for method in ("sample", "greedy", "best_of_n", "self_consistency")
        ),
    ],
)
def test_what_cannot_be_streamed_so_is_refused(
    http: httpx.Client, fields: Body, param: str
) -> None:
    body = {"model": "demo", "prompt": PUZZLE, **fields}
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_who_leaves_a_committing_search_leaves_nothing_behind(http: httpx.Client) -> None:
    settled(http)
    before = pools(http)
    search = {**LONG, "commit": True, "progress": True}
    search["budget"] = {"simulations": 2000, "tokens": 100_000}
    body = {"model": "demo", "prompt": PUZZLE, "stream": True, "search": search}
    for lines in (1, 5, 20):
        with http.stream("POST", "/v1/completions", json=body) as response:
            for number, _ in enumerate(response.iter_lines()):
                if number >= lines:
                    break
    settled(http, 20)
    assert pools(http) == before


def test_a_reader_who_does_not_read_holds_nobody_up(
    server: Process, client: openai.OpenAI, http: httpx.Client
) -> None:
    """Not others, and not his own search: it ends and gives back its place and its KV, and only the
    answer waits for him: he does not begin to read before that. The answer is more than the sockets
    on its way can hold, so that a search that waited for him would not have ended."""
    settled(http, 60)
    before = pools(http)
    fields = endless(n=8, max_tokens=400, stream=True, logprobs=True, top_logprobs=20)
    fields["messages"] = [{"role": "user", "content": fields.pop("prompt")}]
    body = json.dumps({**fields, "search": {"progress": True}}).encode()
    url = httpx.URL(server.url)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(120)
        slow.connect((url.host, url.port or 80))
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        slow.sendall(head.encode() + body)
        for _ in range(3):
            client.completions.create(model="demo:greedy", prompt=PUZZLE)
        settled(http, 60)
        assert pools(http) == before
        held = int(WRITE_BUFFERS.read_text().split()[-1])
        held += slow.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        received = bytearray()
        while b"data: [DONE]" not in received[-100:]:
            part = slow.recv(65536)
            assert part
            received += part
    assert len(received) > held
    assert received.count(b'"finish_reason":"length"') == 8
    assert b'"error"' not in received


async def test_of_progress_that_waits_only_the_latest_is_kept() -> None:
    feed = Feed()
    for count in range(1, 1000):
        feed.put(Piece(count % 2, ProgressEvent(count, count, None, 0.0)))
        if count % 100 == 0:
            feed.put(Piece(0, TokenEvent(0, str(count), ())))
    assert len(feed) == 9 + 2
    feed.close()
    found = [event async for event in _drained(feed)]
    texts = [piece.event.text for piece in found if isinstance(piece.event, TokenEvent)]
    assert texts == [str(count) for count in range(100, 1000, 100)]
    told = [piece.event for piece in found if isinstance(piece.event, ProgressEvent)]
    assert sorted(event.simulations for event in told) == [998, 999]


async def _drained(feed: Feed) -> AsyncIterator[Piece]:
    while (event := await feed.get()) is not None:
        assert isinstance(event, Piece)
        yield event
