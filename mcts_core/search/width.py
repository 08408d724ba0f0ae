"""Adaptive width: how many children a node may have."""

from __future__ import annotations

from typing import Literal

from mcts_core.search.parameters import Width
from mcts_core.search.tree import Node

Room = Literal["first", "beside"]
"""For another option: before anything below its parent grows, or in competition with that."""


class AdaptiveWidth:
    """How many children a node may have, and when it gets them.

    `importance`: a node may have `max(min, min(floor(alpha * I) + 1, max))` children, where its
    importance I is the largest difference between a child's score and its own (AlphaLLM, arXiv
    2404.12253, importance-based adaptive branching), and gets them before anything below it grows.
    When all children are solved it may grow up to its maximum: there is nothing else to do below.

    `progressive`: up to its minimum a node gets its children first; from there to its maximum the
    next one competes with those that are there, by its bound (`Selection`).
    """

    __slots__ = ("_alpha", "_inner", "_progressive", "_root")

    def __init__(self, parameters: Width, actions: int = 0) -> None:
        """`actions`: how many options there are, if their number is fixed: where the maximum has
        room for all of them, all are drawn at once."""
        self._root = _within(parameters.root, actions)
        self._inner = _within(parameters.inner, actions)
        self._alpha = parameters.alpha
        self._progressive = parameters.rule == "progressive"

    def maximum(self, node: Node) -> int:
        return (self._inner if node.parent is not None else self._root)[1]

    def wanted(self, node: Node) -> int:
        """Options to be drawn together below a node that has room: what it lacks to its minimum,
        or else one more."""
        low = (self._inner if node.parent is not None else self._root)[0]
        return max(1, low - node.taken)

    def room(self, node: Node) -> Room | None:
        """Whether another option may be drawn; draws in flight count as children. "first": before
        anything below `node` grows."""
        if node.closed:
            return None
        low, high = self._inner if node.parent is not None else self._root
        count = len(node.children) + node.elsewhere + node.pending  # `taken`, on the hot path
        if count < low:
            return "first"
        if count >= high:
            return None
        if self._progressive and node.open:
            return "beside"
        if self._progressive or count > self._alpha * node.importance:
            return None if node.open or node.pending else "first"
        return "first"


def _within(bounds: tuple[int, int], actions: int) -> tuple[int, int]:
    return (actions, actions) if 0 < actions <= bounds[1] else bounds
