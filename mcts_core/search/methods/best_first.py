"""Best-first search: the most promising state of the whole tree is expanded next, as in A*."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import ClassVar

from mcts_core.search.backup import backup
from mcts_core.search.flow import Steps
from mcts_core.search.methods.base import TreeSearch
from mcts_core.search.parameters import Rung
from mcts_core.search.search import StopReason
from mcts_core.search.task import Task
from mcts_core.search.tree import Node, Tree

_SCALE = 0.1
"""A nat of log-likelihood per token weighs as much as a tenth of a score: the policy decides
between states that the critics like about equally."""


class BestFirst(TreeSearch):
    """A frontier ordered by `f = g + h`; the first terminal that leads it ends the search.

    g is the policy's part: the mean log-likelihood of the trajectory's tokens so far, times 0.1.
    h is the critics': the mixed score. A state that no critic speaks of has its parent's h; where
    nothing is known yet h is 1, the best that a probability can be, so that what is unknown is
    looked into before a terminal wins; without critics h is 0. Unlike A*'s, this h promises no
    bound: the terminal found need not be the best there is.

    An expansion draws the node's minimum width (`width.root`, `width.inner`) together. As long as
    it may have more children the node then returns to the frontier, for one more: with the mean of
    its own h and its children's, and with the g of the least likely of them, since what was not
    drawn is hardly likelier (after partial-expansion A*, Yoshizumi et al., AAAI 2000).

    Up to `parallel` of the best nodes are expanded at a time. A terminal leads only when nothing is
    under way that could rank before it; for `n` trajectories, `n` terminals have to.
    """

    name: ClassVar[str] = "best_first"
    rungs: ClassVar[tuple[Rung, ...]] = ("beam", "sample")

    def __init__(self, task: Task, clock: Callable[[], float], started: float) -> None:
        super().__init__(task, clock, started)
        self._frontier: list[tuple[float, int, int, Node]] = []
        """A heap of (-f, -depth, id, node): of equals the deepest, then the first found."""
        self._hopes: dict[Node, float] = {}
        """h of the nodes that were put on the frontier."""
        self._begun = False
        self._winners = 0

    def propose(self, tree: Tree) -> Steps[None] | None:
        if not self._begun:
            self._begun = True
            h = 0.0 if self._evaluation.blind else 1.0
            self._hopes[tree.root] = h if tree.root.score is None else tree.root.score
            self._push(tree.root, 0.0, self._hopes[tree.root])
        if not self._frontier or self._frontier[0][-1].end == "stop":
            return None  # nothing may pass a terminal, but those under way may come before it
        if self.hurried:
            node, count = self._deepest(), 1
        else:
            *_, node = heappop(self._frontier)
            count = self._outlook.affordable(tree, self._width.wanted(node))
        most = self._meter.share(self._expansion.draws.longest(node), count, self._places)
        self._meter.launch(count)
        return self._expand(tree, node, count, most)

    def halt(self, tree: Tree, in_flight: int) -> StopReason | None:
        parameters, meter = self._task.parameters, self._meter
        if self._evaluation.lost and parameters.fallback:
            return "critic_error"
        if self.good_enough(tree):
            return "score"
        if parameters.stop_when.converged:
            if in_flight == 0 and self._take_winners(self._task.n):
                return "converged"
        else:
            self._take_winners(None)
        reached = meter.reached(tree)
        if reached is None and not tree.finished and parameters.fallback:
            return self._outlook.short(tree, self._ladder.start)
        return reached

    def committed(self) -> None:
        self._frontier = [
            entry
            for entry in self._frontier
            if not entry[-1].pruned and (entry[-1].end == "stop" or not entry[-1].closed)
        ]
        heapify(self._frontier)

    def _take_winners(self, wanted: int | None) -> bool:
        """Takes leading terminals off the frontier; True once there were as many as wanted."""
        frontier = self._frontier
        while self._winners != wanted and frontier and frontier[0][-1].end == "stop":
            heappop(frontier)
            self._winners += 1
        return self._winners == wanted

    def _expand(self, tree: Tree, node: Node, count: int, most: int) -> Steps[None]:
        elsewhere = node.elsewhere
        try:
            new = yield from self._expansion.fill(tree, node, count, self.name, most)
            values = [
                value for child in new if (value := self._first_visit(tree, child)) is not None
            ]
            if values:
                backup(tree, node.path(), max(values))
                self._meter.simulated()
            self._follow(node, new, moved=bool(new) or node.elsewhere > elsewhere)
        finally:
            self._meter.land(count)

    def _follow(self, node: Node, new: list[Node], *, moved: bool) -> None:
        """Puts the new children on the frontier, and `node` again if its options were new ones
        (`moved`) and there may be more of them."""
        own = self._hopes[node]
        for child in new:
            self._hopes[child] = own if child.score is None else child.score
            if child.end != "length":
                self._push(child, _g(child), self._hopes[child])
        if moved and not node.closed:
            hopes = [own, *(self._hopes[child] for child in node.children)]
            g = min(map(_g, node.children), default=_g(node))
            self._push(node, g, sum(hopes) / len(hopes))
        elif node.children:
            self._evaluation.release(node)

    def _deepest(self) -> Node:
        """Takes the deepest node off the frontier, of equals the one with the highest f."""
        entry = min(self._frontier, key=lambda entry: (entry[1], entry[0], entry[2]))
        self._frontier.remove(entry)
        heapify(self._frontier)
        return entry[-1]

    def _push(self, node: Node, g: float, h: float) -> None:
        heappush(self._frontier, (-(g + h), -node.depth, node.id, node))


def _g(node: Node) -> float:
    return _SCALE * node.logprob / node.length if node.length else 0.0
