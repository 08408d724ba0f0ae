"""Readout: which trajectories of a finished tree are returned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from mcts_core.search.evaluation import Evaluation
from mcts_core.search.tree import Node, Tree
from mcts_core.search.votes import Poll

Readout = Literal["best", "visits", "value", "vote"]


def choose(
    tree: Tree, readout: Readout, n: int, evaluation: Evaluation, poll: Poll | None = None
) -> list[Node]:
    """At most `n` ends of distinct texts, best first. `poll`: the votes counted so far.

    Terminals come first. Unfinished ends only fill up what the terminals leave free; other
    unfinished nodes are returned only where there is nothing else.
    """
    chosen = _distinct(terminals(tree, readout, evaluation, poll), n)
    if len(chosen) < n:
        leaves = [node for node in tree.walk() if node.parent is not None and not node.children]
        ends = [node for node in leaves if node.end == "length"]
        ends.sort(key=evaluation.rank, reverse=True)
        chosen = _distinct([*chosen, *ends], n)
        if not chosen:
            leaves.sort(key=evaluation.rank, reverse=True)
            chosen = _distinct((node for node in leaves if node.end is None), n)
    return chosen


def terminals(
    tree: Tree, readout: Readout, evaluation: Evaluation, poll: Poll | None = None
) -> Iterable[Node]:
    """All terminals, best first.

    `best` orders them by mixed score. `visits` and `value` walk down from the root to the child
    with the most visits or the highest value, among those that lead to a terminal; the next best
    are found by walking back up as little as possible. `vote` begins with the best terminal of
    each answer, the answer with the most votes first.
    """
    if readout == "vote":
        return (poll or Poll(evaluation)).rank(tree)
    if readout == "best":
        return sorted(tree.terminals, key=evaluation.rank, reverse=True)
    return _descend(tree, _by_visits if readout == "visits" else _by_value)


def settled(tree: Tree, visits_left: int) -> bool:
    """Whether the `visits` readout stays the same however `visits_left` more visits fall."""
    node = tree.root
    while node.children:
        finished = [child for child in node.children if child.finished]
        if not finished:
            return False
        leader = max(finished, key=_by_visits)
        rivals = [
            child.visits
            for child in node.children
            if child is not leader and (child.finished or not child.solved)
        ]
        alone = node.closed and not rivals
        if not alone and leader.visits - max(rivals, default=0) <= visits_left:
            return False
        node = leader
    return node.end == "stop"


def _by_visits(node: Node) -> tuple[float, float, int]:
    return node.visits, node.value, -node.id


def _by_value(node: Node) -> tuple[float, float, int]:
    return node.value, node.visits, -node.id


def _descend(tree: Tree, key: Callable[[Node], tuple[float, float, int]]) -> Iterator[Node]:
    stack = [tree.root]
    while stack:
        node = stack.pop()
        if node.end == "stop":
            yield node
        stack.extend(sorted((child for child in node.children if child.finished), key=key))


def _distinct(nodes: Iterable[Node], n: int) -> list[Node]:
    """The first `n` whose texts differ."""
    chosen: dict[str, Node] = {}
    for node in nodes:
        if len(chosen) >= n:
            break
        chosen.setdefault(node.completion, node)
    return list(chosen.values())
