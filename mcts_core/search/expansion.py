"""Expansion: new options below a node, unlike each other and those that are there already."""

from __future__ import annotations

from mcts_core.search.backup import backup
from mcts_core.search.budget import Meter
from mcts_core.search.claims import Claims
from mcts_core.search.draws import Draws
from mcts_core.search.evaluation import Evaluation
from mcts_core.search.flow import Steps, WorkFailed, attempt, gather
from mcts_core.search.merge import Likeness
from mcts_core.search.outlook import Outlook
from mcts_core.search.parameters import Merge
from mcts_core.search.task import Task
from mcts_core.search.transpositions import Key, StateRuleTooSlow, Transpositions
from mcts_core.search.tree import End, Node, Tree
from mcts_core.search.width import AdaptiveWidth
from mcts_core.search.work import Extend, Failed, Option, Release, Work

_NOTHING_LEFT = 1e-5
"""A node whose other options are less probable than this has none: what is left after a certain
option is the rounding of its tokens' probabilities."""


class Expansion:
    """Draws options. The first below a node is greedy, the rest are sampled without replacement."""

    __slots__ = (
        "_claims",
        "_evaluation",
        "_likeness",
        "_meter",
        "_outbox",
        "_outlook",
        "_redraws",
        "_width",
        "draws",
        "failure",
        "transpositions",
    )

    def __init__(
        self,
        task: Task,
        width: AdaptiveWidth,
        evaluation: Evaluation,
        meter: Meter,
        outlook: Outlook,
        outbox: list[Work],
    ) -> None:
        parameters = task.parameters
        self.draws = Draws(task)
        merge = parameters.merge
        if task.actions:
            merge = Merge(by="exact", redraws=merge.redraws, state=merge.state)
        self._likeness = Likeness(merge)
        self.transpositions = Transpositions(parameters.merge.state)
        self._claims = Claims(parameters.claims)
        self._redraws = parameters.merge.redraws
        self._width = width
        self._evaluation = evaluation
        self._meter = meter
        self._outlook = outlook
        self._outbox = outbox
        self.failure: Failed | None = None
        """The last failure that closed a node."""

    def expand(
        self, tree: Tree, node: Node, count: int, origin: str, most: int | None = None
    ) -> Steps[tuple[list[Node], Node | None]]:
        """`count` draws below `node`: the new children, evaluated; and when there is none, the
        node that the draws merged into, if they came to one: a child of `node`, or the node
        elsewhere that stands for the state that they led to. `most` tokens is an option's share of
        the budget, where others than these are drawn with them.

        Raises `WorkFailed` when the KV pool is full.
        """
        node.pending += count
        self._block(node)
        try:
            grown, merged = yield from self._draw(tree, node, count, origin, most)
        finally:
            node.pending -= count
            self._block(node)
            tree.settle(node)
        new: list[Node] = []
        asking: list[Steps[None]] = []
        for child, option in grown:
            new.append(child)
            if (steps := self._evaluation.evaluate(tree, child, option.scores)) is not None:
                asking.append(steps)
        if asking:
            yield from gather(asking)
        return new, merged

    def fill(
        self, tree: Tree, node: Node, count: int, origin: str, most: int | None = None
    ) -> Steps[list[Node]]:
        """As `expand`; draws that came to the same option are made up for once, by as many that
        are told to avoid it, if there is room for them."""
        new, _ = yield from self.expand(tree, node, count, origin, most)
        short = count - len(new)
        if new and short and not node.closed and not self._meter.exhausted(tree, short):
            made = yield from attempt(self.expand(tree, node, short, origin, most))
            if not isinstance(made, Failed):
                new += made[0]
        return new

    def grow(
        self, tree: Tree, node: Node, count: int, origin: str, most: int | None = None
    ) -> Steps[list[Node]]:
        """As `fill`, and the new children's values backed up."""
        new = yield from self.fill(tree, node, count, origin, most)
        for child in new:
            self._back_up(tree, child)
        return new

    def complete(self, tree: Tree, node: Node, work: Extend, origin: str) -> Steps[Node | None]:
        """One draw from `node` to the end of its trajectory, evaluated and backed up; `draws`
        makes the work. None when the draw failed for a reason of the node's own.

        Raises `WorkFailed` when the KV pool is full.
        """
        node.pending += 1
        try:
            (option,) = yield from self._extend(node, work)
        except WorkFailed as error:
            self._close(tree, node, error.failed)
            return None
        finally:
            node.pending -= 1
        end = self.draws.end(node, option, whole=True)
        child = self._adopt(tree, node, option, end, origin)
        steps = self._evaluation.evaluate(tree, child, option.scores, whole=True)
        if steps is not None:
            yield from attempt(steps)
        self._back_up(tree, child)
        return child

    def _draw(
        self, tree: Tree, node: Node, count: int, origin: str, most: int | None
    ) -> Steps[tuple[list[tuple[Node, Option]], Node | None]]:
        """New children and their options, or the node that the draws merged into.

        Options too much like a sibling are drawn again when no draw was new; when all draws are
        like one, the most distant one is kept (AlphaLLM, state merge), unless that says the very
        same. So are options that lead to a state elsewhere, which are never kept. What finds no
        room below the node is given back.
        """
        room = max(count, self._width.maximum(node))  # a beam's width may be above the tree's
        best: Option | None = None
        best_distance, best_key = -1.0, None
        landed: Node | None = None
        for _ in range(1 + self._redraws):
            longest = self.draws.longest(node)
            limit = self._meter.share(min(longest, most or longest), count)
            work = self.draws.options(
                node, count, limit, self._evaluation.step_critics, embed=self._likeness.embeds
            )
            try:
                options = yield from self._extend(node, work)
            except WorkFailed as error:
                if best is not None or landed is not None:
                    break
                self._close(tree, node, error.failed)
                return [], None
            try:
                keys = [self.transpositions.key(node, option) for option in options]
            except StateRuleTooSlow as error:
                for option in options:
                    self._drop(option)
                self._drop(best)
                self._close(tree, node, Failed("internal", str(error)))
                return [], None
            grown: list[tuple[Node, Option]] = []
            for option, key in zip(options, keys, strict=True):
                more = max(0, len(option.draws) - 1)
                tree.merged += more
                distance, like = self._nearest(node, option)
                full = len(node.children) + node.elsewhere >= room
                end = self.draws.end(node, option)
                first = self.transpositions.first(key) if like is None and end is None else None
                if like is None and first is None and not full:
                    child = self._adopt(tree, node, option, end, origin, key)
                    child.merged = more
                    grown.append((child, option))
                    continue
                tree.merged += 1
                like = like or first
                if like is not None:
                    like.merged += more + 1
                if first is not None:
                    landed = first
                    self._drop(option)
                    node.elsewhere += not full and option.tokens not in node.avoid
                elif distance > best_distance:
                    self._drop(best)
                    best, best_distance, best_key = option, distance, key
                else:
                    self._drop(option)
                if any(option.tokens == sibling.tokens for sibling in work.siblings):
                    node.closed = True  # it was told to avoid this one: nothing else is left
                self._taken(node, option)
            if grown:
                self._drop(best)
                return grown, None
            if node.closed or self._meter.exhausted(tree, count) or self._outlook.scarce(tree):
                break
        if best is None:
            return [], landed
        distance, like = self._nearest(node, best)
        first = self.transpositions.first(best_key)
        if (
            like is None
            or distance == 0.0
            or first is not None
            or len(node.children) + node.elsewhere >= room
        ):
            self._drop(best)
            return [], like or first or landed
        end = self.draws.end(node, best)
        return [(self._adopt(tree, node, best, end, origin, best_key), best)], None

    def _extend(self, node: Node, work: Extend) -> Steps[tuple[Option, ...]]:
        began = self._meter.now()
        options = yield from self._evaluation.extend(node, work)
        self._meter.drawn(began, options)
        return options

    def _adopt(
        self,
        tree: Tree,
        node: Node,
        option: Option,
        end: End | None,
        origin: str,
        key: Key | None = None,
    ) -> Node:
        child = tree.add(node, option, end, origin)
        self.transpositions.add(key, child)
        self._taken(node, option)
        return child

    def _taken(self, node: Node, option: Option) -> None:
        """`option` is not offered again below `node`, which may be full by now, or have nothing
        else to offer: another draw would cost its tokens, and say the same once more."""
        if option.tokens not in node.avoid and not self.draws.torn(node, option):
            node.drawn(option)
        if (
            len(node.children) + node.elsewhere >= self._width.maximum(node)
            or node.left < _NOTHING_LEFT
            or self._claims.settled(node)
            or (self.draws.actions and len(node.avoid) >= len(self.draws.actions))
        ):
            node.closed = True

    def _nearest(self, node: Node, option: Option) -> tuple[float, Node | None]:
        """As `Likeness.nearest`; what was torn off is like no step."""
        if self.draws.torn(node, option):
            return 1.0, None
        return self._likeness.nearest(node, option)

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
        node.blocked = node.pending > 0 and not node.open and self._width.room(node) is None

    def _drop(self, option: Option | None) -> None:
        if option is not None:
            self._outbox.append(Release(option.state))
