"""Wires one server together. Nothing is shared between two of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from server.admission import Admission, QueueFull
from server.description import describe
from server.errors import ApiError, answer_api_error, answer_http_exception
from server.exchange import Exchanges
from server.metrics import Metrics
from server.model import Load, ServedModel, Watcher
from server.routes import Api, build_router
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class Server:
    """An ASGI application and the model that it will serve."""

    app: FastAPI
    model: ServedModel
    admission: Admission


def build(settings: Settings, load: Load, watcher: Watcher | None = None) -> Server:
    """A server that begins to load its model when its lifespan starts, and answers meanwhile."""
    admission = Admission(settings.max_running, settings.max_waiting)
    model = ServedModel(load, watcher or Watcher())
    metrics = Metrics(settings.name, admission, model)
    api = Api(settings, model, admission, metrics, created=int(time.time()))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        model.start()
        yield
        await model.close()

    app = FastAPI(
        title="mcts-serve",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
        exception_handlers={
            ApiError: answer_api_error,
            QueueFull: api.answer_queue_full,
            HTTPException: answer_http_exception,
        },
    )
    app.include_router(build_router(api))
    app.add_middleware(Exchanges, metrics=metrics)
    describe(app)
    return Server(app, model, admission)
