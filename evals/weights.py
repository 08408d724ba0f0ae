"""Weighted tokens: one unit for what the models of different sizes compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.errors import EvalError

_POLICY = "policy"


class Weights:
    """A token of a model weighs the model's parameters over the policy's.

    So a unit is about the cost of one policy token (a forward pass costs two operations for each
    parameter and token). A critic that is a head on the policy's trunk computes no tokens of its
    own and costs nothing.
    """

    def __init__(self, parameters: Mapping[str, int]) -> None:
        """`parameters` by model, as `GET /v1/models` gives them. Raises `EvalError`."""
        policy = parameters.get(_POLICY, 0)
        if policy < 1:
            raise EvalError("the server does not say how many parameters its policy has")
        self.parameters = dict(parameters)
        self._weights = {name: count / policy for name, count in parameters.items()}

    def spent(self, tokens: Mapping[str, Any]) -> float:
        """Policy tokens that cost as much as all of `search.tokens`. Raises `EvalError` for a model
        whose parameters are not known."""
        counts = {
            _POLICY: tokens[_POLICY]["computed"],
            "rollout": tokens["rollout"]["computed"],
            **{name: count["computed"] for name, count in tokens["critic"].items()},
        }
        unknown = [name for name, count in counts.items() if count and name not in self._weights]
        if unknown:
            raise EvalError(f"the server does not say how many parameters {unknown[0]!r} has")
        return float(sum(count * self._weights.get(name, 0.0) for name, count in counts.items()))
