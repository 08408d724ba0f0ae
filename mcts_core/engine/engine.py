"""The engine: one thread that carries out the work of all searches, step by step.

A step draws a token for every option that waits for one, runs each model once over all new tokens
of all requests, scores what became ready, and hands the outcomes to the searches, whose next work
is in the batch of the next step.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import structlog
import torch

from mcts_core.engine.decode import Decode
from mcts_core.engine.jobs import Jobs
from mcts_core.engine.preemption import Preemption
from mcts_core.engine.resident import DeviceLost, Resident
from mcts_core.engine.run import Run
from mcts_core.engine.sampler import Draw, Drawn, Sampler, sample
from mcts_core.engine.scheduler import Scheduler
from mcts_core.engine.session import Session
from mcts_core.engine.sessions import Sessions
from mcts_core.engine.text import StepRuleTooSlow
from mcts_core.kv.blocks import KVExhausted
from mcts_core.kv.branch import Copies
from mcts_core.models.decoder import Rows
from mcts_core.models.logits import LogitsRow
from mcts_core.query import EngineGauges, PoolGauge
from mcts_core.search.search import SearchFailed
from mcts_core.search.work import Failed

_log = structlog.get_logger(__name__)
_IDLE_SECONDS = 0.5
"""How often the idle engine comes round, for its heartbeat and its sessions' deadlines."""


