"""The search methods, and the one way to begin a search."""

from __future__ import annotations

from collections.abc import Callable

from mcts_core.search.methods.base import TreeSearch
from mcts_core.search.methods.beam import Beam
from mcts_core.search.methods.best_first import BestFirst
from mcts_core.search.methods.best_of_n import BestOfN
from mcts_core.search.methods.dvts import DVTS
from mcts_core.search.methods.mcts import MCTS
from mcts_core.search.methods.sampling import Greedy, Sample
from mcts_core.search.methods.self_consistency import SelfConsistency
from mcts_core.search.parameters import Method, SearchParameters
from mcts_core.search.search import Search
from mcts_core.search.task import Task
from mcts_core.search.work import Sampling

METHODS: dict[Method, type[TreeSearch]] = {
    "mcts": MCTS,
    "beam": Beam,
    "dvts": DVTS,
    "best_first": BestFirst,
    "best_of_n": BestOfN,
    "self_consistency": SelfConsistency,
    "sample": Sample,
    "greedy": Greedy,
}


def create(
    *,
    prompt: tuple[int, ...],
    parameters: SearchParameters,
    sampling: Sampling,
    max_tokens: int,
    stop: tuple[str, ...],
    n: int,
    stream: bool,
    clock: Callable[[], float],
    started: float,
    outcome_critics: frozenset[str],
    process_critics: frozenset[str],
    reading_critics: frozenset[str],
    rollouts_available: bool,
    actions: tuple[tuple[int, ...], ...] = (),
) -> Search:
    """A search that has not begun.

    `clock` is in seconds and `started`, on it, the request's admission: deadlines count from
    there. `outcome_critics` are those that score finished trajectories only, `process_critics`
    those that judge steps, `reading_critics` those with a model of their own. `actions`: the token
    ids of `parameters.actions`, none the beginning of another.
    """
    task = Task(
        prompt=prompt,
        parameters=parameters,
        sampling=sampling,
        max_tokens=max_tokens,
        stop=stop,
        n=n,
        stream=stream,
        outcome_critics=outcome_critics,
        process_critics=process_critics,
        reading_critics=reading_critics,
        rollouts_available=rollouts_available,
        actions=actions,
    )
    return METHODS[parameters.method](task, clock, started)


__all__ = ["METHODS", "create"]
