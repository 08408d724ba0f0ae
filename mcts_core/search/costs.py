"""What options have cost so far, and what further ones are expected to cost."""

from __future__ import annotations

from mcts_core.search.work import Extended, Outcome, RolledOut

_LENGTH_MARGIN = 2
"""Options that are drawn beside others are given room for so many times the mean length."""


class Costs:
    """Means over the options of a search, in tokens of all models.

    They are asked for several times between two outcomes, and so taken once for each.
    """

    __slots__ = (
        "_grown",
        "_rolled",
        "beside",
        "length",
        "longest",
        "longest_rollout",
        "models",
        "option",
        "options",
        "roomy",
        "token",
        "tokens",
    )

    def __init__(self, longest: int, readings: int) -> None:
        """`longest`: the most tokens that an option may have; `readings`: how many models of
        critics read an option's tokens beside the policy."""
        self._grown = 0
        self._rolled = 0
        self.models = 1 + readings
        """That every token of an option goes through."""
        self.options = 0
        """Drawn so far."""
        self.tokens = 0
        """Of all of them."""
        self.longest = longest
        """Tokens of the longest option so far; before the first, the most that one may have."""
        self.longest_rollout = 0
        self.option = float(longest)
        """Mean of an option, with its scores and rollouts; before the first, its most tokens."""
        self.beside = 0.0
        """Mean of what an option costs beside its own tokens: rollouts, and critics that read
        whole trajectories."""
        self.length = float(longest)
        """Tokens that an option beside others must have room for: hardly any is longer, and a few
        that are must not make the search as narrow as if all were."""
        self.roomy = self.length * self.models
        """Of an option of that `length`."""
        self.token = float(self.models)
        """Mean of an option's token, with scores but without rollouts: what it costs to finish a
        trajectory."""

    def take(self, outcome: Outcome) -> None:
        """Counts what has grown the tree."""
        self._grown += outcome.spent
        if isinstance(outcome, Extended):
            longest = 0 if not self.options else self.longest
            for option in outcome.options:
                length = len(option.tokens)
                self.tokens += length
                if length > longest:
                    longest = length
            if outcome.options:
                self.longest = longest
            self.options += len(outcome.options)
        elif isinstance(outcome, RolledOut):
            self._rolled += outcome.spent
            self.longest_rollout = max(self.longest_rollout, len(outcome.tokens))
        if self.options:
            self._average()

    def end_rollouts(self) -> None:
        """There will be no more rollouts: the means are those without them."""
        self._grown -= self._rolled
        self._rolled = 0
        if self.options:
            self._average()

    def _average(self) -> None:
        mean = self.tokens / self.options
        own = mean * self.models
        each = self._grown / self.options
        self.option = each if each > 1.0 else 1.0
        self.beside = each - own if each > own else 0.0
        roomy = _LENGTH_MARGIN * mean
        self.length = roomy if roomy < self.longest else float(self.longest)
        self.roomy = self.length * self.models + self.beside
        plain = max(1.0, each - self._rolled / self.options)
        self.token = plain / mean
