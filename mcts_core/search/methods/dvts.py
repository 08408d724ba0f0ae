"""Diverse verifier tree search: several independent subtrees instead of one beam.

Beeching, Tunstall and Rush, "Scaling test-time compute with open models" (2024): a beam that is led
by one verifier collapses into a few states; subtrees that do not compete stay apart.
"""

from __future__ import annotations

from typing import ClassVar

from mcts_core.search.beam import ranked
from mcts_core.search.flow import Steps, WorkFailed, attempt, gather
from mcts_core.search.methods.beam import Beam
from mcts_core.search.tree import Node, Tree
from mcts_core.search.work import Failed


class DVTS(Beam):
    """`width.subtrees` subtrees, each begun by one of the root's best options, each grown by the
    best of `width.beam` candidates a step; the best terminal of all is returned.

    The subtrees take their steps together. When a step of all of them would break the budget, those
    with the best states go on.
    """

    name: ClassVar[str] = "dvts"

    def propose(self, tree: Tree) -> Steps[None] | None:
        if self._begun:
            return None
        self._begun = True
        return self._grow(tree)

    def _grow(self, tree: Tree) -> Steps[None]:
        width = self._task.parameters.width
        count = self._meter.affordable(tree, max(width.beam, width.subtrees))
        if self._halted(count):
            return
        options = yield from self._expansion.grow(tree, tree.root, count, self.name)
        kept = self._keep(options, width.subtrees)
        self._evaluation.release(tree.root)
        while frontier := [node for node in kept if node.end is None]:
            frontier = self._affordable(tree, frontier)
            if not frontier:
                return
            grown = yield from gather(
                [
                    attempt(self._expansion.grow(tree, node, width.beam, self.name))
                    for node in frontier
                ]
            )
            full = [failed for failed in grown if isinstance(failed, Failed)]
            if len(full) == len(grown):
                raise WorkFailed(full[0])
            kept = []
            for node, new in zip(frontier, grown, strict=True):
                if isinstance(new, list) and new:
                    kept += self._keep(new, 1)
                    self._evaluation.release(node)

    def _keep(self, candidates: list[Node], count: int) -> list[Node]:
        """The best `count`; the KV of the others is given back once they are scored."""
        best = ranked(candidates, self._evaluation)
        for node in best[count:]:
            if node.end is None or not self._evaluation.missing(node):
                self._evaluation.release(node)
        return best[:count]

    def _affordable(self, tree: Tree, frontier: list[Node]) -> list[Node]:
        """As many of the frontier, best first, as one more step of theirs breaks no limit; none
        once a terminal is good enough."""
        if self.good_enough(tree):
            return []
        width = self._task.parameters.width.beam
        best = ranked(frontier, self._evaluation)
        while best and (limit := self._meter.exhausted(tree, len(best) * width)):
            self._limit = limit
            best.pop()
        return best
