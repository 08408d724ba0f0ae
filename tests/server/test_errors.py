"""Every bad input is answered in OpenAI's form and names its field; nobody else is disturbed."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import openai
import pytest

from tests.server.conftest import PUZZLE, Body, Process

CASES: list[tuple[str, Body, str | None]] = [
    ("no prompt", {"prompt": ...}, "prompt"),
    ("empty prompt", {"prompt": ""}, "prompt"),
    ("no prompts", {"prompt": []}, "prompt"),
    ("one prompt is empty", {"prompt": [PUZZLE, ""]}, "prompt"),
    ("empty token ids", {"prompt": [[]]}, "prompt"),
    ("prompt of a wrong type", {"prompt": 5}, "prompt"),
    ("prompt of mixed types", {"prompt": ["a", 5]}, "prompt"),
    ("token id outside the vocabulary", {"prompt": [1_000_000]}, "prompt"),
    ("negative token id", {"prompt": [-1]}, "prompt"),
    ("100,000 words", {"prompt": "make 24 " * 50_000}, "prompt"),
    ("100,000 token ids", {"prompt": [300] * 100_000}, "prompt"),
    ("no model", {"model": ...}, "model"),
    ("unknown field in search", {"search": {"foo": 1}}, "search.foo"),
    ("unknown field deeper", {"search": {"budget": {"simulation": 1}}}, "search.budget.simulation"),
    ("negative budget", {"search": {"budget": {"simulations": -4}}}, "search.budget.simulations"),
    ("no budget", {"search": {"budget": {"tokens": 0}}}, "search.budget.tokens"),
    ("unknown method", {"search": {"method": "guess"}}, "search.method"),
    ("two methods", {"model": "demo:beam", "search": {"method": "mcts"}}, "search.method"),
    ("unknown critic", {"search": {"critics": {"taste": 1}}}, "search.critics.taste"),
    ("bad regex", {"search": {"step": {"until": {"regex": "("}}}}, "search.step.until.regex"),
    (
        "a regex of a million copies",
        {"search": {"merge": {"state": {"regex": "(?:(?:a?){1000}){1000}"}}}},
        "search.merge.state.regex",
    ),
    ("a huge least width", {"search": {"width": {"inner": [999, 999]}}}, "search.width.inner.0"),
    ("bounds reversed", {"search": {"width": {"root": [4, 2]}}}, "search.width.root"),
    ("search is no object", {"search": 3}, "search"),
    ("temperature of a wrong type", {"temperature": "hot"}, "temperature"),
    ("temperature out of range", {"temperature": 3}, "temperature"),
    ("top_p out of range", {"top_p": 0}, "top_p"),
    ("n below 1", {"n": 0}, "n"),
    ("n as text", {"n": "2"}, "n"),
    ("n above the cap", {"n": 1000}, "n"),
    ("best_of below n", {"n": 3, "best_of": 2}, "best_of"),
    ("best_of streamed", {"best_of": 3, "stream": True}, "best_of"),
    ("best_of beside search", {"best_of": 3, "search": {}}, "best_of"),
    ("five stops", {"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ("empty stop", {"stop": ""}, "stop"),
    ("too many logprobs", {"logprobs": 21}, "logprobs"),
    ("tools", {"tools": [{"type": "function"}]}, "tools"),
    ("JSON", {"response_format": {"type": "json_object"}}, "response_format.type"),
    ("echo with logprobs", {"echo": True, "logprobs": 1}, "echo"),
    ("no tokens", {"max_tokens": 0}, "max_tokens"),
    ("more tokens than the context", {"max_tokens": 1020}, "max_tokens"),
    ("suffix", {"suffix": "."}, "suffix"),
    ("bias of no token", {"logit_bias": {"x": 1}}, "logit_bias"),
    ("bias of a number without end", {"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    ("too many biases", {"logit_bias": dict.fromkeys(map(str, range(2000)), 1)}, "logit_bias"),
    ("bias of an unknown token", {"logit_bias": {"999999": 1}}, "logit_bias"),
    ("stream options without a stream", {"stream_options": {}}, "stream_options"),
    ("seed of a wrong type", {"seed": "x"}, "seed"),
    ("empty salt", {"cache_salt": ""}, "cache_salt"),
]
CHAT_CASES: list[tuple[str, Body, str]] = [
    ("no messages", {"messages": []}, "messages"),
    ("empty message", {"messages": [{"role": "user", "content": []}]}, "messages"),
    ("long message", {"messages": [{"role": "user", "content": "4 " * 100_000}]}, "messages"),
    ("unknown role", {"messages": [{"role": "king", "content": "a"}]}, "messages.0.role"),
    ("no content", {"messages": [{"role": "user"}]}, "messages.0.content"),
    (
        "image",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0.content",
    ),
    ("tools", {"tools": [{"type": "function"}]}, "tools"),
    ("forced tool", {"tool_choice": "required"}, "tool_choice"),
    ("JSON", {"response_format": {"type": "json_object"}}, "response_format.type"),
    ("top_logprobs alone", {"top_logprobs": 2}, "top_logprobs"),
    ("too many top_logprobs", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("no tokens", {"max_completion_tokens": 0}, "max_completion_tokens"),
]


def assert_error(response: httpx.Response, status: int, param: str | None) -> Body:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: Body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["param"] == param, body
    assert len(body["error"]["message"]) < 1000
    return body["error"]


def body_with(fields: Body, base: Body) -> Body:
    body = {"model": "demo", **base} | fields
    return {key: value for key, value in body.items() if value is not ...}


@pytest.mark.parametrize(("fields", "param"), [case[1:] for case in CASES], ids=lambda _: "")
def test_a_bad_completion_request_names_its_field(
    http: httpx.Client, fields: Body, param: str
) -> None:
    body = body_with(fields, {"prompt": PUZZLE})
    error = assert_error(http.post("/v1/completions", json=body), 400, param)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(("fields", "param"), [case[1:] for case in CHAT_CASES], ids=lambda _: "")
def test_a_bad_chat_request_names_its_field(http: httpx.Client, fields: Body, param: str) -> None:
    body = body_with(fields, {"messages": [{"role": "user", "content": PUZZLE}]})
    assert_error(http.post("/v1/chat/completions", json=body), 400, param)


@pytest.mark.parametrize("name", ["other", "demo:", "demo:guess", ":beam", "demo:beam:beam", ""])
def test_an_unknown_model_is_not_found(http: httpx.Client, name: str) -> None:
    response = http.post("/v1/completions", json={"model": name, "prompt": PUZZLE})
    assert assert_error(response, 404, "model")["code"] == "model_not_found"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"hello", b"\xff\xfe", b'{"prompt": "\\ud800"}', b"[" * 10_000, b"[]", b'"demo"'],
)
def test_a_body_that_is_no_json_object_is_refused(http: httpx.Client, body: bytes) -> None:
    assert_error(http.post("/v1/completions", content=body), 400, None)


def test_a_number_too_long_for_python_names_its_field(http: httpx.Client) -> None:
    body = '{"model": "demo", "prompt": "a", "seed": "x", "n": ' + "1" * 10_000 + "}"
    assert http.post("/v1/completions", content=body.encode()).status_code == 400


def test_not_a_number_is_refused(http: httpx.Client) -> None:
    body = b'{"model": "demo", "prompt": "a", "temperature": NaN}'
    assert_error(http.post("/v1/completions", content=body), 400, "temperature")


def test_the_context_length_is_named(http: httpx.Client) -> None:
    body = {"model": "demo", "prompt": "make 24 " * 50_000}
    error = assert_error(http.post("/v1/completions", json=body), 400, "prompt")
    assert error["code"] == "context_length_exceeded"
    length = http.get("/v1/models/demo").json()["max_model_len"]
    assert str(length) in error["message"]


def test_unknown_routes_and_methods_have_the_same_form(http: httpx.Client) -> None:
    assert_error(http.get("/v1/nothing"), 404, None)
    assert_error(http.get("/v1/completions"), 405, None)
    assert_error(http.post("/v1/models"), 405, None)


def test_the_client_library_understands_the_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="demo", prompt="")
    assert refused.value.param == "prompt"
    assert refused.value.request_id
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt", prompt="a")
    assert missing.value.code == "model_not_found"


async def test_bad_requests_do_not_disturb_a_healthy_one(calls: httpx.AsyncClient) -> None:
    healthy = {"model": "demo", "prompt": PUZZLE, "seed": 7}

    async def post(body: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await calls.post("/v1/completions", content=content)

    alone = await post(healthy)
    bad = [body_with(fields, {"prompt": PUZZLE}) for _, fields, _ in CASES]
    answers = await asyncio.gather(post(healthy), post(b"{"), *map(post, bad))
    assert {answer.status_code for answer in answers[1:]} == {400}
    assert answers[0].status_code == 200
    assert answers[0].json()["choices"] == alone.json()["choices"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_cap_is_refused_while_it_comes_in(narrow: Process, chunked: bool) -> None:
    def parts() -> Any:
        for _ in range(200):
            yield b" " * 10_000

    content = parts() if chunked else b" " * 2_000_000
    response = httpx.post(f"{narrow.url}/v1/completions", content=content, timeout=30)
    assert assert_error(response, 413, None)["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 5}, "n"),
        ({"best_of": 6}, "best_of"),
        ({"logprobs": 4}, "logprobs"),
        ({"max_tokens": 401}, "max_tokens"),
        ({"prompt": ["a", "b", "c"]}, "prompt"),
        ({"prompt": "4 " * 60}, "prompt"),
        ({"search": {"budget": {"simulations": 33}}}, "search.budget.simulations"),
        ({"search": {"budget": {"tokens": 5001}}}, "search.budget.tokens"),
        ({"search": {"budget": {"deadline_ms": 5001}}}, "search.budget.deadline_ms"),
        ({"search": {"budget": {"nodes": 101}}}, "search.budget.nodes"),
        ({"search": {"parallel": 5}}, "search.parallel"),
        ({"search": {"rollouts": {"count": 1000}}}, "search.rollouts.count"),
        ({"search": {"width": {"samples": 6}}}, "search.width.samples"),
        ({"search": {"width": {"beam": 6}}}, "search.width.beam"),
    ],
)
def test_a_cap_names_the_field_and_itself(narrow: Process, fields: Body, param: str) -> None:
    body = {"model": "small", "prompt": PUZZLE} | fields
    response = httpx.post(f"{narrow.url}/v1/completions", json=body, timeout=30)
    error = assert_error(response, 400, param)
    assert error["code"] == "limit_exceeded"
    assert "max_" in error["message"]


def test_a_preset_beyond_the_caps_is_lowered_and_serves(narrow: Process) -> None:
    body = {"model": "small", "prompt": PUZZLE}
    response = httpx.post(f"{narrow.url}/v1/completions", json=body, timeout=30)
    assert response.status_code == 200
    search = response.json()["search"]
    ladder = search["fallback"] or {"at_simulation": search["simulations"]}
    assert ladder["at_simulation"] <= 32


def test_a_long_prompt_is_refused_at_once(http: httpx.Client) -> None:
    began = time.monotonic()
    http.post("/v1/completions", json={"model": "demo", "prompt": "make 24 " * 50_000})
    assert time.monotonic() - began < 10
