"""Backup: a value reaches every node of its path."""

from __future__ import annotations

from collections.abc import Sequence

from mcts_core.search.tree import Node, Tree


def backup(tree: Tree, path: Sequence[Node], value: float) -> None:
    """N + 1 and the undiscounted value for every node of `path`, which runs from the root down.

    `mean`: Q is the mean of all values that came through (AlphaLLM, arXiv 2404.12253,
    backpropagation). `max`: Q is the best of the children's, as in Bellman's equation, since the
    search itself chooses every step (Coulom, "Efficient selectivity and backup operators in
    Monte-Carlo tree search", 2006); a node none of whose children has a value yet has its own. The
    children are looked through only where another one may be the best now: where new ones were
    made, and where the one that was best has lost.
    """
    if value < tree.low:
        tree.low = value
    if value > tree.high:
        tree.high = value
    if tree.backup == "mean":
        for node in path:
            node.visits = visits = node.visits + 1
            node.total = total = node.total + value
            node.value = total / visits
            node.share = node.likelihood / (1 + visits)
        return
    below: Node | None = None
    before, counted = 0.0, False  # what `below` was worth, and whether `node` knew
    for node in reversed(path):
        old, visited = node.value, node.visits > 0
        node.visits += 1
        node.total += value
        node.share = node.likelihood / (1 + node.visits)
        if below is None or not counted or below.value < before == old:
            node.value = _best(node, value)
        elif below.value > old:
            node.value = below.value
        below, before, counted = node, old, visited


def _best(node: Node, own: float) -> float:
    """The highest value of the children that have one; `own` where none has."""
    return max([child.value for child in node.children if child.visits], default=own)
