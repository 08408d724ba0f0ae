"""Best of n: independent samples, of which the critics choose."""

from __future__ import annotations

from typing import ClassVar

from mcts_core.search.methods.base import TreeSearch
from mcts_core.search.methods.sampling import Sample
from mcts_core.search.parameters import Rung
from mcts_core.search.readout import Readout
from mcts_core.search.search import StopReason
from mcts_core.search.tree import Node, Tree
from mcts_core.search.work import Extend, Extended


class BestOfN(Sample):
    """`width.samples` samples under the request's own sampling, the highest mixed score first.

    Under a token budget only `parallel` are drawn at a time, so that it can be kept; where the
    deadline is near, one is finished before the others are begun.
    """

    name: ClassVar[str] = "best_of_n"
    rungs: ClassVar[tuple[Rung, ...]] = ("sample",)
    readouts: ClassVar[tuple[Readout, ...]] = ("best", "vote")

    @property
    def count(self) -> int:
        return max(self._task.n, self._task.parameters.width.samples)

    @property
    def parallel(self) -> int:
        parallel = 1 if self.hurried else super().parallel
        if self._task.parameters.budget.tokens is None:
            return parallel
        return min(parallel, self._task.parameters.parallel)

    def halt(self, tree: Tree, in_flight: int) -> StopReason | None:
        """The budget, as of a search."""
        return TreeSearch.halt(self, tree, in_flight)

    def _limit(self) -> int:
        return self._meter.share(self._task.max_tokens, 1, self._places)

    def wants_rest(self, tree: Tree) -> bool:
        """As of a search: one finished sample is worth more than parts of others."""
        return TreeSearch.wants_rest(self, tree)

    def cut(self, tree: Tree, work: Extend, extended: Extended) -> None:
        """As of a search: the ladder goes on from other nodes than the root."""
        TreeSearch.cut(self, tree, work, extended)

    def choose(self, tree: Tree) -> list[Node]:
        return TreeSearch.choose(self, tree)
