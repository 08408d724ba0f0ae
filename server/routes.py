"""The routes. They know HTTP and OpenAI's API; what is searched for is in the plan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcts_core.query import QueryError, Served
from mcts_core.search.search import SearchFailed
from server.admission import Admission, QueueFull
from server.caps import Caps
from server.chat_form import ChatForm
from server.completion_form import CompletionForm
from server.errors import ApiError, invalid, of_query, of_search, of_validation, unavailable
from server.exchange import Exchange, read_body, while_connected
from server.form import Form
from server.generation import Answer, Generation, Piece, note_failure
from server.metrics import Metrics
from server.model import ServedModel
from server.plan import Plan, Planner
from server.preset import Preset
from server.responses import Model, Models, json_of
from server.schemas import ChatRequest, CompletionRequest, GenerationRequest
from server.settings import Settings
from server.streaming import EventStream

R = TypeVar("R", bound=GenerationRequest)
_LARGE_BODY = 32 * 1024
"""Bytes from which a body is parsed and tokenized in a thread, and not between other answers."""


@dataclass(frozen=True, slots=True)
class Api:
    """What the routes work with."""

    settings: Settings
    model: ServedModel
    admission: Admission
    metrics: Metrics
    created: int
    """When the server started: Unix time, seconds."""

    async def generate(
        self,
        request: Request,
        schema: type[R],
        plan_of: Callable[[Planner, R, str], Plan],
        form_of: Callable[[Plan, Served], Form],
    ) -> Response:
        """The way of every generating request, whichever form its answer has."""
        exchange = Exchange.of(request)
        body = await read_body(request, self.settings.max_body_bytes)
        served = self._served()

        def prepare() -> tuple[R, Plan]:
            try:
                parsed = schema.model_validate_json(body, strict=True)
            except ValidationError as error:
                raise of_validation(error, body) from None
            caps = Caps(self.settings)
            planner = Planner(served, Preset(served, caps), caps)
            return parsed, plan_of(planner, parsed, exchange.id)

        large = len(body) > _LARGE_BODY
        parsed, plan = await asyncio.to_thread(prepare) if large else prepare()
        exchange.method = plan.method
        if len(plan.queries) > self.admission.capacity:
            raise invalid("prompt", "There are more prompts than this server's queue can hold.")
        generation = Generation(served, self.metrics, plan)
        form = form_of(plan, served)
        if parsed.stream:
            return EventStream(
                plan,
                form,
                generation,
                self.admission,
                self.metrics,
                exchange,
                self.settings.keep_alive_seconds,
            )
        work = self._answers(plan, generation, exchange)
        answers = await while_connected(request.receive, self.metrics, work)
        self.metrics.first_text(exchange.seconds)
        return Response(json_of(form.whole(answers)), media_type="application/json")

    async def _answers(
        self, plan: Plan, generation: Generation, exchange: Exchange
    ) -> list[Answer]:
        answers: list[Answer] = []

        def keep(event: Piece | Answer) -> None:
            if isinstance(event, Answer):
                answers.append(event)

        try:
            with self.admission.admit(len(plan.queries), plan.priority) as tickets:
                await generation.run(tickets, keep)
        except SearchFailed as failure:
            note_failure(failure, exchange.id)
            raise of_search(failure, exchange.id, plan.prompt_field) from failure
        except QueryError as error:
            raise of_query(error, plan.prompt_field) from None
        return sorted(answers, key=lambda answer: answer.prompt)

    def _served(self) -> Served:
        try:
            return self.model.get()
        except ApiError as error:
            self.metrics.rejected(str(error.code))
            raise

    def models(self) -> list[Model]:
        served = self.model.get()
        return [
            Model(
                id=name,
                object="model",
                created=self.created,
                owned_by="mcts-serve",
                max_model_len=served.context_length,
                parameters=dict(served.parameters),
                limits=Caps(self.settings).search_limits,
            )
            for name in Preset(served, Caps(self.settings)).model_names
        ]

    async def answer_queue_full(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, QueueFull)
        self.metrics.rejected("queue_full")
        message = "The queue is full; come again later."
        return unavailable(message, "queue_full", error.retry_after).response


def build_router(api: Api) -> APIRouter:
    """All routes over one `Api`."""
    router = APIRouter()

    @router.post("/v1/completions")
    async def completions(request: Request) -> Response:
        """The best trajectories that a search finds after a prompt."""
        return await api.generate(
            request,
            CompletionRequest,
            Planner.completion,
            lambda plan, served: CompletionForm(plan, served.tokenizer),
        )

    @router.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        """The best trajectories that a search finds after a conversation."""
        return await api.generate(
            request,
            ChatRequest,
            Planner.chat,
            lambda plan, served: ChatForm(plan, served.tokenizer),
        )

    @router.get("/v1/models")
    async def models() -> Response:
        """The served model with its preset, and with each of its methods."""
        body = json_of(Models(object="list", data=api.models()))
        return Response(body, media_type="application/json")

    @router.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> Response:
        """One of the models of the list."""
        Preset(api.model.get(), Caps(api.settings)).method_of(model_id)
        found = next(each for each in api.models() if each.id == model_id)
        return Response(json_of(found), media_type="application/json")

    @router.get("/health")
    async def health() -> Response:
        """Liveness: 503 once the engine's thread has stopped or has been silent for too long.

        A long queue is no reason, and neither is a model that is still being loaded.
        """
        gauges = api.model.gauges
        silent = 0.0 if gauges is None else gauges.heartbeat_age_seconds
        alive = gauges is None or gauges.alive
        well = alive and silent <= api.settings.heartbeat_seconds and api.model.phase != "failed"
        body = {"status": "ok" if well else "engine_stopped", "heartbeat_age_seconds": silent}
        return JSONResponse(body, 200 if well else 503)

    @router.get("/ready")
    async def ready() -> Response:
        """Readiness: 503 while the model is being loaded and while the server drains."""
        model = api.model
        body = {"status": model.phase, "stage": model.stage, "progress": round(model.share, 3)}
        if model.phase == "ready":
            return JSONResponse({"status": "ready", "model": api.settings.name})
        return JSONResponse(body, 503, {"Retry-After": "2"})

    @router.api_route("/metrics", methods=["GET", "HEAD"])
    async def metrics(request: Request) -> Response:
        """The metrics, in Prometheus' text format or in OpenMetrics'."""
        body, content_type = api.metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    return router
