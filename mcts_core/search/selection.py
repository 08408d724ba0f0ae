"""Selection: the tree policy that leads a simulation to the node to be expanded.

Values are min-max normalised over the tree before they meet the bonus, because critics have unequal
scales (as in mctx and MuZero, arXiv 1911.08265, appendix B). A visit in flight counts as one of
the tree's lowest value (virtual loss), so that parallel simulations spread.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log, sqrt

from mcts_core.search.backup import backup
from mcts_core.search.parameters import Select
from mcts_core.search.tree import Node, Tree
from mcts_core.search.width import AdaptiveWidth

Rule = Callable[[Tree, Node, float, bool], tuple[Node | None, float]]
"""The child of `node` with the highest bound, and that bound; with the flag, solved children take
part, too. None when there is no child to choose. Equal children: the one that was drawn first."""


def puct(tree: Tree, node: Node, c: float, solved: bool) -> tuple[Node | None, float]:
    """`Q + c * P * sqrt(N_parent) / (1 + N)` (AlphaZero), P being `Node.prior`.

    The bonus is stretched to the range of the values once, rather than every value squeezed into
    0..1; it is the bound of the chosen one that is.
    """
    low, high = tree.low, tree.high
    span = high - low if high > low else 1.0
    if low > high:
        low = 0.0  # no value was backed up yet
    bonus = c * span * sqrt(node.visits + node.virtual) / node.priors if node.priors else 0.0
    best: Node | None = None
    best_bound = -inf
    for child in node.children:
        visits = child.visits
        if child.solved:
            if not solved or not visits:
                continue
        elif child.blocked:
            continue
        if virtual := child.virtual:
            taken = visits + virtual
            bound = (child.value * visits + low * virtual) / taken
            bound += bonus * child.likelihood / (1 + taken)
        elif visits:
            bound = child.value + bonus * child.likelihood / (1 + visits)
        else:
            bound = low + bonus * child.likelihood
        if bound > best_bound:
            best, best_bound = child, bound
    return best, (best_bound - low) / span


def uct(tree: Tree, node: Node, c: float, solved: bool) -> tuple[Node | None, float]:
    """`Q + c * sqrt(ln(N_parent) / N)` (Kocsis and Szepesvári, 2006); unvisited children first."""
    low = tree.low
    scale = 1.0 / (tree.high - low) if tree.high > low else 0.0
    explore = log(max(1, node.visits + node.virtual))
    best: Node | None = None
    best_bound = -inf
    for child in node.children:
        visits = child.visits
        if child.solved:
            if not solved or not visits:
                continue
        elif child.blocked:
            continue
        taken = visits + child.virtual
        if not taken:
            return child, inf
        bound = (child.value - low) * visits * scale / taken + c * sqrt(explore / taken)
        if bound > best_bound:
            best, best_bound = child, bound
    return best, best_bound


def puct_new(node: Node, c: float) -> float:
    """The bonus of an option that was not drawn yet: unvisited, with an equal share as its prior.
    (The policy's mass that is left is no measure: a policy that is wrong is sure of it.)"""
    return c * sqrt(node.visits + node.virtual) / (1 + node.taken)


def uct_new(node: Node, c: float) -> float:
    """The same for `uct`, which knows no priors: as many visits as there were draws."""
    return c * sqrt(log(max(1, node.visits + node.virtual)) / (1 + node.taken))


RULES: dict[str, tuple[Rule, Callable[[Node, float], float]]] = {
    "puct": (puct, puct_new),
    "uct": (uct, uct_new),
}


class Selection:
    """Walks from the root to a node that has room for another option."""

    __slots__ = ("_bonus", "_c", "_rule", "_width")

    def __init__(self, parameters: Select, width: AdaptiveWidth) -> None:
        self._rule, self._bonus = RULES[parameters.rule]
        self._c = parameters.c
        self._width = width

    def select(self, tree: Tree) -> list[Node] | None:
        """The path from the root to the node to be expanded; None when everything that could be
        expanded waits for simulations in flight, or nothing is left.

        Solved nodes (terminals, and subtrees in which all is known) are absorbing: they are never
        walked into. But where the rule prefers one, its value is backed up once more on the
        way, so that visits and values go on following the rule at no cost.
        """
        rule, c = self._rule, self._c
        has_room, comes_first = self._width.has_room, self._width.comes_first
        node = tree.root
        path = [node]
        absorbed: list[Node] | None = None
        while True:
            room = has_room(node)
            if room and comes_first(node):
                break
            if absorbed is None and node.open < len(node.children):
                preferred, _ = rule(tree, node, c, True)
                if preferred is not None and preferred.solved:
                    absorbed = [*path, preferred]
            chosen, bound = rule(tree, node, c, False)
            if room and (chosen is None or self._new(tree, node) > bound):
                break
            if chosen is None:
                return None
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

    def _new(self, tree: Tree, node: Node) -> float:
        """The bound of a new option below `node`: what its siblings were worth on average when
        they were new, and the rule's bonus."""
        bonus = self._bonus(node, self._c)
        if not node.scored or tree.high <= tree.low:
            return bonus
        mean = node.scores_below / node.scored
        return (mean - tree.low) / (tree.high - tree.low) + bonus
