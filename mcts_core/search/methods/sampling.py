"""Plain decoding: independent samples, and the greedy trajectory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from mcts_core.search.flow import Steps, WorkFailed
from mcts_core.search.methods.base import TreeSearch, cut_end
from mcts_core.search.readout import Readout
from mcts_core.search.search import StopReason
from mcts_core.search.task import Task
from mcts_core.search.tree import Node, Tree
from mcts_core.search.work import Boundary, Extend, Extended, Sampling


class Sample(TreeSearch):
    """`n` independent samples under the request's own sampling, in the order of their choices.

    They are bounded by `n`, `max_tokens` and the deadline; the other budgets are a search's.
    """

    name: ClassVar[str] = "sample"
    step_scores: ClassVar[bool] = False
    whole: ClassVar[bool] = True
    readouts: ClassVar[tuple[Readout, ...]] = ("best",)

    def __init__(self, task: Task, clock: Callable[[], float], started: float) -> None:
        super().__init__(task, clock, started)
        self._waiting = list(range(self.count))
        self._retried: set[int] = set()
        self._done: dict[int, Node] = {}

    @property
    def count(self) -> int:
        """Trajectories to draw."""
        return self._task.n

    @property
    def sampling(self) -> Sampling:
        return self._task.sampling

    @property
    def parallel(self) -> int:
        """One at a time once the KV pool was full."""
        return 1 if self._retried else self.count

    def propose(self, tree: Tree) -> Steps[None] | None:
        return self._draw(tree, self._waiting.pop(0)) if self._waiting else None

    def halt(self, tree: Tree, in_flight: int) -> StopReason | None:
        """Never: all samples that were asked for are drawn, within the deadline."""
        return None

    def choose(self, tree: Tree) -> list[Node]:
        if self._task.stream and len(self._done) < self.count:
            return []  # part of a choice may be out already: it cannot be left out now
        return [self._done[index] for index in sorted(self._done)]

    def wants_rest(self, tree: Tree) -> bool:
        """Every choice is asked for."""
        return True

    def cut(self, tree: Tree, work: Extend, extended: Extended) -> None:
        """A choice that the deadline found unfinished is returned as far as it came."""
        (option,) = extended.options
        self._done[work.key[0]] = tree.add(tree.root, option, cut_end(option), self.name)

    def _limit(self) -> int:
        """Most tokens of the next sample."""
        return self._task.max_tokens

    def _draw(self, tree: Tree, index: int) -> Steps[None]:
        """One trajectory; when the KV pool is full it is drawn once more, after the others."""
        state = tree.root.state
        assert state is not None
        work = Extend(
            state,
            self.sampling,
            (index, 0),  # draws from one node would be spread, and so not independent
            Boundary(),
            self._limit(),
            self._task.stop,
            stream=index if self._task.stream else None,
            actions=self._task.actions_to_end(tree.root.depth),
        )
        try:
            child = yield from self._expansion.complete(tree, tree.root, work, self.name)
        except WorkFailed:
            if self._task.stream or index in self._retried:
                raise
            self._retried.add(index)
            self._waiting.append(index)
            return
        if child is not None:
            self._done[index] = child


class Greedy(Sample):
    """The trajectory of the most likely tokens."""

    name: ClassVar[str] = "greedy"
    count = 1

    @property
    def sampling(self) -> Sampling:
        return replace(self._task.sampling, temperature=0.0)
