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

    The subtrees take their steps together. Where the budget cannot see all of them through, those
    with the best states go on, and the others afterwards with what is left.
    """

    name: ClassVar[str] = "dvts"

    def _grow(self, tree: Tree) -> Steps[None]:
        width = self._task.parameters.width
        options = yield from self._first(tree, width.subtrees, width.beam)
        kept, waiting = self._keep(options, width.subtrees), list[Node]()
        while True:
            frontier = ranked([node for node in kept if node.end is None], self._evaluation)
            self._follow(tree, (*frontier, *waiting))
            frontier = [node for node in frontier if not node.pruned]
            waiting = [node for node in waiting if not node.pruned]
            if not frontier:
                frontier, waiting = ranked(waiting, self._evaluation), []
            shape = self._plan(tree, frontier, width.subtrees, width.beam) if frontier else None
            if shape is None:
                return
            subtrees, draws, most = shape
            waiting = [*frontier[subtrees:], *waiting]
            frontier = frontier[:subtrees]
            grown = yield from gather(
                [
                    attempt(self._expansion.grow(tree, node, draws, self.name, most))
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
