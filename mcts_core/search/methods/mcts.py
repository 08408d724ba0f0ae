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

    def __init__(self, task: Task, clock: Callable[[], float], started: float) -> None:
        super().__init__(task, clock, started)
        self._selection = Selection(task.parameters.select, self._width)

    def propose(self, tree: Tree) -> Steps[None] | None:
        path = self._selection.select(tree)
        if path is None:
            return None
        self._meter.launched += 1
        for node in path:
            node.virtual += 1
        return self._simulate(tree, path)

    def halt(self, tree: Tree, in_flight: int) -> StopReason | None:
        parameters, meter = self._task.parameters, self._meter
        if self._evaluation.lost and parameters.fallback:
            return "critic_error"
        best = tree.best.score if tree.best is not None else None
        enough = parameters.stop_when.score
        if best is not None and enough is not None and best >= enough:
            return "score"
        if tree.finished and parameters.stop_when.converged and self._converged(tree, in_flight):
            return "converged"
        if tree.root.solved:
            return "exhausted"
        reached = meter.reached(tree, in_flight)
        if reached is None and not tree.finished and parameters.fallback:
            return meter.short(tree, in_flight)
        return reached

    def choose(self, tree: Tree) -> list[Node]:
        return readout.choose(tree, self.readout, self._task.n, self._evaluation)

    @property
    def readout(self) -> readout.Readout:
        """The request's; after the ladder, whose beams have few visits, the best terminal."""
        return "best" if self._ladder.fallback is not None else self._task.parameters.readout

    def _simulate(self, tree: Tree, path: list[Node]) -> Steps[None]:
        """One simulation below the last node of `path`, which selection has chosen.

        Where no critic can say anything of the new state, the simulation goes on from it, down to
        a state that can be valued. An option that merges into a sibling is another visit there.
        """
        began = self._meter.now()
        flying = list(path)
        try:
            while True:
                grown = yield from self._expansion.expand(tree, path[-1], self.name)
                if grown is None:
                    return
                child, new = grown
                path.append(child)
                value = self._evaluation.value(tree, child) if new else _known(child)
                if value is not None:
                    backup(tree, path, value)
                    self._meter.simulated()
                    return
                if not new or self._meter.exhausted(tree, 1) is not None:
                    return
                child.virtual += 1
                flying.append(child)
        finally:
            for node in flying:
                node.virtual -= 1
            self._meter.timed(began)

    def _converged(self, tree: Tree, in_flight: int) -> bool:
        """Whether the readout can no longer change within the budget left.

        `best`: the best terminal has the score 1, and no score beyond 1 was ever seen, as with
        critics that give probabilities. `visits`: at every node of the way down the leader is
        further ahead than all visits left. `value`: means can always change.
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
                left = limit - self._meter.launched + in_flight
                return readout.settled(tree, 2 * left)  # each may back up an absorbed visit, too
            case "value":
                return False


def _known(node: Node) -> float | None:
    return node.mean if node.visits else None
