"""Selection: the tree policy that leads a simulation to the node to be expanded.

Values are min-max normalised over the tree before they meet the bonus, because critics have unequal
scales (as in mctx and MuZero, arXiv 1911.08265, appendix B): the bonus is stretched to the range of
the values once, rather than every value squeezed into 0..1. A visit in flight counts as one of the
tree's lowest value (virtual loss), so that parallel simulations spread.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isinf, log, sqrt

from mcts_core.search.backup import backup
from mcts_core.search.parameters import Select
from mcts_core.search.tree import Node, Tree
from mcts_core.search.width import AdaptiveWidth

_ROUNDING = 1e-9
"""Of a bonus. Bounds that are the same may differ by it: those of an only child and of a new option
beside it often are, and then the child is followed."""

Rule = Callable[[Node, float, float, bool, bool], Node | None]
"""The child of `node` with the highest bound; of equals the one that was drawn first.

Given the lowest value of the tree, which is that of a visit in flight, and what the bonus is
multiplied by. With the first flag solved children take part, too; with the second a new option
competes, worth what its siblings were on average when they were new. None when that has a higher
bound, or when there is nothing to choose."""


def puct(node: Node, low: float, scale: float, solved: bool, room: bool) -> Node | None:
    """`Q + c * P * sqrt(N_parent) / (1 + N)` (AlphaZero), P being `Node.prior`.

    A new option is unvisited, with an equal share as its prior. (The policy's mass that is left is
    no measure: a policy that is wrong is sure of it.)
    """
    bonus = scale * sqrt(node.visits + node.virtual)
    best: Node | None = None
    best_bound = -inf
    new_bound = -inf
    if room:
        mean = node.scores_below / node.scored if node.scored else low
        new_bound = mean + bonus / (1 + node.taken) - _ROUNDING * scale
    if priors := node.priors:
        bonus /= priors
    for child in node.children:
        if child.solved:
            if not solved or not child.visits:
                continue
        elif child.blocked:
            continue
        if virtual := child.virtual:
            visits = child.visits
            taken = visits + virtual
            bound = (child.value * visits + low * virtual) / taken
            bound += bonus * child.likelihood / (1 + taken)
        elif child.visits:
            bound = child.value + bonus * child.share
        else:
            bound = low + bonus * child.share
        if bound > best_bound:
            best, best_bound = child, bound
    return best if best_bound >= new_bound else None


def uct(node: Node, low: float, scale: float, solved: bool, room: bool) -> Node | None:
    """`Q + c * sqrt(ln(N_parent) / N)` (Kocsis and Szepesvári, 2006); unvisited children first. A
    new option has as many visits as there were draws."""
    explore = log(max(1, node.visits + node.virtual))
    best: Node | None = None
    best_bound = -inf
    new_bound = -inf
    if room:
        mean = node.scores_below / node.scored if node.scored else low
        new_bound = mean + scale * (sqrt(explore / (1 + node.taken)) - _ROUNDING)
    for child in node.children:
        if child.solved:
            if not solved or not child.visits:
                continue
        elif child.blocked:
            continue
        visits, virtual = child.visits, child.virtual
        taken = visits + virtual
        if not taken:
            return child
        mean = (child.value * visits + low * virtual) / taken
        bound = mean + scale * sqrt(explore / taken)
        if bound > best_bound:
            best, best_bound = child, bound
    return best if best_bound >= new_bound else None


def stretched(tree: Tree, c: float) -> tuple[float, float]:
    """The lowest value, and `c` stretched to the range of the values."""
    low, high = tree.low, tree.high
    if low < high:
        return low, c * (high - low)
    return 0.0 if isinf(low) else low, c


RULES: dict[str, Rule] = {"puct": puct, "uct": uct}


class Selection:
    """Walks from the root to a node that has room for another option."""

    __slots__ = ("_c", "_rule", "_width")

    def __init__(self, parameters: Select, width: AdaptiveWidth) -> None:
        self._rule = RULES[parameters.rule]
        self._c = parameters.c
        self._width = width

    def select(self, tree: Tree) -> list[Node] | None:
        """The path from the root to the node to be expanded; None when everything that could be
        expanded waits for simulations in flight, or nothing is left.

        Solved nodes (terminals, and subtrees in which all is known) are absorbing: they are never
        walked into. But where the rule prefers one, its value is backed up once more on the
        way, so that visits and values go on following the rule at no cost.
        """
        rule, width = self._rule, self._width
        low, scale = stretched(tree, self._c)
        node = tree.root
        path = [node]
        absorbed: list[Node] | None = None
        while (room := width.room(node)) != "first":
            if absorbed is None and node.open < len(node.children):
                preferred = rule(node, low, scale, True, False)
                if preferred is not None and preferred.solved:
                    absorbed = [*path, preferred]
            chosen = rule(node, low, scale, False, room is not None)
            if chosen is None:
                if room is None:
                    return None
                break
            node = chosen
            path.append(node)
        if node.solved:
            return None
        if absorbed is not None:
            tree.absorbed += 1
            backup(tree, absorbed, absorbed[-1].value)
        return path

    def deepest(self, tree: Tree) -> list[Node] | None:
        """The path to the deepest leaf that can be expanded now, of equals to the one with the
        highest value: what a trajectory can be finished from soonest. Else as `select`."""
        leaves = [
            node
            for node in tree.walk()
            if not (node.children or node.closed or node.solved or node.blocked or node.pending)
        ]
        if not leaves:
            return self.select(tree)
        return max(leaves, key=lambda node: (node.depth, node.value, -node.id)).path()