class Engine:
    """Owns the models and their KV; everything on the device happens in its thread.

    `submit` and `cancel` may be called from any thread. Listeners are called from the engine's.
    """

    def __init__(
        self,
        residents: Mapping[str, Resident],
        jobs: Jobs,
        scheduler: Callable[[], Scheduler],
        *,
        attention: str,
        threads: int | None,
        sampler: Sampler = sample,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`attention` is the name of the backend that the models were loaded with."""
        self._residents = dict(residents)
        self._jobs = jobs
        self._seating, self._scoring = jobs.seating, jobs.scoring
        self._preemption = Preemption(jobs.seating)
        self._schedulers = {name: scheduler() for name in residents}
        self._attention = attention
        self._threads = threads
        self._sample = sampler
        self._clock = clock
        self._inbox: deque[tuple[str, Session]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._gate = threading.Lock()
        """Held to close, and to check that it is open and go through."""
        self._sessions = Sessions(jobs, clock)
        self._steps = 0
        self._step_seconds = 0.0
        self._step_rows = 0
        self._last_rows = 0
        self._heartbeat = clock()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, session: Session) -> None:
        """Takes a request on. Its listener gets the events and, last, a reply or a failure."""
        with self._gate:
            closed = self._closing
            if not closed:
                self._inbox.append(("begin", session))
        if closed:
            self._sessions.tell(session, SearchFailed("internal", "the engine is shutting down"))
        self._wake.set()

    def cancel(self, session: Session) -> None:
        """Ends a request before the next step; its listener hears nothing more."""
        self._inbox.append(("cancel", session))
        self._wake.set()

    def close(self) -> None:
        """Stops the thread; requests that are under way fail."""
        self._stop_accepting()
        self._wake.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _stop_accepting(self) -> None:
        with self._gate:
            self._closing = True

    def gauges(self) -> EngineGauges:
        pools: dict[str, PoolGauge] = {}
        for name, resident in self._residents.items():
            pool = resident.pool
            total, free, cached = pool.total - pool.pinned, pool.free, pool.cached
            pools[name] = PoolGauge(
                total,
                free,
                total - free - cached,
                cached,
                pool.found_tokens,
                tokens=total * pool.block_size,
                bytes=resident.storage.bytes,
            )
        return EngineGauges(
            waiting=sum(1 for kind, _ in tuple(self._inbox) if kind == "begin"),
            running=len(self._sessions),
            pools=pools,
            steps=self._steps,
            step_seconds=self._step_seconds,
            step_rows=self._step_rows,
            attention=self._attention,
            kv_blocks_read=sum(each.reads.read for each in self._residents.values()),
            kv_blocks_attended=sum(each.reads.attended for each in self._residents.values()),
            last_rows=self._last_rows,
            heartbeat_age_seconds=self._clock() - self._heartbeat,
            alive=self._thread.is_alive(),
        )

    def _loop(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while not self._closing:
                self._heartbeat = self._clock()
                try:
                    busy = self._step()
                except Exception as error:
                    _log.exception("engine step failed")
                    clean = self._sessions.fail_all(f"the engine's step failed: {error}")
                    if not clean or isinstance(error, DeviceLost):
                        # Whoever looks after the process sees that the thread has ended, and begins
                        # a new one.
                        _log.critical("the engine stops")
                        self._stop_accepting()
                    busy = True
                if not busy:
                    self._wake.wait(_IDLE_SECONDS)
                    self._wake.clear()
            self._take_inbox()
            self._sessions.fail_all("the engine is shutting down")

    def _step(self) -> bool:
        """One step; False when there was nothing to do."""
        began = self._clock()
        self._take_inbox()
        self._sessions.expire(began)
        progress = self._sessions.deliver()
        if self._seating.parked:
            self._preemption.resume(self._sessions)
        if not self._seating.runs and not self._seating.parked and not self._scoring.waiting:
            self._sessions.send_events()
            return progress
        drawn = self._draw()
        rows = 0
        progress = progress or drawn > 0
        stalled: list[Run] = []
        for name, resident in self._residents.items():
            rows += self._forward(name, resident, stalled)
        progress = self._scoring.run() or progress or rows > 0
        ended = self._clock()
        for session in self._sessions:
            assert session.begun is not None
            session.account.model_seconds += ended - max(began, session.begun)
        progress = self._sessions.deliver() or progress
        self._preemption.relieve(self._sessions, stalled, progress=progress)
        self._steps += 1
        self._step_seconds += self._clock() - began
        self._step_rows += rows
        self._last_rows = rows
        self._sessions.send_events()
        return True

    def _take_inbox(self) -> None:
        while self._inbox:
            kind, session = self._inbox.popleft()
            if kind == "begin":
                self._sessions.begin(session)
            else:
                self._sessions.end(session)

    def _draw(self) -> int:
        """Draws the next token of every option whose logits are there."""
        total = 0
        for name in self._residents:
            waiting: list[tuple[Run, Decode]] = [
                (run, run.decode)
                for run in self._seating.runs
                if run.model == name and run.decode is not None and run.decode.logits is not None
            ]
            if not waiting:
                continue
            logits: list[LogitsRow] = []
            draws: list[Draw] = []
            for run, decode in waiting:
                assert decode.logits is not None
                for draw in decode.rows(run.tokens, run.prompt_length):
                    logits.append(decode.logits)
                    draws.append(draw)
            total += len(draws)
            drawn = self._sample(logits, draws)
            at = 0
            for run, decode in waiting:
                count, found = len(decode.draws), drawn[at]
                if count == 1 and found is not None:
                    self._take_one(run, decode, found)
                else:
                    self._take(run, decode, drawn[at : at + count])
                at += count
        self._seating.sweep()
        return total

    def _take(self, run: Run, decode: Decode, drawn: Sequence[Drawn | None]) -> None:
        """Takes a run's draws on by a token each; those that differ go on in runs of their own."""
        by_token: dict[int, tuple[Drawn, list[int]]] = {}
        for draw, found in zip(decode.draws, drawn, strict=True):
            if found is None:
                self._seating.fail(run, Failed("numeric", "the model's logits are not finite"))
                return
            by_token.setdefault(found.logprob.token, (found, []))[1].append(draw)
        first, *others = by_token.values()
        parting = [(run.split(tuple(draws)), found) for found, draws in others]
        self._seating.runs.extend(other for other, _ in parting)
        for each, found in ((run, first[0]), *parting):
            assert each.decode is not None
            self._take_one(each, each.decode, found)

    def _take_one(self, run: Run, decode: Decode, found: Drawn) -> None:
        try:
            run.tokens.append(decode.take(found))
        except StepRuleTooSlow as error:
            self._seating.fail(run, Failed("internal", str(error)))
            return
        if decode.finish is not None and not run.compute_last:
            run.settle()

    def _forward(self, name: str, resident: Resident, stalled: list[Run]) -> int:
        """One forward of one model; returns the number of tokens computed."""
        copies: Copies = []
        runs: list[Run] = []
        batch: list[Rows] = []
        seating = self._seating
        mine = [
            run
            for run in seating.runs
            if run.model == name and (run.leader is None or not seating.waits(run))
        ]
        parked = self._preemption.first_parked(name)
        stuck = self._preemption.first_stalled(name)

        def admit(run: Run, count: int) -> bool:
            if run.parked or (parked is not None and run.rank > parked):
                return False
            if run.root is not None and stuck is not None and run.rank > stuck:
                return False  # a newcomer would take the room that the other waits for
            try:
                copies.extend(run.branch.grow(count))
            except KVExhausted:
                if not self._preemption.make_room(self._sessions, run, count):
                    stalled.append(run)
                    return False
                copies.extend(run.branch.grow(count))
            return True

        for run, count in self._schedulers[name].pick(mine, admit):
            branch, tokens = run.branch, run.tokens
            start = branch.length - count
            new = (tokens[start],) if count == 1 else tokens[start : start + count]
            runs.append(run)
            batch.append(Rows(branch, new, start, run.wanted(start, count), run.stretches))
        if not batch:
            return 0
        try:
            computed = resident.forward(batch, copies)
        except Exception as error:
            _log.exception("forward failed", model=name)
            for run in runs:
                seating.fail(run, Failed("internal", f"the model's step failed: {error}"))
            seating.sweep()
            return 0
        finite: Sequence[bool] | None = None
        end = 0
        for run, rows in zip(runs, batch, strict=True):
            count, at = len(rows.tokens), end
            end += len(rows.ends)
            run.tally.computed += count
            run.charge(rows.start + count)
            if run.draws_next:  # whoever draws looks at the logits
                run.draw_from(computed, at)
                continue
            if finite is None:
                finite = computed.finite()  # this KV is handed on: the device is waited for
            if not all(finite[at:end]):
                seating.fail(run, Failed("numeric", f"{name}: hidden states are not finite"))
                continue
            run.computed(rows.start, rows.ends, computed, at, resident.logits)
            if run.root is not None:
                seating.share(run)
        seating.sweep()
        return sum(len(rows.tokens) for rows in batch)
