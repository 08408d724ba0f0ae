"""Outlook: what it takes to finish a trajectory, and what may be spent before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, isqrt

from mcts_core.search.budget import Meter
from mcts_core.search.parameters import SearchParameters
from mcts_core.search.search import StopReason
from mcts_core.search.tree import Node, Tree

_MARGIN = 1.5
"""Finishing is given this much more time than it is expected to take, and so many more tokens where
a limit is final."""

_CLOSE = 1.2
"""So many more tokens than expected, where a limit is final, for a path that is still left for
another when it leads nowhere: every change of mind has to be paid for, too."""


class Outlook:
    """Foresees, from what options and trajectories were like so far, what is still to come.

    As long as there is no trajectory, what finishing one should cost is kept back: of the tokens
    where the ladder would spend them, of the time always.
    """

    __slots__ = ("_budget", "_costs", "_ladder", "_max_depth", "_max_tokens", "_meter")

    def __init__(self, parameters: SearchParameters, meter: Meter, max_tokens: int) -> None:
        """`max_tokens`: the most that a trajectory may have."""
        self._budget = parameters.budget
        self._ladder = bool(parameters.fallback)
        self._max_depth = parameters.max_depth
        self._max_tokens = max_tokens
        self._meter = meter
        self._costs = meter.costs

    def affordable(self, tree: Tree, count: int) -> int:
        """How many of `count` more options break no limit, and leave what it takes to finish a
        trajectory; at least one."""
        if count == 1:
            return 1
        if self._budget.tokens is not None:
            count = max(1, min(count, int(self._spare(tree, tree.root) / self._costs.roomy)))
        while count > 1 and self._meter.exhausted(tree, count, self._meter.flying):
            count -= 1
        return count

    def rollout(self, tree: Tree, longest: int, count: int, reading: int, models: int) -> int:
        """The most tokens, at most `longest`, for each of `count` rollouts, before which `reading`
        tokens have to be read, and each of whose tokens goes through so many models. 0 where not
        all can be as long as the longest so far - a completion that was cut says nothing - and
        leave what it takes to finish a trajectory."""
        if self._budget.tokens is None:
            return longest
        room = self._spare(tree, tree.root) - reading
        each = int(min(longest, room / (count * models)))
        return each if each >= min(self._costs.longest_rollout or longest, longest) else 0

    def scarce(self, tree: Tree) -> bool:
        """Whether nothing may be spent any more if a whole trajectory is still to be finished."""
        if self._meter.tokens_left > _MARGIN * self._max_tokens * self._costs.token:
            return False  # there are enough for the longest
        return self._spare(tree, tree.root) <= 0

    def short(self, tree: Tree, start: Callable[[Tree], Node | None]) -> StopReason | None:
        """ "tokens" if what is left of them just suffices to finish the trajectory through `start`,
        where the ladder would go on. It is asked only when they are scarce: finding it takes a walk
        through the tree."""
        if not self.scarce(tree):
            return None
        node = start(tree)
        return "tokens" if node is None or self._spare(tree, node) <= 0 else None

    def abreast(self, tree: Tree, most: int) -> int:
        """How many simulations may be under way at once, at most `most`: as long as there is no
        trajectory, no more than what is left could finish. They do not know of each other's
        results, and a tree that all of them have widened is never deep. Before the first option,
        when nothing is known of their length, one or all."""
        if self._budget.tokens is None or tree.finished or most == 1:
            return most
        if not self._costs.options:
            room = self._meter.tokens_left - self._max_tokens
            return most if most * self._costs.option <= room else 1
        whole = self._kept_back(tree, tree.root)
        left = self._budget.tokens - self._meter.spent
        return max(1, min(most, int(left / whole))) if whole else most

    def hurried(self, tree: Tree) -> bool:
        """Whether the time left may just suffice to finish one trajectory, and there is none yet.

        The time is that of a whole one: less may be left to be drawn, but how fast it is drawn
        beside other requests, and how long it gets, nobody knows.
        """
        if self._budget.deadline_ms is None or tree.finished:
            return False
        left = self._meter.seconds_left
        if left > _MARGIN * self._max_tokens * self._meter.pace:
            return False  # there is time for the longest
        return left <= _MARGIN * self._seconds_left(tree, tree.root)

    def finishing(self, tree: Tree, node: Node) -> StopReason | None:
        """The limit that one more trajectory through `node` might break."""
        if self._finishing_cost(tree, node) > self._meter.tokens_left:
            return "tokens"
        if self._meter.seconds_left <= self._seconds_left(tree, node):
            return "deadline"
        return self._meter.exhausted(tree, 1, self.steps_left(tree, node) - 1)

    def widest(self, tree: Tree, node: Node, beams: int, draws: int) -> tuple[int, int]:
        """How many states like `node`, at most `beams`, and how many draws below each, at most
        `draws`, every step from there to the end can have within what is left; at least one of one,
        and no more in a hurry: the fewer rows in a batch, the faster its steps.
        """
        if self.hurried(tree):
            return 1, 1
        paths = self._paths(tree, node)
        if self._budget.nodes is not None:
            paths = min(paths, (self._budget.nodes - tree.nodes) / self.steps_left(tree, node))
        if paths >= beams * draws:
            return beams, draws
        whole = max(1, int(paths))
        states = min(beams, isqrt(whole))
        below = min(draws, whole // states)
        return min(beams, whole // below), below

    def lone(self, tree: Tree, node: Node) -> bool:
        """Whether it is the tokens left that allow of no second path beside the one through
        `node`."""
        limited = self._budget.tokens is not None and not self.hurried(tree)
        return limited and self._paths(tree, node) < 2

    def finishable(self, tree: Tree, nodes: Sequence[Node]) -> list[Node]:
        """Those of `nodes` from which there should be room to finish a trajectory; if there is
        none, those that take the fewest tokens."""
        return self._cheapest(tree, nodes, self._meter.room)

    def within_reach(self, tree: Tree, nodes: Sequence[Node]) -> list[Node]:
        """Those of `nodes` that a path may be left for: a trajectory can be finished from there
        with the tokens left of the budget and half of what a whole one takes beyond it, and before
        a final limit. If there is none, those that take the fewest tokens."""
        meter = self._meter
        more = (_MARGIN - 1.0) * self._finishing_cost(tree, tree.root)
        return self._cheapest(tree, nodes, min(meter.tokens_left + more, meter.room / _CLOSE))

    def steps_left(self, tree: Tree, node: Node) -> int:
        """Options that are expected to follow `node`, at least one."""
        costs = self._costs
        mean = costs.tokens / costs.options if costs.options else costs.longest
        steps = ceil(self.tokens_to_go(tree, node) / max(1.0, mean))
        return max(1, min(steps, self._max_depth - node.depth))

    def tokens_to_go(self, tree: Tree, node: Node) -> int:
        """Tokens that are expected to follow `node`, at least those of the longest option so far:
        as many as make a trajectory as long as the longest that came to its end. Where none did, to
        twice the length reached, since there is more below than what was seen, but at least to four
        of the longest options. At most to a limit of the request.
        """
        longest = self._costs.longest
        whole = tree.longest or max(4 * longest, 2 * tree.length)
        rest = min(max(whole - node.length, longest), (self._max_depth - node.depth) * longest)
        return max(1, min(rest, self._max_tokens - node.length))

    def _paths(self, tree: Tree, node: Node) -> float:
        """Paths like the one through `node` that the tokens left pay for: one is taken to be as
        costly as it may be, the others as options were on average."""
        left = self._meter.tokens_left
        spare = left - self._finishing_cost(tree, node)
        steps = self.steps_left(tree, node)
        return min(1 + spare / (steps * self._costs.option), left / self._costs.roomy)

    def _cheapest(self, tree: Tree, nodes: Sequence[Node], room: float) -> list[Node]:
        costs = [self._finishing_cost(tree, node) for node in nodes]
        most = max(room, min(costs, default=0.0))
        return [node for node, cost in zip(nodes, costs, strict=True) if cost <= most]

    def _spare(self, tree: Tree, node: Node) -> float:
        """Tokens that may be spent before the rest should go into finishing a trajectory through
        `node`: what that is expected to cost is kept of the budget, and more of what the ladder may
        spend (`finish`), since there it must end."""
        cost = self._kept_back(tree, node)
        meter = self._meter
        room = meter.last_room if cost else meter.room
        return min(meter.tokens_left - cost, room - _MARGIN * cost)

    def _kept_back(self, tree: Tree, node: Node) -> float:
        """Tokens to finish a trajectory through `node` with, as long as there is none and it is
        known what options cost; nothing where the request allows no ladder to spend them."""
        if tree.finished or not (self._costs.options and self._ladder):
            return 0.0
        return self._finishing_cost(tree, node)

    def _finishing_cost(self, tree: Tree, node: Node) -> float:
        """Tokens, of all models, that the rest of a trajectory through `node` should cost."""
        return self.tokens_to_go(tree, node) * self._costs.token

    def _seconds_left(self, tree: Tree, node: Node) -> float:
        """To the end of a trajectory through `node`, at the pace that was seen last. Before the
        first option it may be as long as is allowed."""
        if not self._costs.options:
            return (self._max_tokens - node.length) * self._meter.pace
        return self.tokens_to_go(tree, node) * self._meter.pace
