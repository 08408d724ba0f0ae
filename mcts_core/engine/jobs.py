"""How each kind of work is done: what it computes in which model, and what it answers.

A job is a generator that reads from top to bottom; it yields what it has to wait for.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from math import sqrt
from typing import assert_never

import structlog
import torch

from mcts_core.engine.decode import Decode
from mcts_core.engine.pending import Pending, WorkFailed
from mcts_core.engine.run import Run
from mcts_core.engine.scoring import Scoring
from mcts_core.engine.seating import POLICY, ROLLOUT, Seating
from mcts_core.engine.session import Job, Session, Steps
from mcts_core.engine.state import NodeState
from mcts_core.engine.text import Decoder
from mcts_core.search.work import (
    Actions,
    Announce,
    Boundary,
    Extend,
    Extended,
    Failed,
    Open,
    Opened,
    Option,
    Outcome,
    Release,
    RolledOut,
    Rollout,
    Score,
    Scored,
    Sibling,
    State,
    Work,
)

_log = structlog.get_logger(__name__)

_TO_THE_END = Boundary()


class Jobs:
    """All work under way."""

    def __init__(
        self,
        seating: Seating,
        scoring: Scoring,
        decoder: Decoder,
        *,
        end_tokens: frozenset[int],
        boundary_tokens: Mapping[str, frozenset[int]],
        context_length: int,
    ) -> None:
        """`boundary_tokens` maps a string of one character to all tokens that contain it."""
        self.seating = seating
        self.scoring = scoring
        self._decoder = decoder
        self._end_tokens = end_tokens
        self._boundary_tokens = boundary_tokens
        self._context_length = context_length
        self._awake: deque[Job] = deque()
        self._places = count()

    def submit(self, session: Session, work: Work) -> None:
        """Begins a piece of work; what it computes is in the next step's batch."""
        job = Job(session, work, next(self._places))
        session.jobs[job] = None
        match work:
            case Open():
                job.steps = self._open(job, work)
            case Extend():
                job.steps = self._extend(job, work)
            case Rollout():
                job.steps = self._rollout(job, work)
            case Score():
                job.steps = self._score(job, work)
            case Release() | Announce():
                raise ValueError(f"{type(work).__name__} is not a job")
            case _:
                assert_never(work)
        self._awake.append(job)

    def release(self, work: Release) -> None:
        _node(work.state).release()

    def advance(self) -> list[tuple[Job, Outcome]]:
        """Takes jobs on as far as they come without computing; returns those that are done."""
        done: list[tuple[Job, Outcome]] = []
        while self._awake:
            job = self._awake.popleft()
            if job.session.ended:
                continue
            outcome = self._resume(job)
            if outcome is not None:
                job.close()
                done.append((job, outcome))
        return done

    def unfinished(self, session: Session) -> list[tuple[Work, Extended]]:
        """What was drawn so far of the options under way: not computed to their last token and
        not scored, so that they can be shown but not continued."""
        found: list[tuple[Work, Extended]] = []
        for job in session.jobs:
            if not isinstance(job.work, Extend):
                continue
            parent = _node(job.work.state)
            drawn = [run for run in job.runs if run.decode is not None and run.decode.drawn]
            options = tuple(
                _option(run, NodeState(run.tokens, parent, parent.prompt_length), {})
                for run in drawn
            )
            if options:
                found.append((job.work, Extended(options, job.cost)))
        return found

    def drop(self, session: Session) -> None:
        """Forgets everything of a request."""
        self.seating.drop(session)
        self.scoring.drop(session)
        self._awake = deque(job for job in self._awake if job.session is not session)
        for job in session.jobs:
            for wait in job.waits:
                wait.waiters.clear()  # all of them are jobs and runs of this request
            job.close()

    def _resume(self, job: Job) -> Outcome | None:
        """Takes a job to its next open wait, or to its outcome."""
        assert job.steps is not None
        while True:
            failed = next((wait.failure for wait in job.waits if wait.failure is not None), None)
            try:
                steps = job.steps
                job.waits = next(steps) if failed is None else steps.throw(WorkFailed(failed))
            except StopIteration as stop:
                outcome: Outcome = stop.value
                return outcome
            except WorkFailed as error:
                return replace(error.failed, spent=job.cost)
            except Exception as error:
                _log.exception("work failed")
                return Failed("internal", f"{type(job.work).__name__}: {error}", job.cost)
            if not all(wait.settled for wait in job.waits):
                self._wait(job)
                return None

    def _wait(self, job: Job) -> None:
        """Wakes the job when all that it waits for is there, which may grow, or with the first
        failure."""
        woken = False

        def wake() -> None:
            nonlocal woken
            failed = any(wait.failure is not None for wait in job.waits)
            if not woken and (failed or all(wait.settled for wait in job.waits)):
                woken = True
                self._awake.append(job)

        for wait in job.waits:
            if not wait.settled:
                wait.waiters.append(wake)

    def _open(self, job: Job, work: Open) -> Steps:
        state = NodeState(list(work.tokens), None, len(work.tokens))
        job.session.states.add(state)
        yield [self.seating.seat(job, state, POLICY)]
        (scores,) = yield from self.scoring.scores(job, [state], work.critics)
        return Opened(state, scores, job.cost)

    def _extend(self, job: Job, work: Extend) -> Steps:
        parent = _node(work.state)
        self.scoring.catch_up(job, parent, work.critics)
        decode = self._decode(
            job,
            parent,
            work,
            draws=tuple(range(work.key[1], work.key[1] + work.draws)),
            greedy_draw=work.key[1] if work.greedy_first else None,
            boundary=work.boundary,
            siblings=work.siblings,
            actions=work.actions,
            stream=work.stream,
        )
        run = self.seating.extend(job, parent, parent.seats[POLICY], POLICY, decode)
        run.embedded = len(parent.tokens) if work.embed else None
        job.runs = run.family
        runs = yield from self._all(run)
        states = [self._settled(run, parent) for run in runs]
        try:
            scores = yield from self.scoring.scores(job, states, work.critics)
        except WorkFailed:
            for state in states:
                state.release()
            raise
        options = tuple(
            _option(run, state, own) for run, state, own in zip(runs, states, scores, strict=True)
        )
        return Extended(options, job.cost)

    def _all(self, run: Run) -> Generator[Sequence[Pending], None, list[Run]]:
        """Waits for a run and for all that split from it; by their first draws."""
        family = run.family
        try:
            yield family
        except WorkFailed as error:
            for member in family:
                if not member.settled:
                    self.seating.fail(member, error.failed)
                member.branch.release()
            self.seating.sweep()
            raise
        return sorted(family, key=lambda member: member.decode.draws if member.decode else ())

    def _settled(self, run: Run, parent: NodeState) -> NodeState:
        """The state that a decoding run has come to."""
        assert run.seat is not None
        assert run.decode is not None
        text, cut = run.decode.written().text, run.decode.finish == "length"
        state = NodeState(run.tokens, parent, parent.prompt_length, text, cut)
        state.seats[POLICY] = run.seat
        run.job.session.states.add(state)
        return state

    def _rollout(self, job: Job, work: Rollout) -> Steps:
        parent = _node(work.state)
        room = self.seating.room(parent, ROLLOUT)
        work = replace(work, max_tokens=min(work.max_tokens, room))
        self.scoring.catch_up(job, parent, work.critics)
        seat = self.seating.seat(job, parent, ROLLOUT)
        yield [seat]
        decode = self._decode(job, parent, work, draws=(work.key[1],), actions=work.actions)
        run = self.seating.extend(job, parent, seat, ROLLOUT, decode, compute_last=False)
        job.runs = run.family
        yield [run]
        assert decode.finish is not None
        state = NodeState(run.tokens, parent, parent.prompt_length)
        run.branch.release()
        try:
            (scores,) = yield from self.scoring.scores(job, [state], work.critics)
        finally:
            state.release()
        tokens = tuple(run.tokens[len(parent.tokens) :])
        return RolledOut(tokens, decode.written().text, decode.finish, scores, job.cost)

    def _score(self, job: Job, work: Score) -> Steps:
        (scores,) = yield from self.scoring.scores(job, [_node(work.state)], work.critics)
        return Scored(scores, job.cost)

    def _decode(
        self,
        job: Job,
        parent: NodeState,
        work: Extend | Rollout,
        *,
        draws: tuple[int, ...],
        greedy_draw: int | None = None,
        boundary: Boundary = _TO_THE_END,
        siblings: Sequence[Sibling] = (),
        actions: Actions | None = None,
        stream: int | None = None,
    ) -> Decode:
        return Decode(
            sampling=work.sampling,
            node=work.key[0],
            draws=draws,
            greedy_draw=greedy_draw,
            boundary=boundary,
            boundary_tokens=self._tokens_of(boundary),
            stop=work.stop,
            siblings=siblings,
            actions=actions,
            limit=min(work.max_tokens, self._context_length - len(parent.tokens)),
            before=parent.tokens,
            tail=parent.tail(max(map(len, work.stop), default=1) - 1),
            begun=parent.begun(),
            end_tokens=self._end_tokens,
            decoder=self._decoder,
            stream=stream,
            emit=job.session.emit,
        )

    def _tokens_of(self, boundary: Boundary) -> frozenset[int] | None:
        """The tokens that meet this boundary each by itself; None when text must be looked at."""
        if boundary.regex is not None or boundary.min_tokens > 1:
            return None
        sets = [self._boundary_tokens.get(text) for text in boundary.strings]
        if any(tokens is None for tokens in sets):
            return None
        return frozenset().union(*(tokens for tokens in sets if tokens is not None))


def _node(state: State) -> NodeState:
    if not isinstance(state, NodeState):
        raise TypeError("the state was not made by this engine")
    return state


def _option(run: Run, state: NodeState, scores: Mapping[str, float]) -> Option:
    decode = run.decode
    assert decode is not None
    assert state.parent is not None
    written = decode.written()
    return Option(
        state=state,
        tokens=tuple(run.tokens[len(state.parent.tokens) :]),
        logprobs=tuple([drawn.logprob for drawn in decode.drawn]),
        draw_logprobs=tuple([drawn.draw_logprob for drawn in decode.drawn]),
        text=written.text,
        finish=decode.finish or "length",
        scores=scores,
        draws=decode.draws,
        cut=written.cut,
        partial=written.partial,
        embedding=None if run.embedding is None else _unit(run.embedding),
    )


def _unit(vector: torch.Tensor) -> Sequence[float]:
    """A vector `[n]` scaled to length 1, as plain numbers."""
    values = vector.tolist()
    norm = sqrt(sum(value * value for value in values)) or 1.0
    return array("f", [value / norm for value in values])
