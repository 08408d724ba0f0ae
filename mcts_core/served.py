"""A served model: everything behind one name, wired together.

This is the one place that knows both the search and the engine.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import structlog

from critics.card import CriticCard
from critics.critic import Critic
from mcts_core.attention import choose
from mcts_core.attention.interface import CHUNK_TOKENS
from mcts_core.engine.compiled_sampler import CompiledSampler
from mcts_core.engine.engine import Engine
from mcts_core.engine.jobs import Jobs
from mcts_core.engine.pools import fit_pools
from mcts_core.engine.resident import Resident
from mcts_core.engine.sampler import sample
from mcts_core.engine.scheduler import Scheduler
from mcts_core.engine.scoring import Scoring
from mcts_core.engine.seating import POLICY, Seating
from mcts_core.engine.session import Session
from mcts_core.models.fit import check_sizes, check_tokens
from mcts_core.models.hub import locate
from mcts_core.models.load import end_tokens, load_resident
from mcts_core.models.manifest import Manifest
from mcts_core.models.modules import ModuleDecoder
from mcts_core.models.precision import AUTO, device_of, dtype_of
from mcts_core.models.tokenizer import ModelTokenizer
from mcts_core.query import EngineGauges, Event, Query, QueryError, Reply, Tokenizer
from mcts_core.search import methods
from mcts_core.search.parameters import Method, SearchParameters
from mcts_core.search.search import SearchFailed
from mcts_core.search.work import Account

_log = structlog.get_logger(__name__)

Progress = Callable[[str, float], None]
"""Called with what is being loaded and the share that is done, 0 to 1."""

_SMALL = 50_000_000
"""Parameters below which one thread is faster than several."""
_STEP_STRINGS = ("\n",)
_ACTIONS_KEPT = 64
"""Lists of actions whose tokens are remembered."""
_SLICE_TOKENS = 512
_LEAST_POOL = 64
"""Tokens: what the probe at load takes, with a block for each of its two branches."""


class ServedModel:
    """Implements `query.Served`."""

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        tokenizer: ModelTokenizer,
        engine: Engine,
        *,
        critics: dict[str, CriticCard],
        vocabulary: int,
        context_length: int,
        pool_tokens: int,
        parameters: Mapping[str, int],
    ) -> None:
        self._name = name
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._engine = engine
        self._critics = critics
        self._vocabulary = vocabulary
        self._context_length = context_length
        self._pool_tokens = pool_tokens
        self._parameters = dict(parameters)
        # Every prompt of a request has the same ones, and asks for them when it is checked and when
        # it begins.
        self._action_tokens = lru_cache(maxsize=_ACTIONS_KEPT)(partial(_tokens_of, tokenizer))

    @property
    def name(self) -> str:
        return self._name

    @property
    def preset(self) -> SearchParameters:
        return self._manifest.search

    @property
    def methods(self) -> tuple[Method, ...]:
        return tuple(methods.METHODS)

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def parameters(self) -> Mapping[str, int]:
        return self._parameters

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def validate(self, query: Query) -> None:
        if not query.prompt:
            raise QueryError("prompt", "the prompt is empty: give at least one token")
        if len(query.prompt) >= self._context_length:
            raise QueryError(
                "prompt",
                f"the prompt has {len(query.prompt)} tokens; this model's context is "
                f"{self._context_length} tokens, at least one of them for the completion",
            )
        if len(query.prompt) >= self._pool_tokens:
            raise QueryError(
                "prompt",
                f"the prompt has {len(query.prompt)} tokens; this server's KV pool holds "
                f"{self._pool_tokens}",
            )
        worst = next((token for token in query.prompt if not 0 <= token < self._vocabulary), None)
        if worst is not None:
            raise QueryError(
                "prompt", f"token id {worst} is outside the vocabulary of {self._vocabulary}"
            )
        for token, _ in query.sampling.logit_bias:
            if not 0 <= token < self._vocabulary:
                raise QueryError(
                    "logit_bias",
                    f"token id {token} is outside the vocabulary of {self._vocabulary}",
                )
        for critic in query.search.critics:
            if critic not in self._critics:
                known = ", ".join(sorted(self._critics)) or "none"
                raise QueryError(
                    f"search.critics.{critic}", f"this model has no such critic; it has: {known}"
                )
        self._actions(query)
        if query.search.rollouts.count and self._manifest.rollout is None:
            raise QueryError("search.rollouts.count", "this model has no rollout model: use 0")

    def _actions(self, query: Query) -> tuple[tuple[int, ...], ...]:
        """Token ids of the query's actions. Raises `QueryError`."""
        return self._action_tokens(query.search.actions or ())

    async def search(self, query: Query) -> AsyncGenerator[Event, None]:
        self.validate(query)
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[Sequence[Event] | SearchFailed] = asyncio.Queue()

        def listen(events: Sequence[Event] | SearchFailed) -> None:
            # A loop that was closed has nobody left to tell.
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.put_nowait, events)

        session = self._session(query, listen)
        self._engine.submit(session)
        replied = False
        try:
            while not replied:
                events = await news.get()
                if isinstance(events, SearchFailed):
                    replied = True
                    raise events
                for event in events:
                    replied = isinstance(event, Reply)
                    yield event
        finally:
            if not replied:
                self._engine.cancel(session)

    def gauges(self) -> EngineGauges:
        return self._engine.gauges()

    def close(self) -> None:
        self._engine.close()

    def _session(
        self, query: Query, listen: Callable[[Sequence[Event] | SearchFailed], None]
    ) -> Session:
        account = Account()
        now = time.monotonic()
        search = methods.create(
            prompt=query.prompt,
            parameters=query.search,
            sampling=query.sampling,
            max_tokens=min(query.max_tokens, self._context_length - len(query.prompt)),
            stop=query.stop,
            n=query.n,
            stream=query.stream,
            clock=time.monotonic,
            started=now,
            outcome_critics=frozenset(
                name for name, card in self._critics.items() if not card.scores_unfinished
            ),
            process_critics=frozenset(
                name for name, card in self._critics.items() if card.kind == "prm"
            ),
            reading_critics=frozenset(
                name for name, card in self._critics.items() if card.trunk != "policy"
            ),
            rollouts_available=self._manifest.rollout is not None,
            actions=self._actions(query),
        )
        limit = query.search.budget.deadline_ms
        return Session(
            search=search,
            account=account,
            listener=listen,
            priority=query.priority,
            cache_salt=query.cache_salt,
            submitted=now,
            deadline=None if limit is None else now + limit / 1000,
            progress_due=now if query.progress else math.inf,
        )


