"""Backup: a value reaches every node of its path."""

from __future__ import annotations

from collections.abc import Sequence

from mcts_core.search.tree import Node, Tree


def backup(tree: Tree, path: Sequence[Node], value: float) -> None:
    """N + 1 and the undiscounted value for every node of `path`, which runs from the root down.

    `mean`: Q is the mean of all values that came through (AlphaLLM, arXiv 2404.12253,
    backpropagation). `max`: Q is the best of the children's, as in Bellman's equation, since the
    search itself chooses every step (Coulom, "Efficient selectivity and backup operators in
    Monte-Carlo tree search", 2006); a node none of whose children has a value yet has its own.
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
        return
    for node in reversed(path):
        node.visits += 1
        node.total += value
        node.value = max((child.value for child in node.children if child.visits), default=value)
