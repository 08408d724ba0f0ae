"""Runs a request's searches: the queue, the engine, the counting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog

from mcts_core.query import ProgressEvent, Query, Reply, Served, TokenEvent
from mcts_core.search.search import SearchFailed, Trajectory
from server.admission import Ticket
from server.metrics import Metrics
from server.plan import Plan
from server.responses import PromptTokensDetails, SearchReport, Usage
from server.search_report import report


@dataclass(frozen=True, slots=True)
class Answer:
    """What one prompt's search came back with."""

    prompt: int
    """Index of the prompt in the request."""
    trajectories: tuple[Trajectory, ...]
    report: SearchReport
    cached_tokens: int
    """Of the prompt."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one choice, as soon as they are decided; or how far the search is."""

    prompt: int
    event: TokenEvent | ProgressEvent


_log = structlog.get_logger(__name__)

Emit = Callable[[Piece | Answer], None]


class Generation:
    """Searches for the answers of one plan."""

    def __init__(self, served: Served, metrics: Metrics, plan: Plan) -> None:
        self._served = served
        self._metrics = metrics
        self._plan = plan

    async def run(self, tickets: Sequence[Ticket], emit: Emit) -> None:
        """Runs all searches at once and emits their events as they come, one ticket a search.

        Cancelling it cancels the searches. Raises `SearchFailed` or `QueryError`, whichever search
        is the first to fail; the others are then cancelled.
        """
        tasks = [
            asyncio.create_task(self._search(index, query, ticket, emit))
            for index, (query, ticket) in enumerate(zip(self._plan.queries, tickets, strict=True))
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _search(self, prompt: int, query: Query, ticket: Ticket, emit: Emit) -> None:
        try:
            waited = await self._wait(query, ticket)
            async with aclosing(self._served.search(_less(query, waited))) as events:
                async for event in events:
                    if isinstance(event, Reply):
                        emit(self._answer(prompt, event, waited))
                    else:
                        emit(Piece(prompt, event))
        except SearchFailed as failure:
            self._metrics.failed(failure)
            raise
        finally:
            # Another search need not wait until this request's other prompts are done.
            ticket.give_back()

    async def _wait(self, query: Query, ticket: Ticket) -> float:
        """Waits for the search's turn, until its deadline at most; returns the seconds waited."""
        deadline = query.search.budget.deadline_ms
        try:
            async with asyncio.timeout(None if deadline is None else deadline / 1000):
                return await ticket.turn()
        except TimeoutError:
            raise SearchFailed(
                "deadline", "The deadline passed while the request waited for its turn."
            ) from None

    def _answer(self, prompt: int, reply: Reply, waited: float) -> Answer:
        query = self._plan.queries[prompt]
        self._metrics.searched(reply, len(query.prompt), waited)
        suffix = f"-{prompt}" if len(self._plan.queries) > 1 else ""
        search_id = f"search-{self._plan.id.partition('-')[2]}{suffix}"
        return Answer(
            prompt,
            reply.result.trajectories,
            report(reply, search_id, waited),
            reply.account.prompt_cached or 0,
        )


def note_failure(failure: SearchFailed, request_id: str) -> None:
    """Logs a search that has nothing to return, under the id that the client was given."""
    _log.warning("search failed", request=request_id, reason=failure.reason, message=str(failure))


def usage(plan: Plan, answers: Sequence[Answer]) -> Usage:
    """OpenAI's usage: the tokens that the client sees."""
    returned = sum(answer.report.tokens.returned for answer in answers)
    return Usage(
        prompt_tokens=plan.prompt_tokens,
        completion_tokens=returned,
        total_tokens=plan.prompt_tokens + returned,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=sum(answer.cached_tokens for answer in answers)
        ),
    )


def _less(query: Query, waited: float) -> Query:
    """The query with what is left of its deadline, which began with the request's admission."""
    budget = query.search.budget
    if budget.deadline_ms is None or waited == 0:
        return query
    left = max(1.0, budget.deadline_ms - waited * 1000)
    search = query.search.model_copy(
        update={"budget": budget.model_copy(update={"deadline_ms": left})}
    )
    return replace(query, search=search)
