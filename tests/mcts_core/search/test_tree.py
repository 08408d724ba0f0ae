from __future__ import annotations

from math import isfinite
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search.backup import backup
from mcts_core.search.expansion import Expansion
from mcts_core.search.flow import Steps
from mcts_core.search.methods.mcts import MCTS
from mcts_core.search.parameters import Budget, SearchParameters, StopWhen
from mcts_core.search.selection import Selection
from mcts_core.search.tree import Node, Tree
from mcts_core.search.work import Option, TokenLogprob
from tests.mcts_core.search.driver import build, drive, grow
from tests.mcts_core.search.test_repeatability import PARAMETERS
from tests.mcts_core.search.world import World, WorldState


def option(text: str, logprob: float = -1.0, scores: dict[str, float] | None = None) -> Option:
    tokens = tuple(map(ord, text))
    logprobs = tuple(TokenLogprob(token, logprob) for token in tokens)
    draws = (logprob,) * len(tokens)
    return Option(WorldState(tokens), tokens, logprobs, draws, text, "step", scores or {})


def new_tree() -> Tree:
    return Tree(WorldState(()), "mcts")


def valued(node: Node) -> bool:
    """Whether the node was worth something by itself when it was new."""
    return node.visits > 0 and (node.score is not None or node.end is not None)


def worth(node: Node) -> float:
    """The value of its own evaluation."""
    if not valued(node):
        return 0.0
    if node.end == "length":
        return node.value  # no more than the worst that the tree had seen by then
    return node.score if node.score is not None else node.trajectory_likelihood


class Ledger:
    """Writes down what every expansion and every absorbed visit came to."""

    def __init__(self, expansion: Expansion, selection: Selection) -> None:
        self.drawn: dict[Node, list[list[Node]]] = {}
        self.ended: dict[Node, list[float]] = {}
        self._expansion = expansion
        self._selection = selection

    def expand(
        self, tree: Tree, node: Node, count: int, origin: str, most: int
    ) -> Steps[tuple[list[Node], Node | None]]:
        new, merged = yield from self._expansion.expand(tree, node, count, origin, most)
        self.drawn.setdefault(node, []).append(new)
        if merged is not None and merged.visits:
            at = merged if merged.parent is node else node
            self.ended.setdefault(at, []).append(merged.value)
        return new, merged

    def select(self, tree: Tree) -> list[Node] | None:
        """Where a visit was absorbed, its path ends in a solved node, the only one of the path."""
        before = {node: (node.visits, node.value) for node in tree.walk() if node.solved}
        path = self._selection.select(tree)
        for node, (visits, value) in before.items():
            if node.visits > visits:
                self.ended.setdefault(node, []).append(value)
        return path

    def deepest(self, tree: Tree) -> list[Node] | None:
        return self._selection.deepest(tree)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._expansion, name)


def accounted(world: World, parameters: SearchParameters, seed: int, order: int) -> Tree:
    """Grows a tree and checks the identity of `Node`'s docstring, and the same of the values."""
    search = build(world, parameters, seed=seed)
    assert isinstance(search, MCTS)
    ledger = Ledger(search._expansion, search._selection)
    search._expansion = search._selection = ledger  # type: ignore[assignment]
    drive(search, world, shuffle=order)
    tree = search._tree
    assert tree is not None
    for node in tree.walk():
        drawn = [[child for child in new if valued(child)] for new in ledger.drawn.get(node, [])]
        drawn = [new for new in drawn if new]
        drawn += [[child] for child in node.children if child.origin != "mcts" and valued(child)]
        ended = ledger.ended.get(node, [])
        visits = valued(node) + len(drawn) + len(ended)
        total = worth(node) + sum(max(map(worth, new)) for new in drawn) + sum(ended)
        for child in node.children:
            visits += child.visits - valued(child)
            total += child.total - worth(child)
        assert node.visits == visits
        assert node.total == pytest.approx(total, abs=1e-9)
    return tree


