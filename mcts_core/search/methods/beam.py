"""Beam search as a method of its own."""

from __future__ import annotations

from typing import ClassVar

from mcts_core.search.beam import beam
from mcts_core.search.flow import Steps
from mcts_core.search.methods.base import TreeSearch
from mcts_core.search.parameters import Rung
from mcts_core.search.tree import Tree


class Beam(TreeSearch):
    """One beam search from the prompt; `budget.simulations` does not apply."""

    name: ClassVar[str] = "beam"
    rungs: ClassVar[tuple[Rung, ...]] = ("sample",)
    parallel = 1
    _begun = False

    def propose(self, tree: Tree) -> Steps[None] | None:
        if self._begun:
            return None
        self._begun = True
        return self._search(tree)

    def _search(self, tree: Tree) -> Steps[None]:
        width = self._task.parameters.width.beam
        yield from beam(
            tree,
            [tree.root],
            width,
            self._expansion,
            self._evaluation,
            lambda: self._meter.exhausted(tree.nodes) is not None,
        )
