"""What a request's body comes to: one query for each of its prompts."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from mcts_core.query import Query, QueryError, Served
from mcts_core.search.parameters import COMMITTING, Method, SearchParameters
from mcts_core.search.work import Sampling
from server.caps import Caps
from server.errors import invalid, of_query
from server.preset import Preset
from server.schemas import ChatRequest, CompletionRequest, GenerationRequest

PromptField = Literal["prompt", "messages"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A request, checked and complete."""

    id: str
    created: int
    """Unix time, seconds."""
    model: str
    """As the client named it."""
    method: Method
    queries: tuple[Query, ...]
    """One for each prompt."""
    prompt_field: PromptField
    """What the endpoint calls its prompt."""
    echoes: tuple[str, ...] = ()
    """The prompts' texts, when the client wants them before the completions."""
    logprobs: bool = False
    include_usage: bool = False

    @property
    def priority(self) -> int:
        """Of all its queries."""
        return self.queries[0].priority

    @property
    def prompt_tokens(self) -> int:
        return sum(len(query.prompt) for query in self.queries)


@dataclass(frozen=True, slots=True)
class _Limit:
    """The request's limit of completion tokens, and the field that it came from."""

    field: str
    value: int | None


class Planner:
    """Checks requests against the served model and the server's caps."""

    def __init__(self, served: Served, preset: Preset, caps: Caps) -> None:
        self._served = served
        self._preset = preset
        self._caps = caps

    def completion(self, request: CompletionRequest, request_id: str) -> Plan:
        """Raises `ApiError`."""
        if request.suffix:
            raise invalid("suffix", "'suffix' is not supported: text is only continued.")
        if request.echo and request.logprobs is not None:
            raise invalid("echo", "'echo' cannot be combined with 'logprobs'.")
        params = self._preset.over(request, request.best_of)
        if request.logprobs is not None:
            self._caps.check("logprobs", request.logprobs, "max_logprobs")
        limit = _Limit("max_tokens", request.max_tokens)
        prompts = self._prompts(request)
        encoded = [tuple(self._encode(prompt)) for prompt in prompts]
        queries = [
            self._query(request, params, ids, limit, request.logprobs, "prompt") for ids in encoded
        ]
        echoes = tuple(map(self._text, prompts)) if request.echo else ()
        return self._plan(
            request, f"cmpl-{request_id}", queries, "prompt", request.logprobs is not None, echoes
        )

    def chat(self, request: ChatRequest, request_id: str) -> Plan:
        """Raises `ApiError`."""
        if request.top_logprobs is not None and not request.logprobs:
            raise invalid("top_logprobs", "'top_logprobs' needs 'logprobs': true.")
        params = self._preset.over(request)
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        if logprobs is not None:
            self._caps.check("top_logprobs", logprobs, "max_logprobs")
        limit = _Limit("max_completion_tokens", request.max_completion_tokens)
        if limit.value is None:
            limit = _Limit("max_tokens", request.max_tokens)
        messages = [message.plain for message in request.messages]
        if not any(message["content"] for message in messages):
            raise invalid("messages", "All messages are empty.")
        try:
            ids = tuple(self._served.tokenizer.chat(messages))
        except QueryError as error:
            raise of_query(error, "messages") from None
        query = self._query(request, params, ids, limit, logprobs, "messages")
        return self._plan(
            request, f"chatcmpl-{request_id}", [query], "messages", bool(request.logprobs)
        )

    def _prompts(self, request: CompletionRequest) -> Sequence[str | list[int]]:
        prompt = request.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return [prompt]
        self._caps.check("prompt", len(prompt), "max_prompts", "prompts")
        if not prompt:
            raise invalid("prompt", "The prompt is empty.")
        return cast("Sequence[str | list[int]]", prompt)

    def _encode(self, prompt: str | list[int]) -> list[int]:
        if not prompt:
            raise invalid("prompt", "The prompt is empty.")
        return self._served.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt

    def _text(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._served.tokenizer.decode(prompt)

    def _query(
        self,
        request: GenerationRequest,
        params: SearchParameters,
        prompt: tuple[int, ...],
        limit: _Limit,
        logprobs: int | None,
        prompt_field: PromptField,
    ) -> Query:
        self._caps.check("n", request.n, "max_n")
        _check_stream(request, params)
        query = Query(
            prompt=prompt,
            search=params,
            sampling=_sampling(request, params, logprobs or 0),
            max_tokens=self._max_tokens(limit, len(prompt), prompt_field),
            stop=request.stop,
            n=request.n,
            priority=request.priority,
            cache_salt=request.cache_salt,
            # A search's tokens are not the answer's before the search is over, or commits them.
            stream=request.stream
            and (params.method in ("sample", "greedy") or params.commits(request.n)),
            progress=request.stream and params.progress,
        )
        try:
            self._served.validate(query)
        except QueryError as error:
            raise of_query(error, prompt_field) from None
        return query

    def _max_tokens(self, limit: _Limit, prompt_tokens: int, prompt_field: PromptField) -> int:
        """The limit, once it is known that the prompt and it fit the model's context."""
        if prompt_tokens == 0:
            raise invalid(prompt_field, "The prompt is empty.")
        context = self._served.context_length
        room = context - prompt_tokens
        if room < 1:
            raise invalid(
                prompt_field,
                f"The prompt has {prompt_tokens} tokens; the model's context length is {context} "
                "tokens, prompt and completion together.",
                "context_length_exceeded",
            )
        if self._caps.limits.max_prompt_tokens is not None:
            self._caps.check(prompt_field, prompt_tokens, "max_prompt_tokens", "tokens")
        if limit.value is None:
            return min(room, self._caps.limits.max_tokens)
        self._caps.check(limit.field, limit.value, "max_tokens")
        if limit.value > room:
            raise invalid(
                limit.field,
                f"The model's context length is {context} tokens; the prompt's {prompt_tokens} "
                f"leave room for {room}, not for {limit.value}.",
                "context_length_exceeded",
            )
        return limit.value

    def _plan(
        self,
        request: GenerationRequest,
        plan_id: str,
        queries: Sequence[Query],
        prompt_field: PromptField,
        logprobs: bool,
        echoes: tuple[str, ...] = (),
    ) -> Plan:
        options = request.stream_options
        if options is not None and not request.stream:
            raise invalid("stream_options", "'stream_options' needs 'stream': true.")
        return Plan(
            id=plan_id,
            created=int(time.time()),
            model=request.model,
            method=queries[0].search.method,
            queries=tuple(queries),
            prompt_field=prompt_field,
            echoes=echoes,
            logprobs=logprobs,
            include_usage=options is not None and options.include_usage is True,
        )


def _check_stream(request: GenerationRequest, params: SearchParameters) -> None:
    """Refuses what the request's own `search` asks for in vain. Raises `ApiError`."""
    search = request.search
    if search is None:
        return
    if search.progress and not request.stream:
        raise invalid("search.progress", "'search.progress' needs 'stream': true.")
    if search.commit and params.method not in COMMITTING:
        raise invalid(
            "search.commit",
            f"'search.commit' is for {', '.join(sorted(COMMITTING))}; '{params.method}' has no "
            "steps to settle one by one. Leave it out.",
        )
    if search.commit and request.n > 1:
        raise invalid(
            "search.commit",
            f"'search.commit' settles one trajectory, and 'n' is {request.n}: set 'n' to 1, or "
            "leave 'search.commit' out.",
        )
    if search.commit and params.readout == "vote":
        raise invalid(
            "search.commit",
            "'search.commit' does not go with 'search.readout' \"vote\", which compares whole "
            "answers: use another readout.",
        )


def _sampling(request: GenerationRequest, params: SearchParameters, logprobs: int) -> Sampling:
    """How tokens are drawn. The searches expand at `search.temperature` and `search.min_p`;
    `sample` follows OpenAI's and vLLM's fields and their defaults, unless the request's own
    `search` says otherwise."""
    temperature, min_p = params.temperature, params.min_p
    if params.method == "greedy":
        temperature = 0.0
    elif params.method == "sample":
        search = request.search
        if search is None or "temperature" not in search.model_fields_set:
            temperature = 1.0 if request.temperature is None else request.temperature
        if search is None or "min_p" not in search.model_fields_set:
            min_p = request.min_p or 0.0
    return Sampling(
        temperature=temperature,
        top_k=max(0, request.top_k),
        top_p=request.top_p,
        min_p=min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=tuple((int(token), bias) for token, bias in request.logit_bias.items()),
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        logprobs=logprobs,
    )
