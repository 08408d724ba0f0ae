"""What one search is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from mcts_core.search.parameters import SearchParameters
from mcts_core.search.work import Sampling


@dataclass(frozen=True, slots=True)
class Task:
    """A request, as far as the search needs to know it."""

    prompt: tuple[int, ...]
    parameters: SearchParameters
    sampling: Sampling
    max_tokens: int
    """Limit of a trajectory's completion tokens."""
    stop: tuple[str, ...]
    n: int
    """Trajectories to return."""
    stream: bool
    outcome_critics: frozenset[str]
    """Critics that score finished trajectories only."""
    process_critics: frozenset[str]
    """Critics that judge whether the steps so far are right."""
    rollouts_available: bool
    """Whether there is a rollout model."""
    actions: tuple[tuple[int, ...], ...] = ()
    """Token ids of `search.actions`; without any, the step rule says what an option is."""
