from __future__ import annotations

import random
from math import log, sqrt
from typing import Literal

import pytest

from mcts_core.search.backup import backup
from mcts_core.search.parameters import Select, Width
from mcts_core.search.selection import RULES, Rule, Selection, puct, stretched, uct
from mcts_core.search.tree import Node, Tree
from mcts_core.search.width import AdaptiveWidth
from tests.mcts_core.search.test_tree import new_tree, option


def full(tree: Tree, values: dict[str, list[float]], logprob: float = -1.0) -> list[Node]:
    """A root with no room and a child for each text, visited with the values given."""
    children: list[Node] = []
    backup(tree, [tree.root], 0.5)
    for text, own in values.items():
        child = tree.add(tree.root, option(text, logprob), None, "mcts")
        child.blocked = False
        for value in own:
            backup(tree, [tree.root, child], value)
        children.append(child)
    tree.root.closed = True
    return children


def choose(rule: Rule, tree: Tree, c: float, *, solved: bool) -> Node | None:
    """Among the root's children; no other can be drawn."""
    return rule(tree.root, *stretched(tree, c), solved, False)


def test_puct_is_normalised_mean_plus_prior_bonus() -> None:
    tree = new_tree()
    low, high = full(tree, {"a": [-3.0, -3.0], "b": [5.0]})
    root = tree.root
    assert root.visits == 4
    bounds = [
        (child.value - tree.low) / (tree.high - tree.low)
        + 1.5 * child.prior * sqrt(root.visits) / (1 + child.visits)
        for child in (low, high)
    ]
    expected = (low, high)[bounds.index(max(bounds))]
    assert choose(puct, tree, 1.5, solved=False) is expected


def test_uct_is_normalised_mean_plus_exploration() -> None:
    tree = new_tree()
    often, rarely = full(tree, {"a": [0.9] * 50, "b": [0.5, 0.4]})
    gap = (often.value - rarely.value) / (tree.high - tree.low)
    worth = sqrt(log(tree.root.visits)) * (1 / sqrt(2) - 1 / sqrt(50))
    turn = gap / worth
    assert choose(uct, tree, turn * 0.99, solved=False) is often
    assert choose(uct, tree, turn * 1.01, solved=False) is rarely


def test_the_scale_of_a_critic_does_not_change_the_choice() -> None:
    for rule in RULES.values():
        chosen = []
        for scale, shift in ((1.0, 0.0), (1000.0, -70.0)):
            tree = new_tree()
            children = full(tree, {"a": [0.1 * scale + shift], "b": [0.7 * scale + shift]})
            tree.low, tree.high = shift, scale + shift
            child = choose(rule, tree, 1.0, solved=False)
            assert child is not None
            chosen.append(children.index(child))
        assert chosen[0] == chosen[1]


@pytest.mark.parametrize("rule", RULES.values())
def test_a_visit_in_flight_counts_as_the_worst(rule: Rule) -> None:
    tree = new_tree()
    good, fair = full(tree, {"a": [0.9, 0.9], "b": [0.8, 0.8]})
    assert choose(rule, tree, 0.1, solved=False) is good
    good.virtual = 3
    assert choose(rule, tree, 0.1, solved=False) is fair


@pytest.mark.parametrize("rule", RULES.values())
def test_solved_and_blocked_children_are_passed_over(rule: Rule) -> None:
    tree = new_tree()
    best, blocked, rest = full(tree, {"a": [1.0], "b": [0.9], "c": [0.1]})
    best.solved = True
    blocked.blocked = True
    assert choose(rule, tree, 0.1, solved=False) is rest
    assert choose(rule, tree, 0.1, solved=True) is best
    rest.blocked = True
    assert choose(rule, tree, 0.1, solved=False) is None


def test_equal_values_of_the_whole_tree_leave_the_choice_to_the_prior() -> None:
    tree = new_tree()
    backup(tree, [tree.root], 0.5)
    tree.root.closed = True
    for text, logprob in (("a", -2.0), ("b", -0.1)):
        child = tree.add(tree.root, option(text, logprob), None, "mcts")
        child.blocked = False
        backup(tree, [tree.root, child], 0.5)
    assert choose(puct, tree, 1.0, solved=False) is tree.root.children[1]


def selection() -> Selection:
    return Selection(Select(c=0.1), AdaptiveWidth(Width(inner=(1, 1))))


@pytest.mark.parametrize("name", RULES)
def test_a_new_option_competes_with_those_that_are_there(name: Literal["puct", "uct"]) -> None:
    """It is worth its siblings' mean: a good sibling is left alone until it disappoints."""
    width = AdaptiveWidth(Width(root=(2, 9), rule="progressive"))
    selection = Selection(Select(rule=name, c=0.2), width)
    tree = new_tree()
    good, bad = full(tree, {"a": [0.9], "b": [0.1]})
    tree.root.closed = False
    good.rate(0.9)
    bad.rate(0.1)
    path = selection.select(tree)
    assert path is not None
    assert path[:2] == [tree.root, good]
    for _ in range(8):
        backup(tree, [tree.root, good], 0.1)  # it has disappointed
    assert selection.select(tree) == [tree.root]


def test_an_only_child_is_followed_before_an_option_of_the_same_worth_is_drawn() -> None:
    """Its share of the bonus is all of it, as is the new option's: both bounds are the same, but
    for their rounding."""
    chance = random.Random(0)
    for _ in range(300):
        selection = Selection(
            Select(c=chance.random()), AdaptiveWidth(Width(root=(1, 9), rule="progressive"))
        )
        tree = new_tree()
        score = chance.random()
        (child,) = full(tree, {"a": [score]}, -chance.expovariate(1.0))
        tree.root.closed = False
        child.rate(score)
        assert selection.select(tree) == [tree.root, child]


def test_a_preferred_terminal_absorbs_a_visit_and_the_path_goes_elsewhere() -> None:
    tree = new_tree()
    terminal, other = full(tree, {"a": [1.0], "b": [0.2]})
    terminal.solved = True
    tree.root.open = 1
    path = selection().select(tree)
    assert path == [tree.root, other]
    assert (terminal.visits, terminal.total) == (2, 2.0)
    assert tree.root.visits == 4
    assert other.visits == 1


def test_nothing_is_selected_while_all_that_is_open_is_in_flight() -> None:
    tree = new_tree()
    for child in full(tree, {"a": [1.0], "b": [0.2]}):
        child.blocked = True
    visits = tree.root.visits
    assert selection().select(tree) is None
    assert tree.root.visits == visits


def test_nothing_is_selected_in_a_solved_tree() -> None:
    tree = new_tree()
    for child in full(tree, {"a": [1.0]}):
        child.solved = True
    tree.root.open = 0
    tree.root.solved = True
    assert selection().select(tree) is None
