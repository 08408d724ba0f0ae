from __future__ import annotations

from math import isfinite

from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search.methods.mcts import MCTS
from mcts_core.search.parameters import Budget, SearchParameters, StopWhen
from mcts_core.search.tree import Tree
from mcts_core.search.work import Extended, TokenLogprob
from tests.mcts_core.search.test_repeatability import PARAMETERS
from tests.mcts_core.search.world import World, WorldState, grow


def option(text: str, logprob: float = -1.0, scores: dict[str, float] | None = None) -> Extended:
    tokens = tuple(map(ord, text))
    logprobs = tuple(TokenLogprob(token, logprob) for token in tokens)
    draws = (logprob,) * len(tokens)
    return Extended(WorldState(tokens), tokens, logprobs, draws, text, "step", scores or {})


def new_tree() -> Tree:
    return Tree(WorldState(()), "mcts")


@settings(max_examples=60, deadline=None)
@given(
    parameters=PARAMETERS,
    noise=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 3),
    expire_after=st.none() | st.integers(4, 60),
)
def test_whatever_happens_the_tree_stays_consistent(
    parameters: SearchParameters, noise: float, seed: int, expire_after: int | None
) -> None:
    world = World(critic_noise=noise)
    search, tree = grow(parameters, world=world, seed=seed, expire_after=expire_after)
    nodes = list(tree.walk())
    assert len(nodes) == tree.nodes
    assert tree.depth == max(node.depth for node in nodes)
    for node in nodes:
        below = sum(child.visits for child in node.children)
        assert node.visits >= below, "every visit of a child is one of its parent"
        if not tree.merged and not node.solved:
            assert node.visits - below <= 1, "beside those, only its own evaluation"
        assert node.virtual == 0
        assert node.pending == 0
        assert not node.blocked or (expire_after is not None)
        assert node.open == sum(not child.solved for child in node.children)
        assert node.finished == any(child.finished for child in node.children) or node.end == "stop"
        assert node.depth <= parameters.max_depth
        if node.end == "stop":
            assert not node.children, "a terminal is absorbing"
            assert node in tree.terminals
        if node.visits:
            assert tree.low - 1e-9 <= node.mean <= tree.high + 1e-9
        if parameters.critics and node.score is not None:
            assert 0.0 <= node.score <= 1.0
            assert isfinite(node.score)
        texts = [child.text for child in node.children]
        assert len(texts) == len(set(texts)), "siblings say different things"
    assert isinstance(search, MCTS)
    evaluated = tree.root.score is not None
    assert tree.root.visits == evaluated + search._meter.simulations + tree.absorbed


def test_a_solved_subtree_is_known_up_to_where_something_is_left_to_do() -> None:
    tree = new_tree()
    inner = tree.add(tree.root, option("a"), None, "mcts")
    tree.add(tree.root, option("b"), None, "mcts")
    tree.add(inner, option("c"), "stop", "mcts")
    inner.closed = True
    tree.settle(inner)
    assert inner.solved
    tree.root.closed = True
    tree.settle(tree.root)
    assert not tree.root.solved
    assert tree.root.open == 1


def test_a_node_with_an_expansion_in_flight_is_not_solved() -> None:
    tree = new_tree()
    tree.root.closed = True
    tree.root.pending = 1
    tree.settle(tree.root)
    assert not tree.root.solved
    tree.root.pending = 0
    tree.settle(tree.root)
    assert tree.root.solved


def test_priors_of_siblings_sum_to_one_and_long_options_do_not_vanish() -> None:
    tree = new_tree()
    short = tree.add(tree.root, option("ab", -1.0), None, "mcts")
    long = tree.add(tree.root, option("x" * 5000, -1.0), None, "mcts")
    assert short.prior + long.prior == 1.0
    assert long.prior == 0.5


def test_likelihood_of_a_trajectory_is_per_token() -> None:
    tree = new_tree()
    first = tree.add(tree.root, option("ab", -1.0), None, "mcts")
    second = tree.add(first, option("cd", -3.0), None, "mcts")
    assert abs(second.trajectory_likelihood - 2.718281828**-2) < 1e-6
    assert [node.id for node in second.path()] == [0, 1, 2]


def test_an_exhausted_tree_ends_the_search_before_its_budget() -> None:
    parameters = SearchParameters(
        critics={"noise": 1.0},
        budget=Budget(simulations=100_000),
        stop_when=StopWhen(converged=False),
    )
    search, tree = grow(parameters, world=World(numbers=(2, 3), target=6))
    assert tree.root.solved
    result = search.result
    assert result is not None
    assert result.stop_reason == "exhausted"  # type: ignore[union-attr]
    assert {node.text for node in tree.root.children} == {"2+3=5\n", "2*3=6\n", "3-2=1\n"}
