from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search.backup import backup
from mcts_core.search.parameters import Budget, SearchParameters, StopWhen, Width
from mcts_core.search.tree import Tree
from tests.mcts_core.search.driver import grow, solve
from tests.mcts_core.search.test_tree import new_tree, option
from tests.mcts_core.search.world import World, WorldState


@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_every_ancestor_gets_the_undiscounted_value(values: list[float]) -> None:
    tree = new_tree()
    child = tree.add(tree.root, option("a"), None, "mcts")
    leaf = tree.add(child, option("b"), None, "mcts")
    for value in values:
        backup(tree, leaf.path(), value)
    for node in (tree.root, child, leaf):
        assert node.visits == len(values)
        assert abs(node.value - sum(values) / len(values)) < 1e-9
    assert (tree.low, tree.high) == (min(values), max(values))


def test_a_sibling_of_the_path_is_left_alone() -> None:
    tree = new_tree()
    child = tree.add(tree.root, option("a"), None, "mcts")
    other = tree.add(tree.root, option("b"), None, "mcts")
    backup(tree, child.path(), 1.0)
    assert (other.visits, other.value) == (0, 0.0)


@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_by_max_a_node_is_worth_its_best_child(values: list[float]) -> None:
    tree = Tree(WorldState(()), "mcts", "max")
    backup(tree, (tree.root,), 50.0)
    assert tree.root.value == 50.0
    for index, value in enumerate(values):
        child = tree.add(tree.root, option(str(index)), None, "mcts")
        backup(tree, (child,), value)
        backup(tree, (tree.root,), value)
        assert tree.root.value == max(values[: index + 1]), "its own value was a guess at that"
    assert tree.root.visits == 1 + len(values)


def test_by_max_a_disappointment_below_reaches_all_ancestors() -> None:
    tree = Tree(WorldState(()), "mcts", "max")
    child = tree.add(tree.root, option("a"), None, "mcts")
    backup(tree, child.path(), 0.9)
    leaf = tree.add(child, option("b"), None, "mcts")
    backup(tree, (leaf,), 0.2)
    backup(tree, (tree.root, child), 0.2)
    assert [node.value for node in leaf.path()] == [0.2, 0.2, 0.2]


def test_a_search_by_max_finds_what_is_there() -> None:
    parameters = SearchParameters(critics={"value": 1.0, "orm": 1.0}, backup="max")
    assert solve(World(), parameters).trajectories[0].score == 1.0


@settings(max_examples=20, deadline=None)
@given(parallel=st.integers(1, 8), seed=st.integers(0, 99), inner=st.integers(1, 4))
def test_the_best_of_the_children_is_known_without_looking_through_them(
    parallel: int, seed: int, inner: int
) -> None:
    parameters = SearchParameters(
        critics={"value": 1.0, "orm": 1.0},
        backup="max",
        budget=Budget(simulations=150),
        parallel=parallel,
        width=Width(root=(2, 6), inner=(inner, 5)),
        stop_when=StopWhen(converged=False),
    )
    _, tree = grow(parameters, world=World(critic_noise=0.7), seed=seed)
    inside = [node for node in tree.walk() if any(child.visits for child in node.children)]
    assert len(inside) > 10
    for node in inside:
        assert node.value == max(child.value for child in node.children if child.visits)
