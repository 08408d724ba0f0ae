"""Workloads on an engine in this process: what is decoded, and how long it took.

A workload is a search that is written out: it opens its prompts, and grows branches from them. It
notes clocks and counters in the engine's thread, between the engine's own pieces of work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from benchmarks.shapes import CONTEXT_LENGTH, prompts
from critics.head import Head
from mcts_core.attention import choose
from mcts_core.attention.interface import Reads
from mcts_core.engine.compiled_sampler import CompiledSampler
from mcts_core.engine.engine import Engine
from mcts_core.engine.jobs import Jobs
from mcts_core.engine.pending import Pending
from mcts_core.engine.resident import Resident
from mcts_core.engine.sampler import sample
from mcts_core.engine.scheduler import Scheduler
from mcts_core.engine.scoring import Scoring
from mcts_core.engine.seating import POLICY, Seating
from mcts_core.engine.session import Job, Session
from mcts_core.engine.state import NodeState
from mcts_core.kv.storage import KVStorage
from mcts_core.models.decoder import Computed, Decoder, Rows
from mcts_core.models.gate import admit
from mcts_core.models.load import decoder_of
from mcts_core.models.tokenizer import ModelTokenizer
from mcts_core.query import Event, Reply
from mcts_core.search.search import Progress, SearchFailed, SearchResult
from mcts_core.search.work import (
    Account,
    Extend,
    Extended,
    Failed,
    Open,
    Opened,
    Outcome,
    Sampling,
    State,
    Work,
)

CRITIC = "prm"
BLOCK_SIZE = 16
Plan = Generator[Sequence[Work], list[Any], None]


class Timed:
    """A decoder, and the time that its forwards took."""

    def __init__(self, decoder: Decoder) -> None:
        self.seconds, self.forwards = 0.0, 0
        self.name, self.parameters = decoder.name, decoder.parameters
        self.vocabulary, self.hidden = decoder.vocabulary, decoder.hidden
        self.context_length = decoder.context_length
        self._decoder = decoder

    def prepare(self, storage: KVStorage) -> None:
        self._decoder.prepare(storage)

    def forward(self, sequences: Sequence[Rows], storage: KVStorage, reads: Reads) -> Computed:
        began = time.perf_counter()
        computed = self._decoder.forward(sequences, storage, reads)
        self.seconds += time.perf_counter() - began
        self.forwards += 1
        return computed


class ScoringAnew(Scoring):
    """Critics that keep no KV: each state's whole sequence goes through their model again."""

    def catch_up(self, job: Job, state: NodeState, critics: Sequence[str]) -> None:
        pass

    def scores(
        self, job: Job, states: Sequence[NodeState], critics: Sequence[str]
    ) -> Generator[Sequence[Pending], None, list[Mapping[str, float]]]:
        alone = [NodeState(list(state.tokens), None, state.prompt_length) for state in states]
        job.session.states.update(alone)
        try:
            return (yield from super().scores(job, alone, critics))
        finally:
            for state in alone:
                state.release()


@dataclass(frozen=True, slots=True)
class Mark:
    """Clocks and counters at one moment."""

    seconds: float
    forward_seconds: float
    forwards: int
    blocks_read: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of a workload."""

    tokens: int
    """Drawn, counted in the options that came back."""
    prefill_seconds: float
    decode_seconds: float
    forward_seconds: float
    """Of `decode_seconds`, inside the models' forward."""
    forwards: int
    """Of all models, while decoding."""
    blocks_read: int
    """KV blocks fetched while decoding, once for each layer that did."""
    blocks_peak: int
    """Most KV blocks held at once."""
    critic_tokens: int
    """Tokens that went through the critic's model."""
    scores: tuple[float, ...]
    """Of all options, in their order; empty without a critic."""


class _Written:
    """Implements `Search` by a plan that yields works to be done together."""

    def __init__(self, plan: Plan) -> None:
        self.result: SearchResult | SearchFailed | None = None
        self.progress = Progress(0, None)
        self._plan = plan
        self._awaited: list[Work] = []
        self._outcomes: dict[int, Outcome] = {}

    def start(self) -> Sequence[Work]:
        return self._go_on(None)

    def deliver(self, work: Work, outcome: Outcome) -> Sequence[Work]:
        if isinstance(outcome, Failed):
            self.result = SearchFailed(outcome.reason, outcome.message)
            return ()
        self._outcomes[id(work)] = outcome
        if len(self._outcomes) < len(self._awaited):
            return ()
        outcomes = [self._outcomes[id(work)] for work in self._awaited]
        self._outcomes = {}
        return self._go_on(outcomes)

    def expire(self, unfinished: Sequence[tuple[Work, Extended]]) -> None:
        self.result = SearchFailed("deadline", "a workload has no deadline")

    def close(self) -> None:
        self._plan.close()

    def _go_on(self, outcomes: list[Outcome] | None) -> Sequence[Work]:
        try:
            self._awaited = list(
                next(self._plan) if outcomes is None else self._plan.send(outcomes)
            )
        except StopIteration:
            name = "benchmark"
            self.result = SearchResult(
                (), name, name, "exhausted", None, "best", 0, 0, 0, 0, 0, None
            )
            return ()
        return self._awaited


