"""Beam search as a method of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from mcts_core.search.beam import beam
from mcts_core.search.flow import Steps
from mcts_core.search.methods.base import TreeSearch
from mcts_core.search.parameters import Rung
from mcts_core.search.search import StopReason
from mcts_core.search.task import Task
from mcts_core.search.tree import Tree


class Beam(TreeSearch):
    """One beam search from the prompt; `budget.simulations` does not apply."""

    name: ClassVar[str] = "beam"
    rungs: ClassVar[tuple[Rung, ...]] = ("sample",)
    parallel = 1

    def __init__(self, task: Task, clock: Callable[[], float], started: float) -> None:
        super().__init__(task, clock, started)
        self._begun = False
        self._limit: StopReason | None = None

    def propose(self, tree: Tree) -> Steps[None] | None:
        if self._begun:
            return None
        self._begun = True
        width = self._task.parameters.width.beam
        return beam(tree, [tree.root], width, self._expansion, self._evaluation, self._halted)

    def halt(self, tree: Tree, in_flight: int) -> StopReason | None:
        """A terminal that is good enough, or the limit that the beam's next step would break."""
        return "score" if self.good_enough(tree) else self._limit

    def _halted(self, draws: int) -> bool:
        assert self._tree is not None
        self._limit = self._meter.exhausted(self._tree, draws)
        return self.halt(self._tree, 0) is not None
