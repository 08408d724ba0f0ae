"""Backup: a value reaches every node of its path."""

from __future__ import annotations

from collections.abc import Iterable

from mcts_core.search.tree import Node, Tree


def backup(tree: Tree, path: Iterable[Node], value: float) -> None:
    """N + 1 and the undiscounted value for every node of `path`, which begins at the root; Q is
    the mean (AlphaLLM, arXiv 2404.12253, backpropagation)."""
    if value < tree.low:
        tree.low = value
    if value > tree.high:
        tree.high = value
    for node in path:
        node.visits += 1
        node.total += value