class Workbench:
    """An engine over a checkpoint; `close` ends it. Prompts are never found again, so that every
    repetition does the same work."""

    def __init__(
        self,
        folder: Path,
        *,
        dtype: torch.dtype,
        threads: int,
        pool_tokens: int,
        trunks: bool = True,
        critic: bool = False,
        incremental: bool = True,
    ) -> None:
        """Without `trunks` each row reads its whole context by itself. `critic` adds a step critic
        of the policy's size with a model of its own; `incremental` says whether its KV is kept from
        step to step."""
        device = torch.device("cpu")
        backend = choose("auto", device)
        blocks = pool_tokens // BLOCK_SIZE + 1
        self._decoders: list[Timed] = []

        def seat(model: Any, heads: Mapping[str, Head]) -> Resident:
            model.to(dtype).eval().requires_grad_(False)
            admit(model, "benchmark", backend)
            decoder = Timed(decoder_of(model, backend, BLOCK_SIZE, trunks=trunks))
            self._decoders.append(decoder)
            return Resident(
                decoder,
                heads=heads,
                blocks=blocks,
                block_size=BLOCK_SIZE,
                dtype=dtype,
                device=device,
            )

        config = Qwen2Config.from_pretrained(folder)
        self._vocabulary = int(config.vocab_size)
        policy = Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype)
        self._residents = {POLICY: seat(policy, {})}
        if critic:
            torch.manual_seed(1)
            head = Head(int(config.hidden_size), 64).eval().requires_grad_(False)
            self._residents[CRITIC] = seat(Qwen2Model(config), {CRITIC: head})
        self._critics = (CRITIC,) if critic else ()
        seating = Seating(self._residents, CONTEXT_LENGTH, prefix_cache=False)
        scoring = (Scoring if incremental else ScoringAnew)(
            self._residents, seating, {CRITIC: CRITIC}
        )
        jobs = Jobs(
            seating,
            scoring,
            ModelTokenizer.load(folder),
            end_tokens=frozenset(),
            boundary_tokens={},
            context_length=CONTEXT_LENGTH,
        )
        self._engine = Engine(
            self._residents,
            jobs,
            lambda: Scheduler(2048, 512),
            attention=backend.name,
            threads=threads,
            sampler=sample if backend.library is None else CompiledSampler(backend.library),
        )
        self._engine.start()

    def close(self) -> None:
        self._engine.close()

    def run(
        self,
        *,
        trees: int,
        branches: int,
        prompt: int,
        suffix: int,
        steps: int = 1,
        share: bool = True,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Measured:
        """`trees` prompts of `prompt` tokens, `branches` under each, all grown together by `suffix`
        tokens in `steps` equal pieces. Without `share` each branch computes and holds the prompt
        for itself. `seed` is the prompts'. Raises `RuntimeError` when the engine fails."""
        sampling = sampling or Sampling(seed=seed)
        ids = prompts(self._vocabulary, trees, prompt, seed)
        marks: list[Mark] = []
        counts: list[int] = []
        scores: list[float] = []

        def plan() -> Plan:
            marks.append(self._mark())
            copies = 1 if share else branches
            opened: list[Opened] = yield [Open(tuple(own)) for own in ids for _ in range(copies)]
            leaves: list[State] = [
                each.state for each in opened for _ in range(branches if share else 1)
            ]
            marks.append(self._mark())
            for step in range(steps):
                grown: list[Extended] = yield [
                    Extend(
                        leaf,
                        sampling,
                        (step * len(leaves) + index, 0),
                        max_tokens=suffix // steps,
                        critics=self._critics,
                    )
                    for index, leaf in enumerate(leaves)
                ]
                options = [each.options[0] for each in grown]
                leaves = [option.state for option in options]
                counts.append(sum(len(option.tokens) for option in options))
                scores.extend(option.scores[name] for option in options for name in self._critics)
            marks.append(self._mark())

        account = self._finish(plan())
        first, ready, end = marks
        return Measured(
            tokens=sum(counts),
            prefill_seconds=ready.seconds - first.seconds,
            decode_seconds=end.seconds - ready.seconds,
            forward_seconds=end.forward_seconds - ready.forward_seconds,
            forwards=end.forwards - ready.forwards,
            blocks_read=end.blocks_read - ready.blocks_read,
            blocks_peak=account.blocks_peak,
            critic_tokens=account.critics.computed,
            scores=tuple(scores),
        )

    def _finish(self, plan: Plan) -> Account:
        ended = threading.Event()
        last: list[Event | SearchFailed] = []

        def listen(events: Sequence[Event] | SearchFailed) -> None:
            last.append(events if isinstance(events, SearchFailed) else events[-1])
            ended.set()

        self._engine.submit(Session(_Written(plan), Account(), listen, time.monotonic()))
        ended.wait()
        if not isinstance(last[0], Reply):
            raise RuntimeError(f"the workload failed: {last[0]}")
        return last[0].account

    def _mark(self) -> Mark:
        read = sum(resident.reads.read for resident in self._residents.values())
        seconds = sum(decoder.seconds for decoder in self._decoders)
        forwards = sum(decoder.forwards for decoder in self._decoders)
        return Mark(time.perf_counter(), seconds, forwards, read)
