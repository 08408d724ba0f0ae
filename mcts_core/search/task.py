"""What one search is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from mcts_core.search.parameters import SearchParameters
from mcts_core.search.work import Actions, Sampling


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
    reading_critics: frozenset[str] = frozenset()
    """Critics that read every token with a model of their own, which the budget pays for."""
    actions: tuple[tuple[int, ...], ...] = ()
    """Token ids of `search.actions`; without any, the step rule says what an option is."""

    def actions_to_end(self, depth: int) -> Actions | None:
        """What is left of a trajectory at `depth` as a run of actions; None without any."""
        if not self.actions:
            return None
        return Actions(self.actions, max(1, self.parameters.max_depth - depth))
