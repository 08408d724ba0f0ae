"""What options have cost so far, and what further ones are expected to cost."""

from __future__ import annotations

from mcts_core.search.work import Extended, Failed, Opened, Outcome, RolledOut

_LENGTH_MARGIN = 2
"""Options that are drawn beside others are given room for so many times the mean length."""


class Costs:
    """Means over the options of a search, in tokens of all models."""

    __slots__ = ("_grown", "_longest", "longest_rollout", "models", "most", "options", "tokens")

    def __init__(self, longest: int, readings: int) -> None:
        """`longest`: the most tokens that an option may have; `readings`: how many models of
        critics read an option's tokens beside the policy."""
        self._longest = longest
        self._grown = 0
        self.models = 1 + readings
        """That every token of an option goes through."""
        self.options = 0
        """Drawn so far."""
        self.tokens = 0
        """Of all of them."""
        self.most = 0
        """Of the longest."""
        self.longest_rollout = 0

    def take(self, outcome: Outcome) -> None:
        """Counts what grew the tree: anything but the prompt, and what failed."""
        if isinstance(outcome, Opened | Failed):
            return
        self._grown += outcome.spent
        if isinstance(outcome, RolledOut):
            self.longest_rollout = max(self.longest_rollout, len(outcome.tokens))
        if isinstance(outcome, Extended):
            self.options += len(outcome.options)
            lengths = [len(option.tokens) for option in outcome.options]
            self.tokens += sum(lengths)
            self.most = max(self.most, *lengths)

    @property
    def option(self) -> float:
        """Mean of an option, with its scores and rollouts."""
        if self.options:
            return max(1.0, self._grown / self.options)
        return float(self._longest)

    @property
    def beside(self) -> float:
        """Mean of what an option costs beside its own tokens: rollouts, and critics that read
        whole trajectories."""
        if not self.options:
            return 0.0
        return max(0.0, (self._grown - self.tokens * self.models) / self.options)

    @property
    def length(self) -> float:
        """Tokens that an option beside others must have room for: hardly any is longer, and a few
        that are must not make the search as narrow as if all were."""
        if self.options:
            return min(self.most, _LENGTH_MARGIN * self.tokens / self.options)
        return float(self._longest)

    @property
    def roomy(self) -> float:
        """Of an option of that `length`."""
        return self.length * self.models + self.beside

    @property
    def high(self) -> float:
        """Of an option as long as the longest so far."""
        return self.option * self.most * self.options / self.tokens if self.options else self.option
