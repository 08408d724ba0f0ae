"""Server-sent events: text as it is decided, progress or comments while a search works."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

import structlog
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mcts_core.query import ProgressEvent, QueryError, TokenEvent
from mcts_core.search.search import SearchFailed, Trajectory
from mcts_core.search.work import TokenLogprob
from server.admission import Admission, Ticket
from server.errors import ApiError, ClientGone, internal, of_query, of_search, stopping
from server.exchange import Exchange, while_connected
from server.form import Form
from server.generation import Answer, Generation, Piece, note_failure
from server.metrics import Metrics
from server.plan import Plan
from server.responses import json_of
from server.search_report import progress

_log = structlog.get_logger(__name__)
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Chunks:
    """Turns a generation's events into chunks, and sees that each choice's are complete."""

    def __init__(self, plan: Plan, form: Form) -> None:
        self._form = form
        self._logprobs = plan.logprobs
        self._choices_each = plan.queries[0].n
        self._sent: dict[int, str] = {}
        self._tokens_sent: dict[int, int] = {}
        self._held: dict[int, list[TokenLogprob]] = {}
        self.answers: list[Answer] = []

    @property
    def have_text(self) -> bool:
        """Some text has been sent."""
        return any(self._sent.values())

    def of(self, event: Piece | Answer) -> Iterator[BaseModel]:
        if isinstance(event, Piece):
            index, news = event.prompt * self._choices_each, event.event
            if isinstance(news, TokenEvent):
                yield from self._text(index + news.choice, news.text, news.logprobs)
            else:
                yield from self._open(index)
                yield self._form.progress(index, progress(news))
            return
        self.answers.append(event)
        last = len(event.trajectories) - 1
        for rank, trajectory in enumerate(event.trajectories):
            index = event.prompt * self._choices_each + rank
            yield from self._rest(index, trajectory)
            report = event.report if rank == last else None
            yield self._form.closing(index, trajectory.finish_reason, report)

    def _rest(self, index: int, trajectory: Trajectory) -> Iterator[BaseModel]:
        """What was not sent token by token: nothing, or the whole text, line by line."""
        sent = self._sent.get(index, "")
        if not trajectory.text.startswith(sent):
            raise RuntimeError("the streamed tokens are not those of the trajectory")
        rest = trajectory.text[len(sent) :]
        if self._logprobs:
            logprobs = trajectory.logprobs[self._tokens_sent.get(index, 0) :]
            yield from self._text(index, rest, logprobs, final=True)
            return
        for line in rest.splitlines(keepends=True):
            yield from self._text(index, line, ())
        yield from self._open(index)

    def _text(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob], *, final: bool = False
    ) -> Iterator[BaseModel]:
        yield from self._open(index)
        self._tokens_sent[index] = self._tokens_sent.get(index, 0) + len(logprobs)
        held = [*self._held.pop(index, ()), *logprobs]
        if not text and not (final and self._logprobs and held):
            # A token whose text is not settled yet, in the middle of a character or a stop string.
            self._held[index] = held
            return
        self._sent[index] += text
        yield self._form.text(index, text, held)

    def _open(self, index: int) -> Iterator[BaseModel]:
        if index not in self._sent:
            self._sent[index] = ""
            opening = self._form.opening(index)
            if opening is not None:
                yield opening


class Feed:
    """Events on their way to a reader who may be slow.

    Texts wait for him: there is no more of them than of the answer. News of a search's progress
    goes out of date: of those that wait, only a prompt's latest is kept. So what waits is bounded
    by the request, and whoever writes never does.
    """

    def __init__(self) -> None:
        self._events: deque[Piece | Answer] = deque()
        self._news = asyncio.Event()
        self._closed = False

    def put(self, event: Piece | Answer) -> None:
        if isinstance(event, Piece) and isinstance(event.event, ProgressEvent):
            for waiting in self._events:
                if (
                    isinstance(waiting, Piece)
                    and waiting.prompt == event.prompt
                    and isinstance(waiting.event, ProgressEvent)
                ):
                    self._events.remove(waiting)
                    break
        self._events.append(event)
        self._news.set()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._news.set()

    async def get(self) -> Piece | Answer | None:
        """The next event; None after the last."""
        while not self._events and not self._closed:
            self._news.clear()
            await self._news.wait()
        return self._events.popleft() if self._events else None

    def __len__(self) -> int:
        """Events that wait."""
        return len(self._events)


class EventStream(Response):
    """The streamed answer of one request."""

    def __init__(
        self,
        plan: Plan,
        form: Form,
        generation: Generation,
        admission: Admission,
        metrics: Metrics,
        exchange: Exchange,
        keep_alive_seconds: float,
    ) -> None:
        super().__init__()
        self._plan = plan
        self._form = form
        self._generation = generation
        self._admission = admission
        self._metrics = metrics
        self._exchange = exchange
        self._keep_alive_seconds = keep_alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Admitted before the headers are out: a full queue is still a plain 503.
        with self._admission.admit(len(self._plan.queries), self._plan.priority) as tickets:
            start = {"type": "http.response.start", "status": 200, "headers": _HEADERS}
            await send(start)
            try:
                await while_connected(receive, self._metrics, self._send(tickets, send))
            except asyncio.CancelledError:
                last = f"data: {json.dumps(stopping().body)}\n\ndata: [DONE]\n\n"
                await send({"type": "http.response.body", "body": last.encode()})
                raise

    async def _send(self, tickets: Sequence[Ticket], send: Send) -> None:
        async def write(text: str, more: bool = True) -> None:
            body = {"type": "http.response.body", "body": text.encode(), "more_body": more}
            try:
                await send(body)
            except OSError:
                raise ClientGone from None

        chunks = Chunks(self._plan, self._form)
        begun = False
        try:
            async with aclosing(self._events(tickets)) as events:
                async for event in events:
                    if event is None:
                        await write(": keep-alive\n\n")
                        continue
                    for chunk in chunks.of(event):
                        await write(f"data: {json_of(chunk)}\n\n")
                        if not begun and chunks.have_text:
                            begun = True
                            self._metrics.first_text(self._exchange.seconds)
            if self._plan.include_usage:
                await write(f"data: {json_of(self._form.usage(chunks.answers))}\n\n")
        except Exception as error:
            if isinstance(error, ClientGone):
                raise
            answer = self._api_error(error)
            self._exchange.status = answer.status
            await write(f"data: {json.dumps(answer.body)}\n\n")
        await write("data: [DONE]\n\n", more=False)

    async def _events(
        self, tickets: Sequence[Ticket]
    ) -> AsyncGenerator[Piece | Answer | None, None]:
        """The generation's events, and None after every silence that calls for a comment."""
        feed = Feed()
        run = asyncio.create_task(self._generation.run(tickets, feed.put))
        run.add_done_callback(lambda _: feed.close())
        try:
            while True:
                try:
                    async with asyncio.timeout(self._keep_alive_seconds):
                        event = await feed.get()
                except TimeoutError:
                    yield None
                    continue
                if event is None:
                    break
                yield event
            await run
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)

    def _api_error(self, error: Exception) -> ApiError:
        """The status is out already; the form is the same."""
        if isinstance(error, SearchFailed):
            note_failure(error, self._exchange.id)
            return of_search(error, self._exchange.id, self._plan.prompt_field)
        if isinstance(error, QueryError):
            return of_query(error, self._plan.prompt_field)
        if isinstance(error, ApiError):
            return error
        _log.exception("stream failed", request=self._exchange.id)
        return internal(self._exchange.id)