def _tokens_of(tokenizer: ModelTokenizer, actions: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Raises `QueryError`."""
    found: dict[tuple[int, ...], str] = {}
    for index, text in enumerate(actions):
        field = f"search.actions.{index}"
        try:
            tokens = tuple(tokenizer.encode_part(text))
        except ValueError as error:
            raise QueryError(field, str(error)) from None
        for other, known in found.items():
            if other[: len(tokens)] == tokens[: len(other)]:
                raise QueryError(
                    field,
                    f"of {text!r} and {known!r} one begins with the tokens of the other: "
                    "nothing would say where the shorter one ends; end both with a line "
                    "break, for example",
                )
        found[tokens] = text
    return tuple(found)


def _slice_tokens(max_batch_rows: int) -> int:
    """Half a step at most, so that what is being drawn has room beside a prompt; in whole tiles."""
    half = max_batch_rows // 2 // CHUNK_TOKENS * CHUNK_TOKENS
    return min(_SLICE_TOKENS, half or max_batch_rows)


def _threads(residents: Iterable[Resident]) -> int:
    """One where there are small models only that run their modules: each of their many operations
    is over before a second thread has woken up."""
    decoders = [resident.decoder for resident in residents]
    compiled = any(decoder.name != ModuleDecoder.name for decoder in decoders)
    if not compiled and sum(decoder.parameters for decoder in decoders) < _SMALL:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 << ((cores or 1).bit_length() - 1)


def load(
    path: Path,
    *,
    name: str,
    device: str = "cpu",
    dtype: str = AUTO,
    download: bool = False,
    pool_tokens: int | None = None,
    kv_memory_share: float | None = None,
    block_size: int = 16,
    threads: int | None = None,
    max_batch_rows: int = 2048,
    prefix_cache: bool = True,
    attention: str = "auto",
    cuda_graphs: bool = True,
    on_progress: Progress | None = None,
) -> ServedModel:
    """Loads a served model from a local folder and starts its engine; blocks until it is ready.

    `device` and `dtype` are names of `models.precision`, which says what `auto` is. `download`
    says whether parts that the manifest names by their ids on the hub may be fetched.
    `pool_tokens` is the size of each model's KV pool in tokens; without it, the pools take
    `kv_memory_share` of the memory beside the models (`engine.pools`). `max_batch_rows` bounds the
    tokens of one forward. `prefix_cache` keeps prompts' KV for later ones. `attention` names the
    backend, and `cuda_graphs` says whether steps are captured where it and the device allow it.
    `threads` is by default 1 for small models, else the largest power of two within the
    cores: work is then cut at whole vector registers, which keeps results repeatable.
    Raises `AttentionRefused`, `ManifestError`, `ModelRefused`, `CriticError`, `PoolsTooSmall`,
    `OSError` or `ValueError`, each with a message for the person who starts the server.
    """
    place = device_of(device)
    tell = on_progress or (lambda what, share: None)
    backend = choose(attention, place)
    manifest = Manifest.load(path)
    folders = {
        part: locate(reference, path, download=download)
        for part, reference in manifest.parts.items()
    }
    critics = {critic: Critic.load(folders[critic]) for critic in manifest.critics}
    cards = {name: critic.card for name, critic in critics.items()}
    if block_size < 1:
        raise ValueError(f"a KV block of {block_size} tokens cannot hold anything")
    least = _LEAST_POOL + 2 * block_size
    # The pools are sized once the models are there, unless their size is given.
    blocks = -(-least // block_size) + 1 if pool_tokens is None else pool_tokens // block_size + 1
    if (blocks - 1) * block_size < least:
        raise ValueError(
            f"a KV pool of {pool_tokens} tokens is too small: give it {_LEAST_POOL} tokens and two "
            f"blocks of {block_size} at least"
        )
    trunks = {
        critic: POLICY if card.trunk == "policy" else critic for critic, card in cards.items()
    }
    parts = [part for part in folders if trunks.get(part, part) == part]
    tokenizer = ModelTokenizer.load(folders[POLICY])
    check_tokens(tokenizer, {part: folders[part] for part in parts if part != POLICY})
    residents: dict[str, Resident] = {}
    for index, part in enumerate(parts):
        tell(part, index / (len(parts) + 1))
        residents[part] = load_resident(
            folders[part],
            part,
            language_head=part not in critics,
            heads={
                name: critic.head.to(place)
                for name, critic in critics.items()
                if trunks[name] == part
            },
            blocks=blocks,
            block_size=block_size,
            dtype=dtype_of(dtype, folders[part], place),
            device=place,
            attention=backend,
            graph_rows=max_batch_rows if cuda_graphs else 0,
        )
    check_sizes(residents, critics)
    tell("engine", len(parts) / (len(parts) + 1))
    vocabulary = residents[POLICY].decoder.vocabulary
    context = residents[POLICY].decoder.context_length
    slice_tokens = _slice_tokens(max_batch_rows)
    if pool_tokens is None:
        fit_pools(
            residents,
            place,
            share=kv_memory_share,
            context=context,
            max_batch_rows=max_batch_rows,
            slice_tokens=slice_tokens,
        )
    else:
        for resident in residents.values():
            resident.prepare()
    seating = Seating(residents, context, prefix_cache=prefix_cache)
    jobs = Jobs(
        seating,
        Scoring(residents, seating, trunks),
        tokenizer,
        end_tokens=end_tokens(folders[POLICY]) | tokenizer.end_tokens,
        boundary_tokens={text: tokenizer.containing(text) for text in _STEP_STRINGS},
        context_length=context,
    )
    engine = Engine(
        residents,
        jobs,
        lambda: Scheduler(max_batch_rows, slice_tokens),
        attention=backend.name,
        threads=threads or _threads(residents.values()),
        sampler=sample if backend.library is None else CompiledSampler(backend.library),
    )
    engine.start()
    pools = engine.gauges().pools
    for part, pool in pools.items():
        _log.info("kv pool", model=part, blocks=pool.total, tokens=pool.tokens, bytes=pool.bytes)
    tell("ready", 1.0)
    return ServedModel(
        name,
        manifest,
        tokenizer,
        engine,
        critics=cards,
        vocabulary=vocabulary,
        context_length=context,
        pool_tokens=pools[POLICY].tokens,
        parameters={
            part: resident.decoder.parameters
            + sum(weight.numel() for weight in critics[part].head.parameters())
            if part in critics
            else resident.decoder.parameters
            for part, resident in residents.items()
        },
    )
