"""The budget: what was used, whether a limit is reached, and what finishing would take."""

from __future__ import annotations

from collections.abc import Callable

from mcts_core.search.parameters import SearchParameters
from mcts_core.search.search import StopReason
from mcts_core.search.tree import Tree
from mcts_core.search.work import Extended, Failed, Opened, Outcome

_TIME_MARGIN = 1.5
"""Finishing is given this much more time than simulations have taken so far."""


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
        "_max_depth",
        "_max_option",
        "_seconds",
        "_started",
        "_timed",
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
    ) -> None:
        """`started` is the request's admission, on `clock`, in seconds; `longest` the most tokens
        that an option may have."""
        self._budget = parameters.budget
        self._max_depth = parameters.max_depth
        self._max_option = longest
        self._clock = clock
        self._started = started
        milliseconds = parameters.budget.deadline_ms
        self._deadline = None if milliseconds is None else started + milliseconds / 1000
        self._extended = 0
        self._grown = 0
        self._seconds = 0.0
        self._timed = 0
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
            self._extended += len(outcome.options) if isinstance(outcome, Extended) else 0

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

    def timed(self, began: float) -> None:
        """A simulation that began at `began` has ended."""
        if self._deadline is not None:
            self._seconds += self._clock() - began
            self._timed += 1

    @property
    def tokens_left(self) -> float:
        limit = self._budget.tokens
        return float("inf") if limit is None else limit - self.spent

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
        """The limit that leaves just enough to complete one trajectory, if one does.

        Simulations under way are taken to cost one option each.
        """
        if self._budget.tokens is not None and self._extended:
            options = self.flying + self._options_to_finish(tree)
            if self.tokens_left <= options * self.option_cost:
                return "tokens"
        if self._deadline is not None and self._timed:
            seconds = self._seconds / self._timed * self._options_to_finish(tree)
            if self._deadline - self._clock() <= _TIME_MARGIN * seconds:
                return "deadline"
        return None

    def affordable_paths(self, tree: Tree) -> float:
        """Completions that the tokens left pay for, at the cost that options had so far."""
        return self.tokens_left / (self.option_cost * self._options_to_finish(tree))

    @property
    def option_cost(self) -> float:
        """Mean spent tokens of an option, with its scores and rollouts."""
        if self._extended:
            return max(1.0, self._grown / self._extended)
        return float(self._max_option)

    def _options_to_finish(self, tree: Tree) -> int:
        """Options of a whole trajectory, when none was seen yet: twice the depth reached, since
        there is more below than what was seen, but at least four; at most `max_depth`."""
        return min(self._max_depth, max(4, 2 * tree.depth))
