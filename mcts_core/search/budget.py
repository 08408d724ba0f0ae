"""The budget: what was used, and whether a limit is reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, inf

from mcts_core.search.costs import Costs
from mcts_core.search.parameters import SearchParameters
from mcts_core.search.search import StopReason
from mcts_core.search.tree import Tree
from mcts_core.search.work import Extend, Failed, Opened, Option, Outcome, Work


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
        "_max_tokens",
        "_opened",
        "_reservations",
        "_reserved",
        "_started",
        "costs",
        "first_seconds",
        "flying",
        "launched",
        "pace",
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
        self._reservations: dict[int, int] = {}
        self._reserved = 0
        self._opened = 0
        self._max_tokens = max_tokens
        self._clock = clock
        self._started = started
        milliseconds = parameters.budget.deadline_ms
        self._deadline = None if milliseconds is None else started + milliseconds / 1000
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
        self.pace = 0.0
        """Seconds for a token of work that draws one after the other, as seen last; 0 where there
        is no deadline to be met."""

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
            self.pace = (self.pace + pace) / 2 if self.pace else pace

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

    @property
    def last_room(self) -> float:
        """As `room`, once `finish` has allowed more."""
        return self._last_ceiling() - self.spent - self._reserved

    @property
    def seconds_left(self) -> float:
        """To the deadline; infinite without one."""
        return inf if self._deadline is None else self._deadline - self._clock()

    def finish(self) -> None:
        """From now on the search may cost as much as one plain completion at least: its prompt and
        `max_tokens`."""
        self._ceiling = self._last_ceiling()

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

    def _last_ceiling(self) -> float:
        return max(self._ceiling, self._opened + self._max_tokens)
