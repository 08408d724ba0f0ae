from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcts_core.search.backup import backup
from tests.mcts_core.search.test_tree import new_tree, option


@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_every_ancestor_gets_the_undiscounted_value(values: list[float]) -> None:
    tree = new_tree()
    child = tree.add(tree.root, option("a"), None, "mcts")
    leaf = tree.add(child, option("b"), None, "mcts")
    for value in values:
        backup(tree, leaf.path(), value)
    for node in (tree.root, child, leaf):
        assert node.visits == len(values)
        assert abs(node.mean - sum(values) / len(values)) < 1e-9
    assert (tree.low, tree.high) == (min(values), max(values))


def test_a_sibling_of_the_path_is_left_alone() -> None:
    tree = new_tree()
    child = tree.add(tree.root, option("a"), None, "mcts")
    other = tree.add(tree.root, option("b"), None, "mcts")
    backup(tree, child.path(), 1.0)
    assert (other.visits, other.mean) == (0, 0.0)
