"""Self-consistency: independent samples, of which the answers vote (arXiv 2203.11171)."""

from __future__ import annotations

from typing import ClassVar

from mcts_core.search.methods.best_of_n import BestOfN
from mcts_core.search.readout import Readout
from mcts_core.search.search import StopReason
from mcts_core.search.tree import Tree


class SelfConsistency(BestOfN):
    """`width.samples` samples as in `best_of_n`; the answer with the most votes wins, and of those
    that give it the one that the critics like best."""

    name: ClassVar[str] = "self_consistency"
    readouts: ClassVar[tuple[Readout, ...]] = ("vote",)

    def halt(self, tree: Tree, in_flight: int) -> StopReason | None:
        """`converged`: the samples that are left cannot overtake the answer in the lead."""
        left = self.count - len(self._done)
        if (
            left
            and self._task.n == 1
            and self._task.parameters.stop_when.converged
            and self._poll.settled(tree, left)
        ):
            return "converged"
        return super().halt(tree, in_flight)
