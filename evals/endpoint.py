"""The endpoint under evaluation: an mcts-serve server, over a socket or within this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from evals.errors import EvalError

_RETRIED = (429, 503)
_LONGEST_PAUSE = 30.0
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
"""Seconds; as much as a server may set for a request's deadline."""


@dataclass(frozen=True, slots=True)
class Served:
    """What `GET /v1/models` says of the model."""

    name: str
    parameters: Mapping[str, int]
    limits: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    seconds: float
    report: Mapping[str, Any]
    """The response's `search`."""


class RequestFailed(Exception):
    """One request came to nothing; others may do better."""


def over_http(url: str) -> httpx.AsyncClient:
    """A client for the server at `url`, which may end in /v1. Raises `EvalError`."""
    if not url.startswith(("http://", "https://")):
        raise EvalError(f"{url!r} is not the address of a server (--url)")
    return httpx.AsyncClient(
        base_url=url.rstrip("/").removesuffix("/v1"),
        timeout=_TIMEOUT,
        limits=httpx.Limits(max_connections=None),
    )


class Endpoint:
    """Asks for completions; comes again when the server is busy."""

    def __init__(
        self, client: httpx.AsyncClient, *, chat: bool = False, retries: int = 8, pause: float = 0.5
    ) -> None:
        """`client` has the server as its base URL, without the `/v1`. `pause`: seconds before the
        first retry, doubled each time, unless the server names a time."""
        self._client = client
        self._chat = chat
        self._retries = retries
        self._pause = pause

    async def served(self, name: str | None = None) -> Served:
        """The model `name`, or the server's first one. Raises `EvalError`."""
        try:
            response = await self._send("GET", "/v1/models")
        except RequestFailed as error:
            raise EvalError(f"no server answers at {self._client.base_url}: {error}") from None
        if response.status_code != 200:
            raise EvalError(f"the server does not list its models: {_message(response)}")
        try:
            models = {model["id"]: model for model in response.json()["data"]}
        except (ValueError, KeyError, TypeError):
            raise EvalError("this server is none of OpenAI's API: it lists no models") from None
        name = next(iter(models)) if name is None else name
        if name not in models:
            raise EvalError(f"no model {name!r}; there are {', '.join(models)} (--name)")
        model = models[name]
        if "parameters" not in model:
            raise EvalError("this server is no mcts-serve of this version: it names no parameters")
        return Served(name, model["parameters"], model["limits"])

    async def ask(
        self, model: str, prompt: str, search: Mapping[str, Any], **fields: Any
    ) -> Answer:
        """Raises `RequestFailed`; `EvalError` when no request can do any better."""
        # A salt of its own: what earlier requests have computed makes this one no cheaper.
        salt = uuid4().hex
        body = {"cache_salt": salt, **fields, "model": model, "search": search}
        if self._chat:
            path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": prompt}]
        else:
            path, body["prompt"] = "/v1/completions", prompt
        response = await self._send("POST", path, body)
        if response.status_code == 200:
            content = response.json()
            choice = content["choices"][0]
            text = choice["message"]["content"] if self._chat else choice["text"]
            seconds = response.extensions["seconds"]
            return Answer(text, seconds, content["search"])
        message = _message(response)
        if response.status_code == 400 and not _is_items(response):
            raise EvalError(f"the server refuses the request: {message}")
        if response.status_code in (401, 403, 404):
            raise EvalError(f"the server refuses the request: {message}")
        raise RequestFailed(message)

    async def _send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        for attempt in range(self._retries + 1):
            pause = min(_LONGEST_PAUSE, self._pause * 2**attempt)
            began = time.perf_counter()
            try:
                response = await self._client.request(method, path, json=body)
            except httpx.ConnectError as error:
                if attempt == self._retries:
                    where = self._client.base_url
                    raise EvalError(f"no server answers at {where}: {error} (--url)") from None
            except httpx.HTTPError as error:
                if attempt == self._retries or isinstance(error, httpx.ReadTimeout):
                    raise RequestFailed(f"{type(error).__name__}: {error}") from None
            else:
                response.extensions["seconds"] = time.perf_counter() - began
                if response.status_code not in _RETRIED or attempt == self._retries:
                    return response
                pause = max(pause, _retry_after(response))
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _is_items(response: httpx.Response) -> bool:
    """Whether a refusal is about this prompt and not about all requests."""
    error = _error(response)
    return error.get("param") in ("prompt", "messages", "max_tokens", "max_completion_tokens") or (
        error.get("code") == "context_length_exceeded"
    )


def _error(response: httpx.Response) -> dict[str, Any]:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def _message(response: httpx.Response) -> str:
    return f"{response.status_code}: {_error(response).get('message') or response.reason_phrase}"


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(_LONGEST_PAUSE, float(response.headers.get("retry-after", 0)))
    except ValueError:  # A date, as HTTP allows.
        return 0.0
