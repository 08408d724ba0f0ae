"""Expansion: one more option below a node, unlike those that are there already."""

from __future__ import annotations

from dataclasses import replace

from mcts_core.search.backup import backup
from mcts_core.search.boundary import boundary
from mcts_core.search.budget import Meter
from mcts_core.search.evaluation import Evaluation
from mcts_core.search.flow import Steps, WorkFailed, attempt
from mcts_core.search.merge import Likeness
from mcts_core.search.task import Task
from mcts_core.search.tree import End, Node, Tree
from mcts_core.search.width import AdaptiveWidth
from mcts_core.search.work import Boundary, Extend, Extended, Failed, Release, Sibling, Work


class Expansion:
    """Draws options. The first below a node is greedy, the rest are sampled without replacement."""

    __slots__ = (
        "_boundary",
        "_evaluation",
        "_greedy",
        "_likeness",
        "_max_depth",
        "_max_option",
        "_max_tokens",
        "_meter",
        "_outbox",
        "_redraws",
        "_sampled",
        "_stop",
        "_width",
        "failure",
    )

    def __init__(
        self,
        task: Task,
        width: AdaptiveWidth,
        evaluation: Evaluation,
        meter: Meter,
        outbox: list[Work],
    ) -> None:
        parameters = task.parameters
        self._boundary = boundary(parameters.step)
        self._greedy = replace(task.sampling, temperature=0.0)
        self._sampled = replace(task.sampling, temperature=parameters.temperature)
        self._likeness = Likeness(parameters.merge)
        self._redraws = parameters.merge.redraws
        self._max_option = parameters.step.max_tokens
        self._max_tokens = task.max_tokens
        self._max_depth = parameters.max_depth
        self._stop = task.stop
        self._width = width
        self._evaluation = evaluation
        self._meter = meter
        self._outbox = outbox
        self.failure: Failed | None = None
        """The last failure that closed a node."""

    def expand(self, tree: Tree, node: Node, origin: str) -> Steps[tuple[Node, bool] | None]:
        """One draw below `node`: the new child, evaluated, and True; or the child that it merged
        into and False; or None when nothing can follow `node`.

        Raises `WorkFailed` when the KV pool is full.
        """
        node.pending += 1
        self._block(node)
        try:
            grown = yield from self._draw(tree, node, origin)
        finally:
            node.pending -= 1
            self._block(node)
            tree.settle(node)
        if isinstance(grown, Node):
            return grown, False
        if grown is None:
            return None
        child, option = grown
        yield from self._evaluation.evaluate(tree, child, option.scores)
        return child, True

    def grow(self, tree: Tree, node: Node, origin: str) -> Steps[Node | None]:
        """As `expand`, and the new child's value backed up; None when there is no new child."""
        grown = yield from self.expand(tree, node, origin)
        if grown is None or not grown[1]:
            return None
        child = grown[0]
        self._back_up(tree, child)
        return child

    def complete(self, tree: Tree, node: Node, work: Extend, origin: str) -> Steps[Node | None]:
        """One draw from `node` to the end of its trajectory, evaluated and backed up; `to_end`
        makes the work. None when the draw failed for a reason of the node's own.

        Raises `WorkFailed` when the KV pool is full.
        """
        node.pending += 1
        try:
            option = yield from self._evaluation.extend(work)
        except WorkFailed as error:
            self._close(tree, node, error.failed)
            return None
        finally:
            node.pending -= 1
        child = self._adopt(tree, node, option, work.max_tokens, origin)
        yield from attempt(self._evaluation.evaluate(tree, child, option.scores))
        self._back_up(tree, child)
        return child

    def to_end(self, node: Node, *, greedy: bool) -> Extend:
        """Work for `complete`: all that is left of the trajectory in one option."""
        assert node.state is not None
        sampling = self._greedy if greedy else self._sampled
        work = Extend(
            node.state,
            sampling,
            (node.id, node.draws),
            Boundary(),
            self._max_tokens - node.length,
            self._stop,
        )
        node.draws += 1
        return work

    def _draw(
        self, tree: Tree, node: Node, origin: str
    ) -> Steps[Node | tuple[Node, Extended] | None]:
        """A new child and its option, or the child that the option merged into.

        An option too much like a sibling is drawn again; when all draws are, the most distant one
        is kept (AlphaLLM, state merge), unless that says the very same.
        """
        best: Extended | None = None
        best_distance = -1.0
        for _ in range(1 + self._redraws):
            given = node.avoid
            work = self._work(node)
            try:
                option = yield from self._evaluation.extend(work)
            except WorkFailed as error:
                if best is not None:
                    break
                self._close(tree, node, error.failed)
                return None
            distance, sibling = self._likeness.nearest(node, option.text)
            if sibling is None:
                self._drop(best)
                return self._adopt(tree, node, option, work.max_tokens, origin), option
            tree.merged += 1
            if distance > best_distance:
                self._drop(best)
                best, best_distance = option, distance
            else:
                self._drop(option)
            if _among(option, given):
                node.closed = True  # it was told to avoid this one: nothing else is left
                break
            if not _among(option, node.avoid):
                node.avoid = (*node.avoid, Sibling(option.tokens, option.draw_logprobs))
            if self._meter.exhausted(tree, 1):
                break
        assert best is not None
        distance, sibling = self._likeness.nearest(node, best.text)
        if sibling is not None and distance == 0.0:
            self._drop(best)
            return sibling
        return self._adopt(tree, node, best, self._max_option, origin), best

    def _work(self, node: Node) -> Extend:
        assert node.state is not None
        draw = node.draws
        node.draws = draw + 1
        return Extend(
            node.state,
            self._sampled if draw else self._greedy,
            (node.id, draw),
            self._boundary,
            min(self._max_option, self._max_tokens - node.length),
            self._stop,
            self._evaluation.step_critics,
            node.avoid,
        )

    def _adopt(self, tree: Tree, node: Node, option: Extended, limit: int, origin: str) -> Node:
        child = tree.add(node, option, self._end(node, option, limit), origin)
        if not _among(option, node.avoid):
            node.avoid = (*node.avoid, Sibling(option.tokens, option.draw_logprobs))
        if len(node.children) >= self._width.maximum(node):
            node.closed = True
        return child

    def _end(self, node: Node, option: Extended, limit: int) -> End | None:
        if option.finish in ("eos", "stop"):
            return "stop"
        left = self._max_tokens - node.length
        if len(option.tokens) >= left or node.depth + 1 >= self._max_depth:
            return "length"
        if option.finish == "length" and len(option.tokens) < min(limit, left):
            return "length"  # cut below the limit that was asked for: the model's context is full
        return None

    def _back_up(self, tree: Tree, child: Node) -> None:
        value = self._evaluation.value(tree, child)
        if value is not None:
            backup(tree, child.path(), value)
            self._meter.simulated()

    def _close(self, tree: Tree, node: Node, failed: Failed) -> None:
        """Nothing more can be drawn below `node`, for a reason that is the node's own."""
        if failed.reason == "kv_exhausted":
            raise WorkFailed(failed)
        self.failure = failed
        if failed.reason == "context_length" and not node.children and node.parent is not None:
            tree.cut(node)
        node.closed = True
        tree.settle(node)

    def _block(self, node: Node) -> None:
        node.blocked = node.pending > 0 and not node.open and not self._width.has_room(node)

    def _drop(self, option: Extended | None) -> None:
        if option is not None:
            self._outbox.append(Release(option.state))


def _among(option: Extended, siblings: tuple[Sibling, ...]) -> bool:
    tokens = option.tokens
    return any(sibling.tokens == tokens for sibling in siblings)
