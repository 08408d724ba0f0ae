"""Beam search as a method of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from mcts_core.search.beam import beam
from mcts_core.search.flow import Steps
from mcts_core.search.methods.base import TreeSearch
from mcts_core.search.parameters import Rung
from mcts_core.search.search import StopReason
from mcts_core.search.task import Task
from mcts_core.search.tree import Node, Tree


class Beam(TreeSearch):
    """One beam search from the prompt, as wide as the budget can see through; `budget.simulations`
    does not apply."""

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
        return self._grow(tree)

    def halt(self, tree: Tree, in_flight: int) -> StopReason | None:
        """A terminal that is good enough, or the limit that the next step would break."""
        return "score" if self.good_enough(tree) else self._limit

    def due(self, tree: Tree) -> Node | None:
        """None: steps are committed between those of the beam (`_follow`)."""
        return None

    def _grow(self, tree: Tree) -> Steps[None]:
        width = self._task.parameters.width.beam
        options = yield from self._first(tree, width, width)
        yield from beam(
            tree,
            options,
            width,
            self._expansion,
            self._evaluation,
            lambda states: self._plan(tree, states, width, width),
            lambda states: self._follow(tree, states),
        )

    def _follow(self, tree: Tree, states: Sequence[Node]) -> None:
        if self._commitment is not None:
            self._commitment.follow(tree, states)

    def _first(self, tree: Tree, beams: int, draws: int) -> Steps[list[Node]]:
        """The root's options.

        At first no more are drawn than there is room for if they are as long as options may be;
        what these cost then says how many more there may be.
        """
        root, most = tree.root, max(beams, draws)
        if self._plan(tree, [root], beams, draws) is None:
            return []
        count = 1 if self._outlook.hurried(tree) else self._outlook.affordable(tree, most)
        options = yield from self._expansion.grow(tree, root, count, self.name)
        if options and count < most and not root.closed:
            shape = self._plan(tree, [root], beams, most)
            more = shape[1] - len(options) if shape is not None else 0
            if more > 0:
                options += yield from self._expansion.grow(tree, root, more, self.name)
        if options:
            self._evaluation.release(root)
        return options

    def _plan(
        self, tree: Tree, states: Sequence[Node], beams: int, draws: int
    ) -> tuple[int, int, int] | None:
        """How many of `states` take the next step, and with how many draws each: the most that
        leave what the steps after it take; and the tokens that an option may have. None where not
        even one draw breaks no limit, or a terminal is good enough; with a terminal, a path that
        cannot be finished is not begun."""
        meter, outlook, best = self._meter, self._outlook, states[0]
        finished = tree.finished
        self._limit = outlook.finishing(tree, best) if finished else meter.exhausted(tree, 1)
        if self.halt(tree, 0) is not None:
            return None
        beams, draws = outlook.widest(tree, best, min(beams, len(states)), draws)
        return beams, draws, meter.share(self._task.max_tokens, beams * draws)
