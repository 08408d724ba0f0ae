"""A baseline that is left out, or given other means than its budget, is no comparison."""

from __future__ import annotations

import pytest

from evals import variant
from evals.errors import EvalError
from evals.weights import Weights
from mcts_core.search.parameters import SearchParameters

LIMITS = {"budget.tokens": 1000.0, "width.samples": 64.0}


def test_baselines_are_always_run() -> None:
    names = [each.name for each in variant.gather(["mcts"], [])]
    assert names == ["mcts", "best_of_n", "self_consistency", "beam", "greedy", "sample"]
    assert {each.name for each in variant.gather([], [])} == set(variant.METHODS)


@pytest.mark.parametrize("method", variant.METHODS)
def test_only_tokens_end_a_search(method: str) -> None:
    preset = SearchParameters.model_validate({"budget": {"simulations": 3, "nodes": 9}})
    (found,) = (each for each in variant.gather([], []) if each.name == method)
    if not found.searched:
        assert found.at(None, LIMITS) == {"method": method}
        return
    search = SearchParameters.model_validate(found.at(400, {})).over(preset)
    assert search.budget.model_dump(exclude_none=True) == {"tokens": 400}
    assert search.width.samples == 400
    assert found.at(400, LIMITS)["width"] == {"samples": 64}


def test_a_named_variant_keeps_its_own_fields() -> None:
    fields = '{"merge": {"by": "none"}, "budget": {"nodes": 5}, "stop_when": {"converged": false}}'
    named = variant.gather(["mcts"], [f"flat={fields}"])[-1]
    search = named.at(100, LIMITS, stop_early=False)
    assert search["merge"] == {"by": "none"}
    assert search["budget"] == {
        "simulations": None,
        "nodes": 5,
        "deadline_ms": None,
        "tokens": 100,
    }
    assert search["stop_when"] == {"converged": False, "score": None}
    assert named.search == variant.gather([], [f"flat={fields}"])[-1].search


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{}", "NAME="),
        ("a={", "not JSON"),
        ('a={"widht": {}}', "search.widht"),
        ('a={"budget": {"tokens": 3}}', "--budget"),
        ("mcts={}", "already"),
    ],
)
def test_mistakes_are_named(text: str, named: str) -> None:
    with pytest.raises(EvalError, match=named):
        variant.gather(["mcts"], [text])
    with pytest.raises(EvalError, match="guess"):
        variant.gather(["guess"], [])


def test_a_budget_above_the_servers_limit_is_refused() -> None:
    with pytest.raises(EvalError, match="max_spent_tokens"):
        variant.gather(["mcts"], [])[0].at(2000, LIMITS)


def test_tokens_weigh_their_models_parameters() -> None:
    weights = Weights({"policy": 100, "rollout": 10, "orm": 50})
    tokens = {
        "policy": {"computed": 7},
        "rollout": {"computed": 20},
        "critic": {"orm": {"computed": 4}, "prm": {"computed": 0}},
    }
    assert weights.spent(tokens) == 7 + 2 + 2
    tokens["critic"]["prm"] = {"computed": 1}
    with pytest.raises(EvalError, match="prm"):
        weights.spent(tokens)
    with pytest.raises(EvalError, match="policy"):
        Weights({"orm": 3})
