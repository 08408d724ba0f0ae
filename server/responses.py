"""The response bodies. A field with a default is only sent when it was set: see `json_of`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

Finish = Literal["stop", "length"]


def json_of(body: BaseModel) -> str:
    """A body as JSON: fields that were set to None are sent as null, others are left out."""
    return body.model_dump_json(exclude_unset=True)


class Count(BaseModel):
    """Tokens of one kind of model."""

    computed: int
    """Tokens that went through the model for this search."""
    cached: int
    """Tokens of context whose KV was found along the tree instead."""


class Tokens(BaseModel):
    """`spent` is the sum of the three `computed`."""

    returned: int
    spent: int
    policy: Count
    rollout: Count
    critics: Count
    critic: dict[str, Count]
    """`critics` by name: those with a model of their own; a head on the policy's computes none."""


class Kv(BaseModel):
    blocks_peak: int
    """Most KV blocks held at once, over all models' pools."""
    shared_ratio: float
    """Share of those that is not stored again for each state that needs it."""


class Times(BaseModel):
    """Milliseconds."""

    queue: float
    first_simulation: float | None
    search: float
    model: float


class FellBack(BaseModel):
    to: str
    reason: str
    at_simulation: int


class Candidate(BaseModel):
    """A trajectory that the search found."""

    text: str
    tokens: int
    finish_reason: Finish
    score: float | None
    scores: dict[str, float]


class RootChild(BaseModel):
    """An option at the root."""

    text: str
    visits: int
    value: float
    prior: float
    scores: dict[str, float]


class Spent(BaseModel):
    spent: int
    """Tokens computed by all models so far."""


class Elapsed(BaseModel):
    """Milliseconds."""

    search: float


class SearchProgress(BaseModel):
    """The `search` object of a chunk that only says how far the search is: a part of the report
    that comes last, under the same names."""

    simulations: int
    score: float | None
    """Of the best finished trajectory so far; null before the first."""
    tokens: Spent
    time_ms: Elapsed


class SearchReport(BaseModel):
    """The `search` object of a response. Every figure is counted, none is estimated."""

    id: str
    method: str
    """The method that the returned trajectory came from."""
    requested_method: str
    stop_reason: str
    fallback: FellBack | None
    """None when the requested method itself finished."""
    score: float | None
    """The mixed score of the best trajectory."""
    scores: dict[str, float]
    readout: str
    simulations: int
    nodes: int
    terminals: int
    depth: int
    merged: int
    tokens: Tokens
    kv: Kv
    time_ms: Times
    candidates: list[Candidate]
    root: list[RootChild]
    tree: list[dict[str, Any]] | None


class PromptTokensDetails(BaseModel):
    cached_tokens: int
    """Prompt tokens whose KV an earlier request had left."""


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    """Tokens that the client sees; what the search has spent stands in `search.tokens`."""
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish | None
    search: SearchReport | SearchProgress | None = None
    """Set when the request had several prompts: each prompt is a search of its own."""


class Completion(BaseModel):
    """The answer of `POST /v1/completions`, and one chunk of it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    search: SearchReport | SearchProgress | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[ChatTokenLogprob]
    refusal: None


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatCompletion(BaseModel):
    """The answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    search: SearchReport


class ChatDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    search: SearchReport | SearchProgress | None = None


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    """Context length in tokens (vLLM's field)."""
    parameters: dict[str, int]
    """Of the policy, the rollout model and each critic with a model of its own."""
    limits: dict[str, float]
    """The most that a request's `search` may ask for, by field, such as `budget.tokens`."""


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """Every error of this server."""

    error: ErrorDetail
