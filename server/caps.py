"""The server's caps on what one request may ask for."""

from __future__ import annotations

from typing import Any

from mcts_core.search.parameters import Budget, SearchParameters
from server.errors import invalid
from server.settings import Settings

_SEARCH_CAPS = {
    "budget.simulations": "max_simulations",
    "budget.tokens": "max_spent_tokens",
    "budget.deadline_ms": "max_deadline_ms",
    "budget.nodes": "max_nodes",
    "parallel": "max_parallel",
    "rollouts.count": "max_rollouts",
    "width.samples": "max_best_of",
    "width.beam": "max_best_of",
    "width.subtrees": "max_best_of",
    "width.root.0": "max_best_of",
    "width.inner.0": "max_best_of",
}
"""A tree's least widths are drawn together, as flat methods draw theirs; more than these come one
by one."""


class Caps:
    """One searched request can cost a hundred plain ones: its every dimension has a cap."""

    def __init__(self, limits: Settings) -> None:
        self.limits = limits

    @property
    def search_limits(self) -> dict[str, float]:
        """The most that `search` may ask for, by the field's path."""
        return {path: getattr(self.limits, cap) for path, cap in _SEARCH_CAPS.items()}

    def check(self, field: str, value: float, cap: str, unit: str = "") -> None:
        """Refuses a value above the setting `cap`. Raises `ApiError`."""
        limit = getattr(self.limits, cap)
        if value > limit:
            has = f"'{field}' is {value:g}" if not unit else f"'{field}' has {value:g} {unit}"
            raise invalid(
                field,
                f"{has}; this server allows at most {limit:g} (its setting '{cap}').",
                "limit_exceeded",
            )

    def check_search(self, search: SearchParameters) -> None:
        """Refuses what a request's own `search` object asks beyond a cap. Raises `ApiError`."""
        given = search.model_dump(exclude_unset=True)
        for path, cap in _SEARCH_CAPS.items():
            value: Any = given
            for part in path.split("."):
                if isinstance(value, tuple):
                    value = value[int(part)]
                else:
                    value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                self.check(f"search.{path}", value, cap)

    def fill(self, search: SearchParameters) -> SearchParameters:
        """The caps where neither the request nor the preset says less."""
        limits, budget = self.limits, search.budget
        width, rollouts, widest = search.width, search.rollouts, self.limits.max_best_of

        def least(value: int | None, cap: int) -> int:
            return cap if value is None else min(value, cap)

        deadline = limits.max_deadline_ms
        if budget.deadline_ms is not None:
            deadline = min(budget.deadline_ms, deadline)
        return search.model_copy(
            update={
                "budget": Budget(
                    simulations=least(budget.simulations, limits.max_simulations),
                    tokens=least(budget.tokens, limits.max_spent_tokens),
                    deadline_ms=deadline,
                    nodes=least(budget.nodes, limits.max_nodes),
                ),
                "parallel": min(search.parallel, limits.max_parallel),
                "rollouts": rollouts.model_copy(
                    update={"count": min(rollouts.count, limits.max_rollouts)}
                ),
                "width": width.model_copy(
                    update={
                        "root": (min(width.root[0], widest), width.root[1]),
                        "inner": (min(width.inner[0], widest), width.inner[1]),
                        "beam": min(width.beam, widest),
                        "subtrees": min(width.subtrees, widest),
                        "samples": min(width.samples, widest),
                    }
                ),
            }
        )
