"""One whole tree for each method, kept as a file. `python -m tests.mcts_core.search.test_golden`
makes them anew: whatever changes in them is a change of what the methods do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mcts_core.search.methods import METHODS
from mcts_core.search.parameters import Budget, Method, SearchParameters, StopWhen, Width
from tests.mcts_core.search.driver import grow, solve
from tests.mcts_core.search.world import World

GOLDEN = Path(__file__).parent / "golden"
CRITICS = {"value": 0.5, "noise": 0.5, "orm": 1.0}


def parameters(method: Method, **fields: Any) -> SearchParameters:
    return SearchParameters(
        method=method,
        critics=CRITICS,
        budget=Budget(simulations=24, tokens=2000),
        width=Width(root=(3, 6), inner=(2, 4), beam=3, subtrees=2, samples=6),
        parallel=3,
        stop_when=StopWhen(converged=method in ("best_first", "self_consistency")),
        include=("tree",),
        **fields,
    )


def record(method: Method, shuffle: int | None = None) -> dict[str, Any]:
    world = World(numbers=(2, 3, 4, 5), critic_noise=0.2)
    result = solve(world, parameters(method), shuffle=shuffle, n=2, seed=5)
    assert result.tree is not None
    fields = ("method", "stop_reason", "readout", "simulations", "nodes", "terminals", "merged")
    return {
        "result": {
            **{name: getattr(result, name) for name in fields},
            "fallback": None if result.fallback is None else asdict(result.fallback),
            "trajectories": [[each.text, _plain(each.score)] for each in result.trajectories],
            "spent": world.spent,
        },
        "tree": [
            {name: _plain(value) for name, value in asdict(node).items()} for node in result.tree
        ],
    }


def _plain(value: Any) -> Any:
    """Rounded, so that another machine's last bits do not matter."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value


def write() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for method in METHODS:
        made = record(method)
        nodes = ",\n  ".join(json.dumps(node) for node in made["tree"])
        result = json.dumps(made["result"])
        path = GOLDEN / f"{method}.json"
        path.write_text(f'{{"result": {result},\n "tree": [\n  {nodes}\n]}}\n')


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shuffle", [None, 7])
def test_the_methods_tree_is_the_one_that_is_kept(method: Method, shuffle: int | None) -> None:
    kept = json.loads((GOLDEN / f"{method}.json").read_text())
    made = record(method, shuffle)
    assert made["result"] == kept["result"]
    for node, old in zip(made["tree"], kept["tree"], strict=True):
        assert node == old


def test_no_tree_is_kept_of_a_method_that_is_no_more() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_data_say_what_the_tree_says(method: Method) -> None:
    search, tree = grow(parameters(method), world=World(critic_noise=0.2))
    result = search.result
    nodes = getattr(result, "tree")  # noqa: B009
    assert [node.id for node in nodes] == list(range(tree.nodes))
    assert all(node.parent is None or node.parent < node.id for node in nodes)
    assert sum(node.end == "stop" for node in nodes) == len(tree.terminals)
    for node in tree.walk():
        data = nodes[node.id]
        assert [each.id for each in nodes if each.parent == node.id] == [
            child.id for child in node.children
        ]
        assert (data.text, data.visits, data.scores) == (node.text, node.visits, node.scores)
        assert data.value == (node.value if node.visits else None)
        assert data.solved == node.solved
    json.dumps([asdict(node) for node in nodes])


def test_draws_that_merged_are_counted_where_they_went() -> None:
    _, tree = grow(parameters("mcts"), world=World(numbers=(2, 3)))
    assert tree.merged > 0
    assert sum(node.merged for node in tree.walk()) == tree.merged


def test_the_tree_is_returned_only_on_request() -> None:
    assert solve(World(), SearchParameters(method="greedy")).tree is None


if __name__ == "__main__":
    write()