@settings(max_examples=60, deadline=None)
@given(parameters=PARAMETERS, seed=st.integers(0, 3), order=st.integers(0, 2**32))
def test_visits_and_values_of_a_node_are_those_below_it(
    parameters: SearchParameters, seed: int, order: int
) -> None:
    accounted(World(critic_noise=0.5), parameters, seed, order)


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
    assert isinstance(search, MCTS)
    assert search._meter.flying == 0
    for node in nodes:
        through = sum(child.visits - valued(child) for child in node.children)
        new = sum(valued(child) for child in node.children)
        ended = node.visits - valued(node) - through
        assert ended >= (new > 0), "whatever was valued has reached its parent"
        if not tree.merged and not node.solved:
            assert ended <= new, "beside new children and its own evaluation nothing ends here"
            if node.parent is None and parameters.width.root[0] == 1:
                assert ended == new, "children drawn one by one are a visit each"
        assert node.virtual == 0
        assert node.pending == 0
        assert not node.blocked or (expire_after is not None)
        assert node.open == sum(not child.solved for child in node.children)
        assert node.finished == any(child.finished for child in node.children) or node.end == "stop"
        assert node.depth <= parameters.max_depth
        if node.end == "stop":
            assert not node.children, "a terminal is absorbing"
            assert node in tree.terminals
        assert node.share == node.likelihood / (1 + node.visits)
        if node.visits:
            assert tree.low - 1e-9 <= node.value <= tree.high + 1e-9
            below = [child.value for child in node.children if child.visits]
            if tree.backup == "mean":
                assert node.value == node.total / node.visits
            elif below and expire_after is None:
                assert node.value == max(below)
        if parameters.critics and node.score is not None:
            assert 0.0 <= node.score <= 1.0
            assert isfinite(node.score)
        # Where the budget tears an option off is no step: two of them may be alike.
        texts = [child.text for child in node.children if child.end != "length"]
        assert len(texts) == len(set(texts)), "siblings say different things"
    evaluated = tree.root.score is not None
    counted = evaluated + search._meter.simulations + tree.absorbed
    if search._ladder.fallback is None:
        assert tree.root.visits == counted
    else:
        assert tree.root.visits >= counted, "what the ladder grows is no simulation"


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


def statistics(node: Node) -> tuple[object, ...]:
    return node.visits, node.total, node.value, node.virtual, node.draws, node.merged, node.score


def grown_at_random(data: st.DataObject, tree: Tree) -> list[Node]:
    """Adds nodes of all kinds, in any place, and backs their values up."""
    nodes = [tree.root]
    for _ in range(data.draw(st.integers(2, 30))):
        parent = data.draw(st.sampled_from([node for node in nodes if node.end is None]))
        if parent.closed:
            continue
        end = data.draw(st.sampled_from([None, None, "stop", "length"]))
        score = data.draw(st.none() | st.sampled_from([0.1, 0.5, 0.5, 0.9]))
        child = tree.add(parent, option(f"{len(nodes)},"), end, "mcts")
        if score is not None:
            child.rate(score)
        nodes.append(child)
        best = None if tree.best is None else tree.best.score
        if end == "stop" and score is not None and (best is None or score > best):
            tree.best = child
        if score is not None:
            backup(tree, child.path(), score)
        if data.draw(st.booleans()):
            closing = data.draw(st.sampled_from(nodes))
            closing.closed = True
            tree.settle(closing)
    return nodes


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_node_knows_its_childrens_scores(data: st.DataObject) -> None:
    """However often critics change their minds."""
    tree = new_tree()
    nodes = grown_at_random(data, tree)
    for node in data.draw(st.lists(st.sampled_from(nodes), max_size=20)):
        node.rate(data.draw(st.floats(-1, 1)))
    for node in nodes:
        known = [child.score for child in node.children if child.score is not None]
        assert node.scored == len(known)
        assert node.scores_below == pytest.approx(sum(known), abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_pruning_keeps_what_is_known_of_what_stays(data: st.DataObject) -> None:
    tree = new_tree()
    nodes = grown_at_random(data, tree)
    known = {node: statistics(node) for node in nodes}
    size, depth, low, high = tree.nodes, tree.depth, tree.low, tree.high
    found = list(tree.terminals)
    gone: list[Node] = []
    base = tree.root
    while base.children:
        child = data.draw(st.sampled_from(base.children))
        beside = {node for node in tree.walk() if base in node.path() and child not in node.path()}
        gone_now = tree.prune(child)
        assert len(gone_now) == len(set(gone_now))
        assert {*gone_now} == beside - {base}, "the siblings, and all below them"
        gone += gone_now
        assert tree.pruned == gone
        base = child

        kept = list(tree.walk())
        assert {*kept} == {*nodes} - {*gone}
        assert all(node.pruned == (node in gone) for node in nodes)
        assert {node: statistics(node) for node in nodes} == known
        assert (tree.nodes, tree.depth, tree.low, tree.high) == (size, depth, low, high)
        assert tree.terminals == [node for node in found if node not in gone], "in their order"
        scored = [node for node in tree.terminals if node.score is not None]
        assert tree.best is max(scored, key=lambda node: node.score or 0.0, default=None)
        assert tree.length == max(node.length for node in kept if node.end is None)
        assert tree.longest == max((node.length for node in found), default=0)
        above = base.path()[:-1]
        assert all(node.closed and len(node.children) == 1 for node in above)
        for node in kept:
            assert node.open == sum(not child.solved for child in node.children)
            closed = node.closed and not node.open and not node.pending
            assert node.solved == (node.end is not None or closed)
    assert tree.root.solved == base.solved
