"""Monte-Carlo tree search over options (eta-MCTS; AlphaLLM, arXiv 2404.12253)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from mcts_core.search import readout
from mcts_core.search.backup import backup
from mcts_core.search.flow import Steps
from mcts_core.search.methods.base import TreeSearch
from mcts_core.search.parameters import Rung
from mcts_core.search.search import StopReason
from mcts_core.search.selection import Selection
from mcts_core.search.task import Task
from mcts_core.search.tree import Node, Tree


class MCTS(TreeSearch):
    """Select, expand, evaluate, backup; up to `parallel` simulations at a time."""

    name: ClassVar[str] = "mcts"
    rungs: ClassVar[tuple[Rung, ...]] = ("beam", "sample")
    readouts: ClassVar[tuple[readout.Readout, ...]] = ("best", "visits", "value", "vote")

    def __init__(self, task: Task, clock: Callable[[], float], started: float) -> None:
        super().__init__(task, clock, started)
        self._selection = Selection(task.parameters.select, self._width)

    def propose(self, tree: Tree) -> Steps[None] | None:
        hurried = self.hurried
        path = self._selection.deepest(tree) if hurried else self._selection.select(tree)
        if path is None:
            return None
        count = 1
        if self._evaluation.sighted and not hurried:
            count = self._outlook.affordable(tree, self._width.wanted(path[-1]))
        most = self._meter.share(self._expansion.draws.longest(path[-1]), count, self._places)
        self._meter.launch(count)
        for node in path:
            node.virtual += 1
        return self._simulate(tree, path, count, most)

    def halt(self, tree: Tree, in_flight: int) -> StopReason | None:
        parameters, meter = self._task.parameters, self._meter
        if self._evaluation.lost and parameters.fallback:
            return "critic_error"
        if self.good_enough(tree):
            return "score"
        if tree.finished and parameters.stop_when.converged and self._converged(tree):
            return "converged"
        if tree.root.solved:
            return "exhausted"
        reached = meter.reached(tree)
        if reached is None and not tree.finished and parameters.fallback:
            return self._outlook.short(tree, self._ladder.start)
        return reached

    @property
    def readout(self) -> readout.Readout:
        """The request's; after the ladder, whose beams have few visits, none that goes by them."""
        asked = super().readout
        return "best" if self._ladder.fallback is not None and asked != "vote" else asked

    def _simulate(self, tree: Tree, path: list[Node], count: int, most: int) -> Steps[None]:
        """One simulation below the last node of `path`, which selection has chosen: `count` options
        of at most `most` tokens are drawn and evaluated, and the best of their values is backed up.

        Where no critic can say anything of a new state, the simulation goes on from there, down to
        a state that can be valued. Options that merge into a sibling are another visit there; those
        that lead to a state elsewhere in the tree end here, with its value.
        """
        flying = list(path)
        draws = count
        try:
            while True:
                new, merged = yield from self._expansion.expand(
                    tree, path[-1], draws, self.name, most
                )
                values = [
                    value for child in new if (value := self._first_visit(tree, child)) is not None
                ]
                if merged is not None and merged.visits:
                    if merged.parent is path[-1]:
                        path.append(merged)
                    values.append(merged.value)
                if values:
                    backup(tree, path, max(values))
                    self._meter.simulated()
                    return
                if not new or self._meter.exhausted(tree, 1, self._meter.flying - 1):
                    return
                path.append(new[0])
                new[0].virtual += 1
                flying.append(new[0])
                draws = 1
        finally:
            for node in flying:
                node.virtual -= 1
            self._meter.land(count)

    def _converged(self, tree: Tree) -> bool:
        """Whether the readout can no longer change within the budget left.

        `best`: the best terminal has the score 1, and no score beyond 1 was ever seen, as with
        critics that give probabilities. `visits`: at every node of the way down the leader is
        further ahead than all visits left. `value` and `vote`: values can always change, and nobody
        knows how many terminals are still to be found.
        """
        if self._task.n > 1:
            return False
        match self._task.parameters.readout:
            case "best":
                best = tree.best.score if tree.best is not None else None
                return best is not None and best >= 1.0 >= tree.high
            case "visits":
                limit = self._task.parameters.budget.simulations
                if limit is None:
                    return False
                left = limit - self._meter.simulations
                return readout.settled(tree, 2 * left)  # each may back up an absorbed visit, too
            case "value" | "vote":
                return False
