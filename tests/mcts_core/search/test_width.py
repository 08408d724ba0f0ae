from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcts_core.search.parameters import Width
from mcts_core.search.width import AdaptiveWidth
from tests.mcts_core.search.test_tree import new_tree, option


@given(
    importance=st.floats(0, 2),
    alpha=st.floats(0, 30),
    bounds=st.tuples(st.integers(1, 8), st.integers(0, 8)),
    pending=st.integers(0, 3),
)
def test_the_room_is_that_of_the_papers_formula(
    importance: float, alpha: float, bounds: tuple[int, int], pending: int
) -> None:
    low, high = bounds[0], bounds[0] + bounds[1]
    width = AdaptiveWidth(Width(root=(low, high), alpha=alpha))
    root = new_tree().root
    root.importance = importance
    root.pending = pending
    root.open = 1  # something else could be done
    allowed = max(low, min(int(alpha * importance) + 1, high))
    for count in range(high + 2):
        assert width.room(root) == ("first" if count + pending < allowed else None)
        root.children = (*root.children, root)


def test_a_node_whose_children_are_all_solved_may_grow_to_its_maximum() -> None:
    width = AdaptiveWidth(Width(root=(1, 3), alpha=0))
    tree = new_tree()
    tree.add(tree.root, option("a"), "stop", "mcts")
    assert width.room(tree.root) == "first"
    tree.add(tree.root, option("b"), None, "mcts")
    assert width.room(tree.root) is None


@given(
    bounds=st.tuples(st.integers(1, 8), st.integers(0, 8)),
    children=st.integers(0, 16),
    pending=st.integers(0, 16),
    importance=st.floats(0, 2),
)
def test_progressive_width_goes_by_its_bounds_alone(
    bounds: tuple[int, int], children: int, pending: int, importance: float
) -> None:
    low, high = bounds[0], bounds[0] + bounds[1]
    width = AdaptiveWidth(Width(root=(low, high), rule="progressive"))
    root = new_tree().root
    root.children = (root,) * children
    root.open = children
    root.pending = pending
    root.importance = importance
    count = children + pending
    if children:
        beside = "beside" if count < high else None
        assert width.room(root) == ("first" if count < low else beside)
    else:  # nothing else can be done; but draws in flight beyond the minimum are waited for
        first = count < low or (count < high and not pending)
        assert width.room(root) == ("first" if first else None)


def test_a_node_wants_what_it_lacks_to_its_minimum_or_else_one() -> None:
    width = AdaptiveWidth(Width(root=(4, 8), inner=(2, 3)))
    tree = new_tree()
    wanted = []
    for text in "abcdef":
        wanted.append(width.wanted(tree.root))
        tree.add(tree.root, option(text), None, "mcts")
    assert wanted == [4, 3, 2, 1, 1, 1]
    child = tree.root.children[0]
    assert width.wanted(child) == 2
    child.pending = 1
    assert width.wanted(child) == 1


@given(
    bounds=st.tuples(st.integers(1, 8), st.integers(0, 8)),
    children=st.integers(0, 16),
    pending=st.integers(0, 16),
    importance=st.floats(0, 2),
)
def test_what_is_wanted_never_leads_beyond_the_maximum(
    bounds: tuple[int, int], children: int, pending: int, importance: float
) -> None:
    width = AdaptiveWidth(Width(root=(bounds[0], bounds[0] + bounds[1])))
    root = new_tree().root
    root.children = (root,) * children
    root.pending = pending
    root.importance = importance
    if width.room(root) is not None:
        assert children + pending + width.wanted(root) <= width.maximum(root)


def test_root_and_inner_nodes_have_bounds_of_their_own() -> None:
    width = AdaptiveWidth(Width(root=(3, 7), inner=(1, 2)))
    tree = new_tree()
    child = tree.add(tree.root, option("a"), None, "mcts")
    assert width.maximum(tree.root) == 7
    assert width.maximum(child) == 2
