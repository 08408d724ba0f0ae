"""The budget: what was used, whether a limit is reached, and what finishing would take."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf, isqrt

from mcts_core.search.parameters import SearchParameters
from mcts_core.search.search import StopReason
from mcts_core.search.tree import Node, Tree
from mcts_core.search.work import Extended, Failed, Opened, Outcome

_TIME_MARGIN = 1.5
"""Finishing is given this much more time than it is expected to take."""


class Meter:
    """Counts what a search uses, outcome by outcome, in the order in which it takes them.

    Tokens are those that the outcomes declare. The engine's own account runs ahead of them by work
    in flight, and by how much is a matter of timing; a search that is to be repeatable may not
    look at it.
    """

    __slots__ = (
        "_budget",
        "_clock",
        "_deadline",
        "_extended",
        "_grown",
        "_longest",
        "_max_depth",
        "_max_tokens",
        "_most",
        "_pace",
        "_started",
        "_tokens",
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
    ) -> None:
        """`started` is the request's admission, on `clock`, in seconds; `longest` the most tokens
        that an option may have, and `max_tokens` a trajectory."""
        self._budget = parameters.budget
        self._max_depth = parameters.max_depth
        self._longest = longest
        self._max_tokens = max_tokens
        self._clock = clock
        self._started = started
        milliseconds = parameters.budget.deadline_ms
        self._deadline = None if milliseconds is None else started + milliseconds / 1000
        self._extended = 0
        self._grown = 0
        self._tokens = 0
        self._most = 0
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

    def commit(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            return
        self.spent += outcome.spent
        if not isinstance(outcome, Opened):
            self._grown += outcome.spent
        if isinstance(outcome, Extended):
            self._extended += len(outcome.options)
            lengths = [len(option.tokens) for option in outcome.options]
            self._tokens += sum(lengths)
            self._most = max(self._most, *lengths)

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

    @property
    def tokens_left(self) -> float:
        limit = self._budget.tokens
        return inf if limit is None else limit - self.spent

    def reached(self, tree: Tree) -> StopReason | None:
        """The limit that one more simulation would break, beside those under way."""
        limit = self._budget.simulations
        if limit is not None and self.launched >= limit:
            return "simulations"
        return self.exhausted(tree, self.flying + 1)

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
        """How many of `count` more options break no limit; at least one."""
        while count > 1 and self.exhausted(tree, self.flying + count):
            count -= 1
        return count

    def exhausted(self, tree: Tree, options: int) -> StopReason | None:
        """The limit that `options` would break, those in flight included.

        Their cost is the mean so far; before there is one, one option is always allowed, and more
        are taken to be as long as options may be.
        """
        budget = self._budget
        if budget.tokens is not None:
            expected = options * self.option_cost if self._extended or options > 1 else 1.0
            if self.spent + expected > budget.tokens:
                return "tokens"
        if budget.nodes is not None and tree.nodes + options > budget.nodes:
            return "nodes"
        if self._deadline is not None and self._clock() >= self._deadline:
            return "deadline"
        return None

    def short(self, tree: Tree) -> StopReason | None:
        """ "tokens" if what is left of them just suffices to complete one trajectory.

        Simulations under way are taken to cost one option each.
        """
        if self._budget.tokens is not None and self._extended:
            options = self.flying + self.steps_left(tree, tree.root)
            if self.tokens_left <= options * self.option_cost:
                return "tokens"
        return None

    def hurried(self, tree: Tree) -> bool:
        """Whether the time left may just suffice to finish one trajectory, and there is none yet.

        The time is that of a whole one: less may be left to be drawn, but how fast it is drawn
        beside other requests, and how long it gets, nobody knows.
        """
        if self._deadline is None or tree.finished:
            return False
        left = self._deadline - self._clock()
        return left <= _TIME_MARGIN * self._seconds_left(tree, tree.root)

    def finishing(self, tree: Tree, node: Node) -> StopReason | None:
        """The limit that one more trajectory through `node` might break."""
        if self._finishing_cost(tree, node) > self.tokens_left:
            return "tokens"
        left = inf if self._deadline is None else self._deadline - self._clock()
        if left <= self._seconds_left(tree, node):
            return "deadline"
        return self.exhausted(tree, self.steps_left(tree, node))

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
        paths = 1 + spare / (steps * self.option_cost)
        if self._budget.nodes is not None:
            paths = min(paths, (self._budget.nodes - tree.nodes) / steps)
        if paths >= beams * draws:
            return beams, draws
        whole = max(1, int(paths))
        states = min(beams, isqrt(whole))
        below = min(draws, whole // states)
        return min(beams, whole // below), below

    def _finishing_cost(self, tree: Tree, node: Node) -> float:
        """Tokens of a trajectory's rest whose options are all as long as the longest so far."""
        longest = self._most * self._extended / self._tokens if self._extended else 1.0
        return self.steps_left(tree, node) * longest * self.option_cost

    def _seconds_left(self, tree: Tree, node: Node) -> float:
        """To the end of a trajectory through `node`, at the pace that was seen last. Before the
        first option it may be as long as is allowed."""
        tokens: float = self._max_tokens - node.length
        if self._extended:
            tokens = min(tokens, self.steps_left(tree, node) * self._tokens / self._extended)
        return tokens * self._pace

    @property
    def option_cost(self) -> float:
        """Mean spent tokens of an option, with its scores and rollouts."""
        if self._extended:
            return max(1.0, self._grown / self._extended)
        return float(self._longest)

    def steps_left(self, tree: Tree, node: Node) -> int:
        """Options that are expected to follow `node`, at least one: as many as bring it to the mean
        depth of the terminals. When there is none yet, to twice the depth reached, since there is
        more below than what was seen, but at least to four; at most to `max_depth`."""
        if tree.terminals:
            depth = ceil(sum(end.depth for end in tree.terminals) / len(tree.terminals))
        else:
            depth = max(4, 2 * tree.depth)
        return max(1, min(self._max_depth, depth) - node.depth)
