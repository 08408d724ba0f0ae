"""Adaptive width: how many children a node may have."""

from __future__ import annotations

from mcts_core.search.parameters import Width
from mcts_core.search.tree import Node


class AdaptiveWidth:
    """Importance-based adaptive branching (AlphaLLM, arXiv 2404.12253).

    A node may have `max(min, min(floor(alpha * I) + 1, max))` children, where its importance I is
    the largest difference between a child's score and its own. When all children are solved the
    node may grow up to its maximum: there is nothing else to do below it.
    """

    __slots__ = ("_alpha", "_inner", "_root")

    def __init__(self, parameters: Width) -> None:
        self._root = parameters.root
        self._inner = parameters.inner
        self._alpha = parameters.alpha

    def maximum(self, node: Node) -> int:
        return (self._inner if node.parent is not None else self._root)[1]

    def wanted(self, node: Node) -> int:
        """Options to be drawn together below a node that has room: what it lacks to its minimum,
        or else one more."""
        low = (self._inner if node.parent is not None else self._root)[0]
        return max(1, low - len(node.children) - node.pending)

    def has_room(self, node: Node) -> bool:
        """Whether another option may be drawn; draws in flight count as children."""
        if node.closed:
            return False
        low, high = self._inner if node.parent is not None else self._root
        count = len(node.children) + node.pending
        if count >= low:
            if count >= high:
                return False
            if count > self._alpha * node.importance:
                return not (node.open or node.pending)
        return True
