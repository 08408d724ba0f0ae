"""The `search` object of a response, made from what the search and the engine have counted."""

from __future__ import annotations

from dataclasses import asdict

from mcts_core.query import ProgressEvent, Reply
from mcts_core.search.search import Trajectory
from mcts_core.search.work import Tally
from server.responses import (
    Candidate,
    Count,
    Elapsed,
    FellBack,
    Kv,
    RootChild,
    SearchProgress,
    SearchReport,
    Spent,
    Times,
    Tokens,
)


def report(reply: Reply, search_id: str, waited_seconds: float) -> SearchReport:
    """`waited_seconds`: in the server's own queue, before the engine had the query."""
    result, account = reply.result, reply.account
    best = result.trajectories[0]
    fallback = result.fallback
    return SearchReport(
        id=search_id,
        method=result.method,
        requested_method=result.requested_method,
        stop_reason=result.stop_reason,
        fallback=None
        if fallback is None
        else FellBack(to=fallback.to, reason=fallback.reason, at_simulation=fallback.at_simulation),
        score=best.score,
        scores=dict(best.scores),
        readout=result.readout,
        simulations=result.simulations,
        nodes=result.nodes,
        terminals=result.terminals,
        depth=result.depth,
        merged=result.merged,
        tokens=Tokens(
            returned=sum(len(each.tokens) for each in result.trajectories),
            spent=account.spent,
            policy=_count(account.policy),
            rollout=_count(account.rollout),
            critics=_count(account.critics),
            critic={name: _count(tally) for name, tally in sorted(account.critic.items())},
        ),
        kv=Kv(blocks_peak=account.blocks_peak, shared_ratio=round(account.shared_peak, 4)),
        time_ms=Times(
            queue=_milliseconds(waited_seconds + reply.queue_seconds),
            first_simulation=None
            if result.first_simulation_seconds is None
            else _milliseconds(result.first_simulation_seconds),
            search=_milliseconds(reply.search_seconds),
            model=_milliseconds(account.model_seconds),
        ),
        candidates=[_candidate(each) for each in result.candidates],
        root=[
            RootChild(
                text=option.text,
                visits=option.visits,
                value=option.value,
                prior=option.prior,
                scores=dict(option.scores),
            )
            for option in result.root
        ],
        tree=None if result.tree is None else [asdict(node) for node in result.tree],
    )


def progress(event: ProgressEvent) -> SearchProgress:
    """The `search` object of a chunk that says how far a search is."""
    return SearchProgress(
        simulations=event.simulations,
        score=event.score,
        tokens=Spent(spent=event.spent),
        time_ms=Elapsed(search=_milliseconds(event.search_seconds)),
    )


def _count(tally: Tally) -> Count:
    return Count(computed=tally.computed, cached=tally.cached)


def _candidate(trajectory: Trajectory) -> Candidate:
    return Candidate(
        text=trajectory.text,
        tokens=len(trajectory.tokens),
        finish_reason=trajectory.finish_reason,
        score=trajectory.score,
        scores=dict(trajectory.scores),
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
