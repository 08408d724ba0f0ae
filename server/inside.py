"""A server within this process, without a socket: the same application, asked through ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from server.app import build
from server.loading import loader_of
from server.model import Watcher
from server.settings import Settings, SettingsError

UNCAPPED = {
    "max_spent_tokens": 10**9,
    "max_simulations": 10**9,
    "max_nodes": 10**9,
    "max_best_of": 10**6,
    "max_deadline_ms": 599_999.0,
}
"""Settings for a server that has nobody else to protect."""


@asynccontextmanager
async def inside(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server of `settings`, once its model is loaded.

    Raises `SettingsError`."""
    loading: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    watcher = Watcher(
        ready=lambda _: loading.set_result(None), failed=lambda error: loading.set_exception(error)
    )
    server = build(settings, loader_of(settings), watcher)
    async with server.app.router.lifespan_context(server.app):
        try:
            await loading
        except Exception as error:
            message = " ".join(str(error).split()) or type(error).__name__
            raise SettingsError(f"cannot load the model '{settings.model}': {message}") from error
        transport = httpx.ASGITransport(app=server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://inside") as client:
            yield client
