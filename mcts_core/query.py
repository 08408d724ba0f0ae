"""What passes between the server and a served model: a query in, events and a reply out.

The server knows HTTP and no tensor; a served model knows tensors and no HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

from mcts_core.search.parameters import Method, SearchParameters
from mcts_core.search.search import SearchResult
from mcts_core.search.work import Account, Sampling, TokenLogprob


@dataclass(frozen=True, slots=True)
class Query:
    """One searched completion of one prompt."""

    prompt: tuple[int, ...]
    """Token ids; at least one."""
    search: SearchParameters
    """Complete: the request's fields laid over the preset."""
    sampling: Sampling
    max_tokens: int
    """Limit of a trajectory's completion tokens."""
    stop: tuple[str, ...] = ()
    n: int = 1
    """How many distinct trajectories to return (independent samples for `sample`)."""
    priority: int = 0
    """Queries of a lower number are computed first. It never changes a result."""
    cache_salt: str | None = None
    """Only queries with the same salt share the KV of what their prompts have in common."""
    stream: bool = False
    """Announce tokens as they are decided, where the method can: `sample` and `greedy`, and steps
    that a search commits."""
    progress: bool = False
    """Announce now and then how far the search is."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """Newly decided tokens of one choice; texts join to the choice's final text."""

    choice: int
    text: str
    """May be empty while a stop string or a character is incomplete."""
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far the search is; told when simulations have ended since the last, at a bounded rate."""

    simulations: int
    spent: int
    """Tokens computed by all models."""
    score: float | None
    """Of the best finished trajectory so far; None before the first that was scored."""
    search_seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """The finished search and what it has cost."""

    result: SearchResult
    account: Account
    queue_seconds: float
    """From submission to the engine's first look at it."""
    search_seconds: float


Event = TokenEvent | ProgressEvent | Reply
"""A query's events: any number of the first two, then exactly one `Reply`."""


@dataclass(frozen=True, slots=True)
class PoolGauge:
    """KV blocks of one model's pool: `free + held + cached == total`."""

    total: int
    free: int
    held: int
    cached: int
    """Nobody refers to them; they hold beginnings of prompts that may come again."""
    found_tokens: int
    """Tokens whose KV was found by their prompt's beginning, since the start."""
    tokens: int
    """That the pool has room for."""
    bytes: int
    """Memory of the pool."""


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """A snapshot for the metrics; cheap, and safe from any thread."""

    waiting: int
    """Queries that the engine has not yet begun."""
    running: int
    pools: Mapping[str, PoolGauge]
    """By model: "policy", "rollout", or a critic's name."""
    steps: int
    """Engine steps since the start."""
    step_seconds: float
    """Their wall time in all."""
    step_rows: int
    """Their rows in all."""
    attention: str
    """Name of the attention backend."""
    kv_blocks_read: int
    """KV blocks that attention fetched, counted once for each layer."""
    kv_blocks_attended: int
    """What it would have fetched if rows did not share the reading."""
    last_rows: int
    heartbeat_age_seconds: float
    """Since the engine thread last came round; it comes round when idle, too."""
    alive: bool


class QueryError(ValueError):
    """The query cannot be served as it is.

    `field` names the request's field in the API's own words, such as "prompt" or
    "search.critics.foo".
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Tokenizer(Protocol):
    """Text and token ids; thread-safe."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: list[int]) -> str: ...

    def token_text(self, token: int) -> str:
        """One token's text, for logprobs."""

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Applies the model's chat template. Raises `QueryError` when it has none or refuses."""


class Served(Protocol):
    """A served model: weights, tokenizer, critics and preset, and the engine that runs them."""

    @property
    def name(self) -> str: ...

    @property
    def preset(self) -> SearchParameters: ...

    @property
    def methods(self) -> tuple[Method, ...]:
        """Methods that can be asked for as `NAME:METHOD`."""

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and completion together."""

    @property
    def parameters(self) -> Mapping[str, int]:
        """Parameters of each model that computes tokens: "policy", "rollout", and critics with a
        model of their own by name, their heads included."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def validate(self, query: Query) -> None:
        """Raises `QueryError` when the query cannot be served as it is."""

    def search(self, query: Query) -> AsyncGenerator[Event, None]:
        """Runs a query. Closing the generator (or cancelling its task) cancels the search at the
        engine's next step and gives all of its KV back.

        Raises `SearchFailed` when there is nothing to return; raises `QueryError` as `validate`
        does.
        """

    def gauges(self) -> EngineGauges: ...

    def close(self) -> None:
        """Stops the engine thread; waiters get `SearchFailed`."""
