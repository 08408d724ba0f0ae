from __future__ import annotations

import itertools
from dataclasses import replace
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcts_core.search import parameters
from mcts_core.search.claims import Claims
from mcts_core.search.parameters import SearchParameters
from tests.mcts_core.search.driver import grow, solve
from tests.mcts_core.search.test_evaluation import evaluation
from tests.mcts_core.search.test_tree import new_tree, option
from tests.mcts_core.search.world import World


def claimed(
    claims: dict[str, object] | None, way: list[tuple[str, float]], score: float
) -> list[float | None]:
    """The mixed scores along `way`, options and their probabilities, of each of which the critic
    says `score`."""
    own = evaluation({"prm": 1.0}, claims=claims)
    tree = new_tree()
    node, mixed = tree.root, []
    for text, probability in way:
        drawn = option(text, log(probability) / len(text), {"prm": score})
        node = tree.add(node, drawn, None, "mcts")
        assert own.evaluate(tree, node, drawn.scores) is None
        mixed.append(node.score)
    return mixed


WAY = [("1+2=", 0.1), ("3\n", 0.95), ("3*9=", 0.2), ("28\n", 0.45), ("28-4=", 0.3), ("24\n", 0.6)]


def test_a_doubtful_claim_lowers_the_scores_of_all_that_is_built_on_it() -> None:
    assert claimed(None, WAY, 0.8) == [0.8] * 6
    doubted = [0.8, 0.8, 0.8, 0.4, 0.4, 0.4]  # what is chosen may be as improbable as it likes
    assert claimed({"after": ["="]}, WAY, 0.8) == pytest.approx(doubted)
    assert claimed({"after": ["?", "="], "least": 0.3}, WAY, 0.8) == pytest.approx([0.8] * 6)


def test_doubts_make_nothing_better() -> None:
    assert claimed({"after": ["="]}, WAY, -0.8) == [-0.8] * 6


@given(
    way=st.lists(st.tuples(st.sampled_from(["a=", "b\n"]), st.floats(1e-6, 1.0)), max_size=8),
    least=st.floats(0.01, 1.0),
    score=st.floats(-2, 2, allow_subnormal=False),
)
def test_doubts_only_grow_along_the_way(
    way: list[tuple[str, float]], least: float, score: float
) -> None:
    mixed = claimed({"after": ["="], "least": least}, way, score)
    said = [score, *(each for each in mixed if each is not None)]
    assert len(said) == len(way) + 1
    assert all(later <= former for former, later in itertools.pairwise(said))
    if score > 0:
        assert said[-1] > 0


@pytest.mark.parametrize("method", ["mcts", "best_first"])
def test_lies_that_the_critics_believe_are_found_out_by_the_policys_doubts(method: str) -> None:
    def true(claims: dict[str, object] | None) -> int:
        count = 0
        for seed in range(8):
            parameters = SearchParameters.model_validate(
                {
                    "method": method,
                    "critics": {"value": 1.0, "orm": 1.0},
                    "step": {"until": {"strings": ["=", "\n"]}},
                    "budget": {"simulations": 400},
                    "width": {"rule": "progressive", "root": [4, 20], "inner": [1, 10]},
                    "merge": {"by": "exact"},
                    "claims": claims,
                }
            )
            result = solve(World(numbers=(2, 3, 4, 5), lies=0.3), parameters, seed=seed)
            lines = result.trajectories[0].text.splitlines()
            said = [line.replace("/", "//").split("=") for line in lines if "=" in line]
            count += all(eval(left) == int(right) for left, right in said)
        return count

    assert true({"after": ["="]}) == 8 > true(None)


@pytest.mark.parametrize(("lies", "children"), [(0.05, 1), (0.3, 2)])
def test_nothing_else_is_drawn_beside_a_claim_that_is_believed(lies: float, children: int) -> None:
    parameters = SearchParameters.model_validate(
        {
            "critics": {"value": 1.0},
            "step": {"until": {"strings": ["=", "\n"]}},
            "budget": {"simulations": 100},
            "width": {"root": [2, 2], "inner": [1, 2]},
            "merge": {"by": "exact"},
            "stop_when": {"converged": False},
            "claims": {"after": ["="]},
        }
    )
    _, tree = grow(parameters, world=World(lies=lies))
    grown = [node for node in tree.walk() if node.children]
    claims = [node for node in grown if node.text.endswith("=")]
    assert max(len(node.children) for node in claims) == children
    assert max(len(node.children) for node in grown if node not in claims) == 2


def test_the_rest_of_a_trajectory_is_no_claim() -> None:
    """It may be improbable for all that it chooses."""
    parameters = SearchParameters.model_validate(
        {
            "critics": {"value": 1.0, "orm": 1.0},
            "step": {"until": {"strings": ["=", "\n"]}},
            "budget": {"tokens": 40},
            "fallback": ["sample"],
            "claims": {"after": ["="]},
            "include": ["tree"],
        }
    )
    rests = 0
    for seed in range(12):
        result = solve(World(lies=0.02), parameters, seed=seed, max_tokens=60)
        nodes = {node.id: node for node in result.tree or ()}
        for node in nodes.values():
            if node.origin == "sample" and node.parent and nodes[node.parent].text.endswith("="):
                rests += 1
                assert node.certainty == nodes[node.parent].certainty
    assert rests


@pytest.mark.parametrize(("probability", "believed"), [(0.8, False), (0.95, True)])
@pytest.mark.parametrize("drawn_at", [0.6, 0.99])
def test_a_claim_is_believed_for_what_the_policy_says_however_it_was_drawn(
    probability: float, believed: bool, drawn_at: float
) -> None:
    claims = Claims(parameters.Claims(after=("=",)))
    tree = new_tree()
    start = tree.add(tree.root, option("1+2=", -0.1), None, "mcts")
    drawn = replace(
        option("3\n", log(probability) / 2), draw_logprobs=(log(drawn_at) / 2, log(drawn_at) / 2)
    )
    claim = tree.add(start, drawn, None, "mcts")
    start.drawn(drawn)
    assert claims.settled(start) == believed
    assert (claims.certainty(claim) == 1.0) == believed
