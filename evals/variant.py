"""Variants: what is compared, and the searches that they come to at a budget."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from evals.errors import EvalError
from mcts_core.search.parameters import Method, SearchParameters

BASELINES: tuple[str, ...] = ("best_of_n", "self_consistency", "beam")
"""Always run: a search is worth what it adds to these at equal tokens."""
UNSEARCHED: tuple[str, ...] = ("greedy", "sample")
"""One trajectory, whatever the budget."""
METHODS: tuple[str, ...] = get_args(Method)
_SAMPLES = "width.samples"
_TOKENS = "budget.tokens"


@dataclass(frozen=True, slots=True)
class Variant:
    """A name in the table, and the `search` fields that it stands for."""

    name: str
    search: Mapping[str, Any]

    @property
    def searched(self) -> bool:
        """Whether it has a budget."""
        return self.search.get("method") not in UNSEARCHED

    def at(
        self, budget: int | None, limits: Mapping[str, float], *, stop_early: bool = True
    ) -> dict[str, Any]:
        """The request's `search` for `budget` spent tokens (None: unsearched).

        Only tokens end it: the preset's other budgets are lifted, and of samples there may be so
        many that tokens run out first (each costs at least one), or as many as `limits` allows.
        The variant's own fields come before that.
        """
        search = dict(self.search)
        if budget is None:
            return search
        if budget > limits.get(_TOKENS, budget):
            raise EvalError(
                f"a budget of {budget} tokens is more than this server allows "
                f"({limits[_TOKENS]:g}, its setting 'max_spent_tokens')"
            )
        lifted = {"simulations": None, "nodes": None, "deadline_ms": None}
        samples = int(min(budget, limits.get(_SAMPLES, budget)))
        search["budget"] = {**lifted, **search.get("budget", {}), "tokens": budget}
        search["width"] = {"samples": samples, **search.get("width", {})}
        if not stop_early:
            search["stop_when"] = {**search.get("stop_when", {}), "score": None}
        return search


def gather(methods: Sequence[str], named: Iterable[str]) -> tuple[Variant, ...]:
    """`methods` (all when empty), the baselines, the unsearched ones, and the `NAME={json}` of
    `named`. Raises `EvalError`."""
    for method in methods:
        if method not in METHODS:
            raise EvalError(f"no method {method!r}; there are {', '.join(METHODS)} (--method)")
    wanted = dict.fromkeys([*(methods or METHODS), *BASELINES, *UNSEARCHED])
    variants = [Variant(method, {"method": method}) for method in wanted]
    for text in named:
        variant = _parse(text)
        if variant.name in (each.name for each in variants):
            raise EvalError(f"there is a variant {variant.name!r} already (--set)")
        variants.append(variant)
    return tuple(variants)


def _parse(text: str) -> Variant:
    name, equals, fields = text.partition("=")
    if not (name and equals):
        raise EvalError(f"give NAME='{{search fields}}', not {text!r} (--set)")
    try:
        search = json.loads(fields)
        SearchParameters.model_validate_json(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(["search", *(str(part) for part in first["loc"])])
        raise EvalError(f"{name}: bad value for '{path}': {first['msg']} (--set)") from None
    except ValueError as error:
        raise EvalError(f"{name}: the fields are not JSON: {error} (--set)") from None
    if search.get("budget", {}).get("tokens") is not None:
        raise EvalError(f"{name}: 'search.budget.tokens' is what --budget sets (--set)")
    return Variant(name, search)
