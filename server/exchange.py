"""One HTTP exchange: its id, its client, and what is counted about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError, ClientGone, internal, stopping
from server.metrics import Metrics

T = TypeVar("T")
_log = structlog.get_logger(__name__)
_QUIET = {"/health", "/ready", "/metrics"}
"""Asked for every few seconds by machines."""
_DISCARD_BYTES = 256 * 2**20
_DISCARD_SECONDS = 10.0

CLIENT_GONE = 499
"""The status, in metrics and log only, of a request whose client left (nginx's number)."""


@dataclass(slots=True)
class Exchange:
    """What the layers of the server tell each other about one request."""

    id: str = field(default_factory=lambda: uuid4().hex)
    arrived: float = field(default_factory=time.monotonic)
    method: str = ""
    """The search method; empty while none is known."""
    status: int = 0
    """As it is counted: an error after the headers of a stream has one of its own."""
    gone: bool = False
    """The client left before the end."""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.arrived

    @staticmethod
    def of(request: Request) -> Exchange:
        exchange = request.scope["state"]["exchange"]
        assert isinstance(exchange, Exchange)
        return exchange


class Exchanges:
    """ASGI middleware: names, times, counts and logs every request, and answers for crashes."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange()
        scope["state"] = {**scope.get("state", {}), "exchange": exchange}

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
                message["headers"] = [*headers, (b"x-request-id", exchange.id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, named)
        except (ClientGone, ClientDisconnect):
            exchange.gone = True
        except asyncio.CancelledError:
            # The server stops, and this request has had its time.
            if not exchange.status:
                await stopping().response(scope, receive, named)
            exchange.status = 503
            raise
        except Exception:
            _log.exception("request failed", request=exchange.id)
            if exchange.status:
                raise  # Too late for an answer: the server cuts the connection.
            await internal(exchange.id).response(scope, receive, named)
        finally:
            self._close(exchange, scope)

    def _close(self, exchange: Exchange, scope: Scope) -> None:
        endpoint = getattr(scope.get("route"), "path", "other")
        status = CLIENT_GONE if exchange.gone else exchange.status
        seconds = exchange.seconds
        self._metrics.answered(endpoint, status, exchange.method, seconds)
        say = _log.debug if endpoint in _QUIET else _log.info
        say(
            "request",
            id=exchange.id,
            route=f"{scope['method']} {endpoint}",
            status=status,
            method=exchange.method or None,
            ms=round(seconds * 1000),
        )


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises `ApiError` (413) above `limit` bytes, declared or not."""
    declared = request.headers.get("content-length", "0")
    parts: list[bytes] = []
    size = int(declared) if declared.isdecimal() else 0
    if size <= limit:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                break
            parts.append(part)
        else:
            return b"".join(parts)
    if "100-continue" not in request.headers.get("expect", ""):
        await _discard(request)
    raise ApiError(
        413,
        f"The body is larger than {limit} bytes (this server's setting 'max_body_bytes').",
        code="body_too_large",
        headers={"Connection": "close"},
    )


async def _discard(request: Request) -> None:
    """Reads on, within reason: a client that is still sending would not see the answer."""
    size = 0
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while size < _DISCARD_BYTES:
                message = await request.receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


async def while_connected(receive: Receive, metrics: Metrics, work: Coroutine[Any, Any, T]) -> T:
    """Does the work of a request whose body has been read; cancels it when the client leaves.

    Raises `ClientGone`, and what `work` raises.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_departure(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        metrics.cancelled("client_disconnect")
        raise ClientGone
    except asyncio.CancelledError:
        metrics.cancelled("shutdown")
        raise
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
