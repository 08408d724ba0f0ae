from __future__ import annotations

from dataclasses import replace

from mcts_core.search.merge import Likeness
from mcts_core.search.parameters import Merge
from tests.mcts_core.search.test_tree import new_tree, option


def test_the_same_text_merges_by_edit_and_by_exact_but_never_by_none() -> None:
    tree = new_tree()
    child = tree.add(tree.root, option("1+2=3\n"), None, "mcts")
    for by in ("edit", "exact"):
        likeness = Likeness(Merge(by=by))
        assert likeness.nearest(tree.root, option("1+2=3\n")) == (0.0, child)
        assert likeness.nearest(tree.root, option("1+2=4\n")) == (1.0, None)
    assert Likeness(Merge(by="none")).nearest(tree.root, option("1+2=3\n")) == (1.0, None)


def test_the_nearest_sibling_within_the_threshold_is_found() -> None:
    tree = new_tree()
    tree.add(tree.root, option("aaaaaaaaaa"), None, "mcts")
    near = tree.add(tree.root, option("aaaaaaaabb"), None, "mcts")
    likeness = Likeness(Merge(threshold=0.3))
    assert likeness.nearest(tree.root, option("aaaaaaabbb")) == (0.1, near)
    assert likeness.nearest(tree.root, option("cccccccccc")) == (1.0, None)


def test_a_threshold_does_not_loosen_an_exact_merge() -> None:
    tree = new_tree()
    tree.add(tree.root, option("aaaa"), None, "mcts")
    assert Likeness(Merge(by="exact", threshold=0.9)).nearest(tree.root, option("aaab")) == (
        1.0,
        None,
    )


def test_options_that_end_inside_a_character_are_known_by_their_tokens() -> None:
    tree = new_tree()
    first = replace(option("a"), text="", partial=True)
    child = tree.add(tree.root, first, None, "mcts")
    likeness = Likeness(Merge(threshold=1.0))
    assert likeness.nearest(tree.root, first) == (0.0, child)
    other = replace(option("b"), text="", partial=True)
    assert likeness.nearest(tree.root, other) == (1.0, None), "its character is another one"
    whole = replace(option("c"), text="")
    assert likeness.nearest(tree.root, whole) == (1.0, None)


def test_by_embedding_options_of_nearly_the_same_direction_merge() -> None:
    tree = new_tree()
    here = replace(option("a"), embedding=(1.0, 0.0))
    child = tree.add(tree.root, here, None, "mcts")
    tree.add(tree.root, replace(option("b"), embedding=(0.0, 1.0)), None, "mcts")
    likeness = Likeness(Merge(by="embedding", threshold=0.3))
    assert likeness.embeds
    near = replace(option("c"), embedding=(0.8, 0.6))
    distance, found = likeness.nearest(tree.root, near)
    assert (round(distance, 6), found) == (0.2, child)
    far = replace(option("d"), embedding=(0.6, -0.8))
    assert likeness.nearest(tree.root, far) == (1.0, None)
    assert likeness.nearest(tree.root, option("a")) == (0.0, child), "the same text is the same"
    assert likeness.nearest(tree.root, option("e")) == (1.0, None), "nothing is known of it"


def test_embeddings_are_asked_for_only_where_they_are_read() -> None:
    assert not Likeness(Merge(by="embedding")).embeds, "at 0 only the same text merges"
    assert not Likeness(Merge(by="edit", threshold=0.5)).embeds
