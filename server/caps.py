"""The server's caps on what one request may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcts_core.search.parameters import SearchParameters
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
"""By the field's path. A tree's least widths are drawn together, as flat methods draw theirs; more
than these come one by one."""


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
        for path, limit in self.search_limits.items():
            search = _lowered(search, path.split("."), limit)
        return search


def _lowered(value: Any, path: Sequence[str], limit: float) -> Any:
    """`value`, in which what is at `path` is no more than `limit`."""
    if not path:
        return limit if value is None else min(value, limit)
    name, *below = path
    own = value[int(name)] if isinstance(value, tuple) else getattr(value, name)
    lowered = _lowered(own, below, limit)
    if lowered == own:
        return value
    if isinstance(value, tuple):
        at = int(name)
        return (*value[:at], lowered, *value[at + 1 :])
    return value.model_copy(update={name: lowered})
