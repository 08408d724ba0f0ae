from __future__ import annotations

from mcts_core.search.merge import Likeness
from mcts_core.search.parameters import Merge
from tests.mcts_core.search.test_tree import new_tree, option


def test_the_same_text_merges_by_edit_and_by_exact_but_never_by_none() -> None:
    tree = new_tree()
    child = tree.add(tree.root, option("1+2=3\n"), None, "mcts")
    for by in ("edit", "exact"):
        likeness = Likeness(Merge(by=by))
        assert likeness.nearest(tree.root, "1+2=3\n") == (0.0, child)
        assert likeness.nearest(tree.root, "1+2=4\n") == (1.0, None)
    assert Likeness(Merge(by="none")).nearest(tree.root, "1+2=3\n") == (1.0, None)


def test_the_nearest_sibling_within_the_threshold_is_found() -> None:
    tree = new_tree()
    tree.add(tree.root, option("aaaaaaaaaa"), None, "mcts")
    near = tree.add(tree.root, option("aaaaaaaabb"), None, "mcts")
    likeness = Likeness(Merge(threshold=0.3))
    assert likeness.nearest(tree.root, "aaaaaaabbb") == (0.1, near)
    assert likeness.nearest(tree.root, "cccccccccc") == (1.0, None)


def test_a_threshold_does_not_loosen_an_exact_merge() -> None:
    tree = new_tree()
    tree.add(tree.root, option("aaaa"), None, "mcts")
    assert Likeness(Merge(by="exact", threshold=0.9)).nearest(tree.root, "aaab") == (1.0, None)
