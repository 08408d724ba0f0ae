"""The budget: what was used, whether a limit is reached, and what finishing would take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, inf, isqrt

from mcts_core.search.costs import Costs
from mcts_core.search.parameters import SearchParameters
from mcts_core.search.search import StopReason
from mcts_core.search.tree import Node, Tree
from mcts_core.search.work import Extend, Failed, Opened, Option, Outcome, Work

_MARGIN = 1.5
"""Finishing is given this much more time than it is expected to take, and so many more tokens where
a limit is final."""


class Meter:
    """Counts what a search uses, outcome by outcome, in the order in which it takes them.

    Tokens are those that the outcomes declare. The engine's own account runs ahead of them by work
    in flight, and by how much is a matter of timing; a search that is to be repeatable may not
    look at it. Instead, work in flight is counted at the most that it may cost (`reserve`), and is
    never asked for if that is more than what is left (`share`): so the limit is kept strictly,
    whatever comes back.
    """

    __slots__ = (
        "_budget",
        "_ceiling",
        "_clock",
        "_deadline",
        "_ladder",
        "_max_depth",
        "_max_tokens",
        "_opened",
        "_pace",
        "_reservations",
        "_reserved",
        "_started",
        "costs",
        "first_seconds",
        "flying",
        "launched",
        "settled",
        "simulations",
        "spent",
    )

    def __init__(
        self,
        parameters: SearchParameters,
        clock: Callable[[], float],
        started: float,
        longest: int,
        max_tokens: int,
        readings: int = 0,
    ) -> None:
        """`started` is the request's admission, on `clock`, in seconds; `longest` the most tokens
        that an option may have, and `max_tokens` a trajectory; `readings` how many models of
        critics read an option's tokens beside the policy."""
        self._budget = parameters.budget
        self._ceiling = inf if self._budget.tokens is None else self._budget.tokens
        self.costs = Costs(longest, readings)
        self._ladder = bool(parameters.fallback)
        self._reservations: dict[int, int] = {}
        self._reserved = 0
        self._opened = 0
        self._max_depth = parameters.max_depth
        self._max_tokens = max_tokens
        self._clock = clock
        self._started = started
        milliseconds = parameters.budget.deadline_ms
        self._deadline = None if milliseconds is None else started + milliseconds / 1000
        self._pace = 0.0
        self.spent = 0
        """Tokens computed by all models for the outcomes so far."""
        self.launched = 0
        """Simulations begun."""
        self.flying = 0
        """Options being drawn."""
        self.simulations = 0
        """Simulations that ended in a backup."""
        self.settled = False
        """Set when the method has ended: what the ladder grows is no simulation of the method's."""
        self.first_seconds: float | None = None
        """From admission to the first of them."""

    def reserve(self, work: Work, tokens: int) -> None:
        """`work`, which is about to be asked for, may cost so many tokens."""
        if self._budget.tokens is not None:
            self._reservations[id(work)] = tokens
            self._reserved += tokens

    def commit(self, work: Work, outcome: Outcome) -> None:
        """`work` has cost what `outcome` says."""
        if self._reservations:
            self._reserved -= self._reservations.pop(id(work), 0)
        self.spent += outcome.spent
        if isinstance(outcome, Opened):
            self._opened += outcome.spent
        elif not isinstance(outcome, Failed):
            self.costs.take(outcome)

    def launch(self, count: int) -> None:
        """A simulation begins that draws `count` options."""
        self.launched += 1
        self.flying += count

    def land(self, count: int) -> None:
        """A simulation that drew `count` options has ended."""
        self.flying -= count

    def simulated(self) -> None:
        self.simulations += not self.settled
        if self.first_seconds is None:
            self.first_seconds = self.elapsed()

    def elapsed(self) -> float:
        """Seconds since the request's admission."""
        return self._clock() - self._started

    def now(self) -> float:
        """Seconds, to be handed to `timed`; 0 when there is no deadline to be met."""
        return self._clock() if self._deadline is not None else 0.0

    def timed(self, began: float, tokens: int) -> None:
        """Work that began at `began` has drawn so many tokens one after the other. The pace follows
        what was seen last, since it depends on what else the engine is doing."""
        if self._deadline is not None:
            pace = (self._clock() - began) / max(1, tokens)
            self._pace = (self._pace + pace) / 2 if self._pace else pace

    def drawn(self, began: float, options: Sequence[Option]) -> None:
        """`timed`, of `options` that were drawn side by side."""
        if self._deadline is not None:
            self.timed(began, max([len(option.tokens) for option in options]))

    @property
    def tokens_left(self) -> float:
        """Of the budget; what is in flight is taken to cost the most that it may."""
        limit = self._budget.tokens
        return inf if limit is None else limit - self.spent - self._reserved

    @property
    def room(self) -> float:
        """Tokens that work may cost: those left of the budget, unless `finish` allowed more."""
        return self._ceiling - self.spent - self._reserved

    def finish(self) -> None:
        """From now on the search may cost as much as one plain completion at least: its prompt and
        `max_tokens`."""
        self._ceiling = max(self._ceiling, self._opened + self._max_tokens)

    @property
    def used_up(self) -> bool:
        """Whether there is no room for another token."""
        return self.room < self.costs.models

    def reached(self, tree: Tree) -> StopReason | None:
        """The limit that one more simulation would break, beside those under way."""
        limit = self._budget.simulations
        if limit is not None and self.launched >= limit:
            return "simulations"
        return self.exhausted(tree, 1, self.flying)

    def limits(self, tree: Tree) -> tuple[tuple[float, float], ...]:
        """How much is used of each limit that the request has, and the limit."""
        budget = self._budget
        found: list[tuple[float, float]] = []
        if budget.simulations is not None:
            found.append((self.launched, budget.simulations))
        if budget.tokens is not None:
            found.append((self.spent, budget.tokens))
        if budget.nodes is not None:
            found.append((tree.nodes, budget.nodes))
        if self._deadline is not None:
            found.append((self.elapsed(), self._deadline - self._started))
        return tuple(found)

    def affordable(self, tree: Tree, count: int) -> int:
        """How many of `count` more options break no limit, and leave what it takes to finish a
        trajectory; at least one."""
        if count == 1:
            return 1
        if self._budget.tokens is not None:
            count = max(1, min(count, int(self._spare(tree, tree.root) / self.costs.roomy)))
        while count > 1 and self.exhausted(tree, count, self.flying):
            count -= 1
        return count

    def exhausted(self, tree: Tree, options: int, flying: int = 0) -> StopReason | None:
        """The limit that `options` more would break, beside `flying` ones.

        Several options, or one beside others, must have room to be twice as long as options were
        on average, once any was. The last one is allowed as long as there is room for the mean,
        and the very first one whatever it may cost: they have all that is left.
        """
        budget = self._budget
        if budget.tokens is not None:
            if options > 1 or self._reserved:
                expected = options * self.costs.roomy
            else:
                expected = self.costs.option if self.costs.options else self.costs.models
            if expected > self.room:
                return "tokens"
        if budget.nodes is not None and tree.nodes + flying + options > budget.nodes:
            return "nodes"
        if self._deadline is not None and self._clock() >= self._deadline:
            return "deadline"
        return None

    def share(self, longest: int, options: int, places: int = 1) -> int:
        """The most tokens, at most `longest`, that each of `options` may have so that together
        they cost no more than there is; at least one.

        Where `places` times as many could be begun at once, they leave the others as much; but
        they have room to be twice as long as options were on average.
        """
        if self._budget.tokens is None:
            return longest
        costs = self.costs
        fair = (self.room / (options * places) - costs.beside) / costs.models
        if fair >= longest:
            return longest
        most = (self.room / options - costs.beside) / costs.models
        return max(1, int(min(longest, most, max(fair, costs.length))))

    def reserve_options(self, work: Extend) -> None:
        """Reserves what the options of `work` may cost, with what is expected to follow them."""
        if self._budget.tokens is not None:
            each = work.max_tokens * self.costs.models + self.costs.beside
            self.reserve(work, ceil(min(work.draws * each, max(0.0, self.room))))

    def rollout(self, tree: Tree, longest: int, count: int, reading: int, models: int) -> int:
        """The most tokens, at most `longest`, for each of `count` rollouts, before which `reading`
        tokens have to be read, and each of whose tokens goes through so many models. 0 where not
        all can be as long as the longest so far - a completion that was cut says nothing - and
        leave what it takes to finish a trajectory."""
        if self._budget.tokens is None:
            return longest
        room = self._spare(tree, tree.root) - reading
        each = int(min(longest, room / (count * models)))
        return each if each >= min(self.costs.longest_rollout or longest, longest) else 0

    def scarce(self, tree: Tree) -> bool:
        """Whether nothing may be spent any more if a whole trajectory is still to be finished."""
        return self._budget.tokens is not None and self._spare(tree, tree.root) <= 0

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
        if not self.costs.options:
            room = self.tokens_left - self._max_tokens
            return most if most * self.costs.option <= room else 1
        whole = self._kept_back(tree, tree.root)
        left = self._budget.tokens - self.spent
        return max(1, min(most, int(left / whole))) if whole else most

    def hurried(self, tree: Tree) -> bool:
        """Whether the time left may just suffice to finish one trajectory, and there is none yet.

        The time is that of a whole one: less may be left to be drawn, but how fast it is drawn
        beside other requests, and how long it gets, nobody knows.
        """
        if self._deadline is None or tree.finished:
            return False
        left = self._deadline - self._clock()
        return left <= _MARGIN * self._seconds_left(tree, tree.root)

    def finishing(self, tree: Tree, node: Node) -> StopReason | None:
        """The limit that one more trajectory through `node` might break."""
        if self._finishing_cost(tree, node) > self.tokens_left:
            return "tokens"
        left = inf if self._deadline is None else self._deadline - self._clock()
        if left <= self._seconds_left(tree, node):
            return "deadline"
        return self.exhausted(tree, 1, self.steps_left(tree, node) - 1)

    def widest(self, tree: Tree, node: Node, beams: int, draws: int) -> tuple[int, int]:
        """How many states like `node`, at most `beams`, and how many draws below each, at most
        `draws`, every step from there to the end can have within what is left; at least one of one,
        and no more in a hurry: the fewer rows in a batch, the faster its steps.

        One path is taken to be as costly as it may be, the others as options were on average.
        """
        if self.hurried(tree):
            return 1, 1
        steps = self.steps_left(tree, node)
        spare = self.tokens_left - self._finishing_cost(tree, node)
        paths = min(1 + spare / (steps * self.costs.option), self.tokens_left / self.costs.roomy)
        if self._budget.nodes is not None:
            paths = min(paths, (self._budget.nodes - tree.nodes) / steps)
        if paths >= beams * draws:
            return beams, draws
        whole = max(1, int(paths))
        states = min(beams, isqrt(whole))
        below = min(draws, whole // states)
        return min(beams, whole // below), below

    def finishable(self, tree: Tree, nodes: Sequence[Node]) -> list[Node]:
        """Those of `nodes` from which there should be room to finish a trajectory; if there is
        none, those that take the fewest tokens."""
        costs = [self._finishing_cost(tree, node) for node in nodes]
        most = max(self.room, min(costs, default=0.0))
        return [node for node, cost in zip(nodes, costs, strict=True) if cost <= most]

    def _spare(self, tree: Tree, node: Node) -> float:
        """Tokens that may be spent before the rest should go into finishing a trajectory through
        `node`: what that is expected to cost is kept of the budget, and more of what the ladder may
        spend (`finish`), since there it must end."""
        cost = self._kept_back(tree, node)
        most = max(self._ceiling, self._opened + self._max_tokens) if cost else self._ceiling
        return min(self.tokens_left - cost, most - self.spent - self._reserved - _MARGIN * cost)

    def _kept_back(self, tree: Tree, node: Node) -> float:
        """Tokens to finish a trajectory through `node` with, as long as there is none and it is
        known what options cost; nothing where the request allows no ladder to spend them."""
        if tree.finished or not (self.costs.options and self._ladder):
            return 0.0
        return self._finishing_cost(tree, node)

    def _finishing_cost(self, tree: Tree, node: Node) -> float:
        """Tokens, of all models, that the rest of a trajectory through `node` should cost."""
        return self.tokens_to_go(tree, node) * self.costs.token

    def _seconds_left(self, tree: Tree, node: Node) -> float:
        """To the end of a trajectory through `node`, at the pace that was seen last. Before the
        first option it may be as long as is allowed."""
        if not self.costs.options:
            return (self._max_tokens - node.length) * self._pace
        return self.tokens_to_go(tree, node) * self._pace

    def steps_left(self, tree: Tree, node: Node) -> int:
        """Options that are expected to follow `node`, at least one."""
        costs = self.costs
        mean = costs.tokens / costs.options if costs.options else costs.longest
        steps = ceil(self.tokens_to_go(tree, node) / max(1.0, mean))
        return max(1, min(steps, self._max_depth - node.depth))

    def tokens_to_go(self, tree: Tree, node: Node) -> int:
        """Tokens that are expected to follow `node`, at least those of the longest option so far:
        as many as make a trajectory as long as the longest that came to its end. Where none did, to
        twice the length reached, since there is more below than what was seen, but at least to four
        of the longest options. At most to a limit of the request.
        """
        longest = self.costs.longest
        whole = tree.longest or max(4 * longest, 2 * tree.length)
        rest = min(max(whole - node.length, longest), (self._max_depth - node.depth) * longest)
        return max(1, min(rest, self._max_tokens - node.length))
